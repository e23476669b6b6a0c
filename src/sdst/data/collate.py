"""Samples of different lengths, padded to one batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sdst.types import Batch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from sdst.data.dataset import Sample


def collate(samples: Sequence[Sample]) -> Batch:
    """Pad each axis to the longest sample of the batch; masks are true where a sample has values."""
    # In evaluation, successive queries are mostly about one video, which is then stored and encoded once.
    videos = [sample.video for sample in samples]
    is_one = all(video is videos[0] for video in videos)
    video, video_mask = _pad(videos[:1] if is_one else videos, axis=1)
    text, text_mask = _pad([sample.text for sample in samples], axis=1)
    moments, moment_mask = _pad([sample.moments for sample in samples], axis=0)
    saliency, _ = _pad([sample.saliency for sample in samples], axis=0)
    first_seen: dict[str, int] = {}
    return Batch(
        records=[sample.record for sample in samples],
        video=video,
        video_mask=video_mask.expand(len(samples), -1),
        text=text,
        text_mask=text_mask,
        num_clips=torch.tensor([sample.num_clips for sample in samples], dtype=torch.float32),
        video_index=torch.tensor([first_seen.setdefault(s.record.vid, len(first_seen)) for s in samples]),
        moments=moments,
        moment_mask=moment_mask,
        saliency=saliency,
        positive_clip=torch.tensor([sample.positive_clip for sample in samples]),
        negative_clip=torch.tensor([sample.negative_clip for sample in samples]),
    )


def _pad(arrays: Sequence[NDArray[Any]], axis: int) -> tuple[Tensor, Tensor]:
    """Stack arrays that differ along ``axis``, padded with zeros, beside the (B, longest) mask of real values."""
    lengths = np.array([array.shape[axis] for array in arrays])
    shape = list(arrays[0].shape)
    shape[axis] = int(lengths.max())
    padded = np.empty([len(arrays), *shape], dtype=arrays[0].dtype)
    before = (slice(None),) * axis
    for row, array, length in zip(padded, arrays, lengths, strict=True):
        row[*before, :length] = array
        row[*before, length:] = 0
    mask = np.arange(shape[axis]) < lengths[:, None]
    return torch.from_numpy(padded), torch.from_numpy(mask)
