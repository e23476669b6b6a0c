"""Traces of predicted moments: their references and sampling points at each level (Sec. 3.3.3, Fig. 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from sdst.config.schema import Decoding
from sdst.console.progress import progress_bars
from sdst.errors import UserError
from sdst.inference.stored import longer_features, open_matching_store, run_model
from sdst.models.decoding import fit_windows, raw_moments
from sdst.models.sdst import SDST
from sdst.spans import cw_to_se
from sdst.training import checkpoint
from sdst.training.run_folder import RunFolder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from sdst.show.runs import FinishedRun
    from sdst.types import Output, Prediction, Qid, Record

SAME_SECONDS = 0.05
"""Tolerance when a moment is recomputed, because training may have run in half precision."""


@dataclass(frozen=True)
class Trace:
    """Refinement of one moment query.

    Attributes:
        references: Start and end in seconds of R^0..R^K; they may lie outside the video.
        points: Attention-weighted mean of the sampling points in seconds, for each level and head; empty if the
            attention has no sampling points.
    """

    references: list[list[float]]
    points: list[list[float]]


def trace_moments(
    run: FinishedRun, records: Sequence[Record], predictions: Mapping[Qid, Prediction], count: int
) -> dict[Qid, list[Trace | None]]:
    """Recompute the best checkpoint's output and find the first predicted moments of every query in it.

    Args:
        run: Run of an SDST model.
        records: Annotated queries of a split.
        predictions: Predictions of the run for the same queries.
        count: Number of moments to trace per query.

    Returns:
        qid -> a trace for each of its first moments; None if no moment query of the model ends at that moment.

    Raises:
        UserError: The model is not SDST, or its checkpoint or features are missing or do not match.
    """
    model, config, recipe = checkpoint.load(RunFolder(run.folder).best)
    if not isinstance(model, SDST):
        raise UserError(f"model {type(model).__name__} does not refine references")
    store = open_matching_store(str(run.config.data.features), recipe)
    store.require([record.vid for record in records], [record.qid for record in records])
    decoding = Decoding(**config["decode"])
    traces = {}
    with progress_bars() as progress:
        task = progress.add_task(f"{run.name}: refinement", total=len(records))
        longer = longer_features(config["data"])
        outputs = run_model(model, records, store, recipe["clip_seconds"], longer=longer, with_offsets=True)
        for batch, output in outputs:
            durations = torch.tensor([record.duration for record in batch.records], dtype=torch.float64)
            references, points = _in_seconds(output, durations)
            windows_se, scores = raw_moments(output, durations, decoding)
            windows_se = fit_windows(windows_se, durations, decoding)
            for index, record in enumerate(batch.records):
                wanted = torch.from_numpy(predictions[record.qid].windows[:count, :2])
                traces[record.qid] = [
                    None
                    if query is None
                    else Trace(
                        references[index, :, query].round(decimals=2).tolist(),
                        [] if points is None else points[index, :, query].round(decimals=2).tolist(),
                    )
                    for query in find_queries(windows_se[index], scores[index], wanted)
                ]
            progress.advance(task, len(batch))
    return traces


def find_queries(windows_se: Tensor, scores: Tensor, wanted: Tensor) -> list[int | None]:
    """Find the moment query of each predicted moment. NMS changes scores and order, but not bounds.

    Among queries with the same bounds, the one with the higher score comes first, as in NMS.

    Args:
        windows_se: (M, 2) moments of the queries, start and end in seconds.
        scores: (M,) scores before NMS.
        wanted: (N, 2) predicted moments in seconds, best first.

    Returns:
        N distinct indices of queries; None for a moment without an unused matching query.
    """
    found: list[int | None] = []
    left = scores.clone()
    for window in wanted:
        same = ((windows_se - window).abs() <= SAME_SECONDS).all(dim=-1) & (left > -torch.inf)
        query = int(left.masked_fill(~same, -torch.inf).argmax()) if same.any() else None
        if query is not None:
            left[query] = -torch.inf
        found.append(query)
    return found


def _in_seconds(output: Output, durations: Tensor) -> tuple[Tensor, Tensor | None]:
    """References (B, K + 1, M, 2), start and end, and mean sampling points (B, K, M, H) or None, both float64."""
    assert output.initial_references is not None
    references_cw = torch.cat([output.initial_references.unsqueeze(1), output.references], dim=1).double()
    seconds = durations[:, None, None, None]
    references_se = cw_to_se(references_cw) * seconds
    if output.offsets is None:
        return references_se, None
    # Offsets of a level are relative to the centre of its input reference, in half widths.
    centre, half_width = references_cw[:, :-1, :, :1], references_cw[:, :-1, :, 1:] / 2
    return references_se, (centre + output.offsets.double() * half_width) * seconds
