"""Whether two runs came to the same result."""

import json
from pathlib import Path
from typing import Any

import torch

from sdst.training.run_folder import BEST, LAST

COSTS = ("fit_seconds", "steps_per_second", "peak_memory_gb")


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
    assert_equal(result_of_run(run), result_of_run(other))


def result_of_run(run: Path) -> dict[str, Any]:
    """What a finished run has come to, without what it cost."""
    last, metrics = load(run / LAST), read_json(run / "metrics.json")
    kept = ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch")
    return {
        "last": {key: last[key] for key in kept},
        "best": load(run / BEST)["state_dict"],
        "metrics": {key: value for key, value in metrics.items() if key not in COSTS},
        "predictions": [(run / f"{split}_submission.jsonl").read_bytes() for split in ("val", "test")],
    }
