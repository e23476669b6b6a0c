"""Tab. D on this machine: measurements of ``sdst bench step`` at the paper's sizes, with random features."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sdst.errors import UserError

MEASURED = Path("results/bench/step.json")
"""Path relative to the folder of experiments."""
COLUMNS = (
    "# Params (M)",
    "saved for backward (GB)",
    "peak memory (GB)",
    "Runtime (it/s)",
    "slowest and fastest",
)


def describe(experiments: Path) -> str:
    """A Markdown section with one line per configuration; "" if nothing was measured.

    Args:
        experiments: Folder of the experiments; its results contain those of the benchmark.

    Raises:
        UserError: The file was not written by ``sdst bench step``.
    """
    path = experiments / MEASURED
    if not path.is_file():
        return ""
    try:
        measured = json.loads(path.read_text(encoding="utf-8"))
        threads = measured["threads"]
        machine = f"{measured['machine']['cpu']}, {threads} {'thread' if threads == 1 else 'threads'}"
        commit = measured["git"]["commit"][:10] if measured["git"] else "unknown"
        # Rows without share_of_gemm are ratios of configurations.
        rows = [_row(row) for row in measured["rows"] if "share_of_gemm" in row]
        command = " ".join(["sdst", *measured["command"][1:]])  # without the folder of the program
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(f"{path}: not written by sdst bench step ({error!r}); measure again") from error
    return "\n".join(
        [
            "## A training step on this machine",
            "",
            f"Measured by `{command}` on {machine}, commit {commit}. Features are random; by default, batches have 32 "
            "queries and the paper's sizes (75 clips, 16 tokens, 30 moment queries, 4 levels, 768/1024). Memory is "
            "that of the whole process.",
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
