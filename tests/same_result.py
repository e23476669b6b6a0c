"""Whether two runs came to the same result."""

import json
from pathlib import Path
from typing import Any

import torch

from sdst.callbacks import BEST, LAST


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def load(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def assert_equal(a: Any, b: Any) -> None:
    """Equal to the last bit, through dicts and lists of tensors and numbers."""
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_equal(a[key], b[key])
    elif isinstance(a, list | tuple):
        for left, right in zip(a, b, strict=True):
            assert_equal(left, right)
    else:
        assert a == b


def assert_same_result(run: Path, other: Path) -> None:
    """Weights, optimizer, metrics and submissions are equal to the last bit."""
    for name in (LAST, BEST):
        assert_equal(load(run / name)["state_dict"], load(other / name)["state_dict"])
    for key in ("optimizer_states", "lr_schedulers", "global_step", "epoch"):
        assert_equal(load(run / LAST)[key], load(other / LAST)[key])
    results = [read_json(folder / "metrics.json") for folder in (run, other)]
    for result in results:
        del result["fit_seconds"], result["steps_per_second"], result["peak_memory_gb"]
    assert results[0] == results[1]
    for name in ("val_submission.jsonl", "test_submission.jsonl"):
        assert (run / name).read_bytes() == (other / name).read_bytes()
