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
    from sdst.types import Record


def collate(samples: Sequence[Sample], pad_to: int = 1) -> Batch:
    """Pad each axis to the longest sample of the batch; masks are true where a sample has values.

    Args:
        samples: The samples.
        pad_to: Padded lengths T, L and G are multiples of it.
    """
    # In evaluation, successive queries are mostly about one video, which is then stored and encoded once.
    videos = [sample.video for sample in samples]
    is_one = all(video is videos[0] for video in videos)
    video, video_mask = pad(videos[:1] if is_one else videos, axis=1, pad_to=pad_to)
    text, text_mask = pad([sample.text for sample in samples], axis=1, pad_to=pad_to)
    moments, moment_mask = pad([sample.moments for sample in samples], axis=0, pad_to=pad_to)
    saliency, _ = pad([sample.saliency for sample in samples], axis=0, pad_to=pad_to)
    records = [sample.record for sample in samples]
    return Batch(
        records=records,
        video=video,
        video_mask=video_mask.expand(len(samples), -1),
        text=text,
        text_mask=text_mask,
        num_clips=torch.tensor([sample.num_clips for sample in samples], dtype=torch.float32),
        video_index=torch.tensor(number_videos(records)),
        moments=moments,
        moment_mask=moment_mask,
        saliency=saliency,
        positive_clip=torch.tensor([sample.positive_clip for sample in samples]),
        negative_clip=torch.tensor([sample.negative_clip for sample in samples]),
    )


def number_videos(records: Sequence[Record]) -> list[int]:
    """A number per record, equal for two of them exactly if they have the same video."""
    first_seen: dict[str, int] = {}
    return [first_seen.setdefault(record.vid, len(first_seen)) for record in records]


def round_up(length: int, pad_to: int) -> int:
    """The smallest multiple of ``pad_to`` that is at least ``length``."""
    return -(-length // pad_to) * pad_to


def pad(arrays: Sequence[NDArray[Any]], axis: int, pad_to: int) -> tuple[Tensor, Tensor]:
    """Stack arrays that differ along ``axis``, padded with zeros, beside the (B, longest) mask of real values."""
    lengths = np.array([array.shape[axis] for array in arrays])
    shape = list(arrays[0].shape)
    shape[axis] = round_up(int(lengths.max()), pad_to)
    padded = np.empty([len(arrays), *shape], dtype=arrays[0].dtype)
    before = (slice(None),) * axis
    for row, array, length in zip(padded, arrays, lengths, strict=True):
        row[*before, :length] = array
        row[*before, length:] = 0
    mask = np.arange(shape[axis]) < lengths[:, None]
    return torch.from_numpy(padded), torch.from_numpy(mask)
