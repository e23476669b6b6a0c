"""One training step of several processes that equals the step of a single process.

Each process has a share of the step's queries. Before the losses are computed, the outputs of all are brought together,
so that the normalisers, the negatives of the contrastive losses and the gradient are those of the whole batch.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.nn import functional as F

from sdst.types import Anchors, Batch, Output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from sdst.types import Record


def world_size() -> int:
    """Number of processes that take this step together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def pad_alike(batch: Batch) -> Batch:
    """This process's share of a step, padded to the longest video, query and moments of all shares."""
    if world_size() == 1:
        return batch
    lengths = torch.tensor(
        [batch.video.shape[2], batch.text.shape[2], batch.moments.shape[1]], device=batch.video.device
    )
    dist.all_reduce(lengths, dist.ReduceOp.MAX)
    clips, tokens, moments = lengths.tolist()
    return replace(
        batch,
        video=_pad(batch.video, 2, clips),
        video_mask=_pad(batch.video_mask, 1, clips),
        saliency=_pad(batch.saliency, 1, clips),
        text=_pad(batch.text, 2, tokens),
        text_mask=_pad(batch.text_mask, 1, tokens),
        moments=_pad(batch.moments, 1, moments),
        moment_mask=_pad(batch.moment_mask, 1, moments),
    )


def gather(output: Output, batch: Batch) -> tuple[Output, Batch]:
    """The whole step from this process's share of it, each query once.

    Gradients flow into this process's own outputs alone. Because the processes' gradients are averaged, the loss must
    be multiplied by their number.

    Args:
        output: Output for the share.
        batch: The share, from ``pad_alike``.

    Returns:
        Outputs and batch of all processes, in the order of their ranks; features stay those of this process's share.
    """
    if world_size() == 1:
        return output, batch
    shares: list[Any] = [None] * world_size()
    dist.all_gather_object(shares, batch.records)
    records: list[Record] = [record for share in shares for record in share]
    sizes = [len(share) for share in shares]
    rows = {record.qid: row for row, record in reversed(list(enumerate(records)))}
    # A query that fills up the last step of an epoch is there twice; the first one counts.
    kept = sorted(rows.values())

    def whole(values: Tensor) -> Tensor:
        return _all_rows(values, sizes)[kept]

    def whole_fields(values: Output | Batch, but: Sequence[str]) -> dict[str, Any]:
        found = {f.name: getattr(values, f.name) for f in fields(values) if f.name not in but}
        return {name: whole(value) for name, value in found.items() if isinstance(value, torch.Tensor)}

    anchors = output.anchors and Anchors(
        output.anchors.position, output.anchors.stride, output.anchors.reach, whole(output.anchors.mask)
    )
    kept_records = [records[row] for row in kept]
    videos: dict[str, int] = {}
    video_index = [videos.setdefault(record.vid, len(videos)) for record in kept_records]
    return (
        replace(output, **whole_fields(output, ()), anchors=anchors),
        replace(
            batch,
            **whole_fields(batch, ("video", "text", "video_index")),
            records=kept_records,
            video_index=torch.tensor(video_index, device=batch.video_index.device),
        ),
    )


def _all_rows(values: Tensor, sizes: Sequence[int]) -> Tensor:
    """(sum of sizes, ...) the rows of all processes; this one's keep their gradient.

    ``torchmetrics.utilities.distributed.gather_all_tensors`` does the same with a barrier and an exchange of shapes
    for every tensor. Here the sizes are known, so one exchange each is enough, a dozen times in every step.
    """
    rank = dist.get_rank()
    sent = values.detach()
    if values.dtype == torch.bool:  # not every backend sends bool
        sent = sent.byte()
    sent = _pad(sent, 0, max(sizes)).contiguous()
    parts = [torch.empty_like(sent) for _ in sizes]
    dist.all_gather(parts, sent)
    rows = [part[:size].to(values.dtype) for part, size in zip(parts, sizes, strict=True)]
    rows[rank] = values
    return torch.cat(rows)


def _pad(values: Tensor, axis: int, length: int) -> Tensor:
    """Append zeros up to ``length`` along an axis."""
    behind = [0, 0] * (values.dim() - 1 - axis) + [0, length - values.shape[axis]]
    return F.pad(values, behind)
