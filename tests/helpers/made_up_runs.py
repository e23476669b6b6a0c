"""Run folders with invented metrics, as sweeps would write them, for tests of reports."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sdst.sweeps.manifest import manifest
from sdst.sweeps.tables import RUN_FACTS, Experiment


def write_runs(
    runs: Path, experiments: Sequence[Experiment], seeds: Sequence[int] = (0, 1), fit_seconds: float = 60.0
) -> None:
    """Write the files of laptop-scale sweeps; rows with equal overrides share jobs."""
    for experiment in experiments:
        listed = []
        for job in experiment.jobs("laptop"):
            for seed in seeds:
                name = hashlib.sha256(repr((job.overrides, seed)).encode()).hexdigest()[:12]
                place = {"row": job.label, "dataset": job.dataset, "seed": seed}
                listed.append({**place, "identity": name})
                folder = runs / "jobs" / name
                folder.mkdir(parents=True, exist_ok=True)
                keys = [column.key for column in experiment.columns if column.key is not None]
                _write_run(folder, keys, seed, fit_seconds)
        if listed:
            path = manifest(runs, experiment.name, "laptop")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"jobs": listed}))


def _write_run(folder: Path, keys: Sequence[str], seed: int, fit_seconds: float) -> None:
    path = folder / "metrics.json"
    rng = np.random.default_rng([seed, int(folder.name, 16)])
    numbers = {key: round(float(rng.uniform(20, 70)), 2) for key in keys if key not in RUN_FACTS}
    before: dict[str, Any] = json.loads(path.read_text())["best"]["val"] if path.is_file() else {}
    best = before | numbers
    content = {
        "dataset": "world",
        "simulated": False,
        "epochs": 12,
        "fit_seconds": fit_seconds,
        "steps_per_second": 3.25,
        "peak_memory_gb": 0.5,
        "selected": {"split": "val", "metric": "MR-full-mAP", "epoch": 7},
        "best": {"val": best, "test": best},
    }
    path.write_text(json.dumps(content))
    (folder / "run.json").write_text(
        json.dumps({"parameters": {"total": 4_161_092}, "features": {"backbone": "small-world"}})
    )
    (folder / "config.yaml").write_text("data: {annotations: {val: nowhere.jsonl, test: nowhere.jsonl}}\n")
