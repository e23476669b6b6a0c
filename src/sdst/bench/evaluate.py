"""``sdst bench evaluate``: the complete command, and its parts within this process."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from sdst.bench.process import command
from sdst.bench.rounds import interleave, spread
from sdst.data.annotations import read_annotations
from sdst.data.predictions import read_predictions
from sdst.metrics.evaluation import evaluate

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sdst.bench.report import Row


def bench_evaluate(predictions: Path, annotations: Path, rounds: int) -> list[Row]:
    """Seconds of ``sdst evaluate`` on two files, of reading each, and of the metrics alone.

    Raises:
        UserError: A file is invalid.
    """
    read = read_predictions(predictions), read_annotations(annotations).records
    jobs: dict[str, Callable[[], object]] = {
        "sdst evaluate, the whole process": command("evaluate", str(predictions), str(annotations), "--json"),
        "reading the predictions": partial(read_predictions, predictions),
        "reading the annotations": partial(read_annotations, annotations),
        "all metrics": partial(evaluate, *read),
    }
    seconds = interleave(jobs, rounds)
    return [
        {"part": name, "queries": len(read[0]), "seconds": spread(times)} for name, times in seconds.items()
    ]
