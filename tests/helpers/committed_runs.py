"""Run folders with the numbers of the repository's own runs, from ``experiments/results``."""

import json
from pathlib import Path
from typing import Any

from sdst.sweeps.manifest import Planned, manifest, write_manifest

COMMITTED = Path(__file__).parents[2] / "experiments/results/laptop/runs.jsonl"


def write_committed_runs(runs: Path) -> list[dict[str, Any]]:
    """Write the files that reports read of the committed jobs, and the sweeps' lists; returns the jobs."""
    jobs = [json.loads(line) for line in COMMITTED.read_text(encoding="utf-8").splitlines()]
    planned: dict[str, list[Planned]] = {}
    for job in jobs:
        folder = runs / "jobs" / job["job"]
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text(json.dumps(job["metrics"]))
        (folder / "config.yaml").write_text(
            "data: {annotations: {val: nowhere.jsonl, test: nowhere.jsonl}}\n"
        )
        facts = {key: job[key] for key in ("git", "versions", "machine", "parameters", "features")}
        (folder / "run.json").write_text(json.dumps(facts))
        for table, rows in job["rows"].items():
            planned.setdefault(table, []).extend(
                Planned(label, dataset, job["seed"], job["job"]) for label, dataset in rows
            )
    for table, listed in planned.items():
        write_manifest(manifest(runs, table, "laptop"), listed, "laptop", [])
    return jobs
