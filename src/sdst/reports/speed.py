"""Tab. D on the machine at hand: what ``sdst bench step`` measured at the paper's sizes, with random features."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sdst.errors import UserError

MEASURED = Path("results/bench/step.json")
"""Below the folder of experiments."""
COLUMNS = (
    "# Params (M)",
    "saved for backward (GB)",
    "peak memory (GB)",
    "Runtime (it/s)",
    "slowest and fastest",
)


def describe(experiments: Path) -> str:
    """A section of Markdown with one line per configuration; "" where nothing was measured.

    Args:
        experiments: The folder of experiments, whose results have the benchmark's.

    Raises:
        UserError: The file is not one of ``sdst bench step``.
    """
    path = experiments / MEASURED
    if not path.is_file():
        return ""
    try:
        measured = json.loads(path.read_text(encoding="utf-8"))
        machine = f"{measured['machine']['cpu']}, {measured['threads']} threads"
        commit = measured["git"]["commit"][:10] if measured["git"] else "unknown"
        # Without the ratios of configurations.
        rows = [_row(row) for row in measured["rows"] if "share_of_gemm" in row]
        command = " ".join(measured["command"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(f"{path}: not written by sdst bench step ({error!r}); measure again") from error
    return "\n".join(
        [
            "## A training step here",
            "",
            f"Measured by `{command}` on {machine}, commit {commit}: random features, by default in batches of 32 "
            "with the paper's sizes (75 clips, 16 tokens, 30 queries, 4 levels, 768/1024). Memory is that of the "
            "whole process.",
            "",
            f"| | {' | '.join(COLUMNS)} |",
            f"|---|{'---:|' * len(COLUMNS)}",
            *rows,
            "",
        ]
    )


def _row(row: dict[str, Any]) -> str:
    seconds = row["seconds"]
    rates = f"{1 / seconds['highest']:.2f} to {1 / seconds['lowest']:.2f}"
    cells = (
        f"{row['parameters'] / 1e6:.2f}",
        f"{row['saved_mb'] / 1e3:.2f}",
        f"{row['peak_gb']:.2f}",
        f"{1 / seconds['median']:.2f}",
        rates,
    )
    return f"| {row['configuration']} | {' | '.join(cells)} |"
