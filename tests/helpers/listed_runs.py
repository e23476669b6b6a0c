"""Run folders with invented files in every state, for tests of lists of runs."""

import json
from pathlib import Path
from typing import Any

import yaml

METRICS = ("MR-full-R1@0.5", "MR-full-mAP", "HL-min-VeryGood-Hit1")


def write_run(
    folder: Path,
    *,
    data: str = "world",
    model: str = "sdst",
    seed: int = 0,
    lr: float = 1e-4,
    values: tuple[float, ...] | None = (40.0, 30.0, 50.0),
    steps: int = 6,
) -> Path:
    """Write the small files of a run; without values it is not finished."""
    folder.mkdir(parents=True)
    config: dict[str, Any] = {
        "seed": seed,
        "optim": {"lr": lr},
        "model": {"_target_": f"sdst.models.{model}.{model.upper()}", "dim": 16},
        "data": {"name": data, "annotations": {"val": None}},
        "select": {"split": "val", "metric": "MR-full-mAP"},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    words = {"choices": {"data": data, "model": model}, "overrides": [f"optim.lr={lr}", f"seed={seed}"]}
    (folder / "run.json").write_text(json.dumps(words))
    log = folder / "csv" / "version_0" / "metrics.csv"
    log.parent.mkdir(parents=True)
    lines = [f"0,{step},{5 / (step + 1)},{step}" for step in range(steps)]
    log.write_text("\n".join(["epoch,step,train/loss,val/MR-full-mAP", *lines]) + "\n")
    if values is not None:
        numbers = dict(zip(METRICS, values, strict=True))
        content = {
            "dataset": data,
            "simulated": False,
            "epochs": 1,
            "selected": {"split": "val", "metric": "MR-full-mAP", "epoch": 0},
            "best": {"val": numbers, "test": {key: value - 1 for key, value in numbers.items()}},
        }
        (folder / "metrics.json").write_text(json.dumps(content))
    return folder
