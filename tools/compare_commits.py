"""Time benchmarks of two checkouts in turns, so that what else the machine does slows both alike.

    python tools/compare_commits.py BEFORE AFTER --out FILE.json [--turns 3] step infer "step data=world --batch 16"

Each benchmark is the words after ``sdst bench``. Both checkouts run in this Python, with the packages that it has.
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PROGRAM = "import sys; from sdst.cli import main; sys.exit(main())"
SIDES = ("before", "after")


def run(checkout: Path, benchmark: str) -> dict[str, Any]:
    """The JSON that a benchmark writes."""
    places = {"SDST_CONF": checkout / "conf", "SDST_EXPERIMENTS": checkout / "experiments"}
    environment = os.environ | {name: str(path) for name, path in places.items()}
    environment["PYTHONPATH"] = str(checkout / "src")
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["bench", *shlex.split(benchmark), "--out", folder]
        command = [sys.executable, "-c", PROGRAM, *arguments]
        subprocess.run(command, cwd=checkout, env=environment, stdout=subprocess.DEVNULL, check=True)
        (file,) = Path(folder).glob("*.json")
        result: dict[str, Any] = json.loads(file.read_text())
    return result


def medians(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Name -> median, of each measured quantity of each row; a row is named by its texts and whole numbers."""
    found = {}
    for row in rows:
        name = ", ".join(str(value) for value in row.values() if isinstance(value, str | int))
        for key, value in row.items():
            if isinstance(value, dict) and "median" in value:
                found[f"{name}: {key.replace('_', ' ')}"] = value["median"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Time benchmarks of two checkouts in turns.")
    parser.add_argument("before", type=Path, help="folder of the first checkout")
    parser.add_argument("after", type=Path, help="folder of the second checkout")
    parser.add_argument("benchmarks", nargs="+", help="words after `sdst bench`, each benchmark in quotes")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--turns", type=int, default=3, help="turns of both checkouts (default: %(default)s)")
    args = parser.parse_args()
    checkouts = dict(zip(SIDES, (args.before.resolve(), args.after.resolve()), strict=True))
    report: dict[str, Any] = {"turns": args.turns, "benchmarks": {}}
    for benchmark in args.benchmarks:
        turns: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
        for _ in range(args.turns):
            for side, checkout in checkouts.items():
                result = run(checkout, benchmark)
                turns[side].append(medians(result["rows"]))
                report |= {"machine": result["machine"], f"{side} commit": result["git"]}
        rows = {
            name: {side: statistics.median(turn[name] for turn in turns[side]) for side in SIDES}
            | {f"{side}, each turn": [turn[name] for turn in turns[side]] for side in SIDES}
            for name in turns["after"][0]
            if all(name in turn for side in SIDES for turn in turns[side])
        }
        report["benchmarks"][benchmark] = rows
        for side, measured in turns.items():
            for name in sorted(set(measured[0]) - set(rows)):
                sys.stdout.write(f"{benchmark} | {name} | not compared: only {side} has it in every turn\n")
        args.out.write_text(json.dumps(report, indent=1) + "\n")
        for name, row in rows.items():
            sys.stdout.write(f"{benchmark} | {name} | {row['before']:.4f} | {row['after']:.4f}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
