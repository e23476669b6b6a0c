"""Decode many videos into batches of clips, in worker processes and bounded memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from sdst.features.video import ClipSpec, VideoError, VideoReader
from sdst.files.orphans import begin_worker

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor


@dataclass(frozen=True, eq=False)
class ClipBatch:
    """Consecutive clips of one video.

    Attributes:
        vid: Name of the video.
        clips: (n, F, 3, S, S) uint8 frames; None if no clip is left.
        frames_decoded: Number of frames decoded for this batch.
        duration: Length of the video in seconds in its last batch; None in earlier ones.
        failure: Why the video cannot be used, in its last batch; its earlier batches must then be discarded.
    """

    vid: str
    clips: Tensor | None
    frames_decoded: int
    duration: float | None = None
    failure: str | None = None


def load_clips(
    videos: Sequence[tuple[str, Path]], spec: ClipSpec, batch_size: int, num_workers: int
) -> DataLoader[ClipBatch]:
    """Decode (vid, path) pairs. Each worker takes every n-th video, so batches of different videos come mixed.

    The batches of one video stay in order, and no batch holds clips of two videos. With ``num_workers`` 0 the
    calling process decodes.
    """
    num_workers = min(num_workers, len(videos))
    return DataLoader(
        _ClipBatches(videos, spec, batch_size),
        batch_size=None,
        num_workers=num_workers,
        in_order=False,
        worker_init_fn=begin_worker,
        # Not "fork", which copies the memory of a process with threads of FFmpeg and PyTorch.
        multiprocessing_context="spawn" if num_workers else None,
    )


class _ClipBatches(IterableDataset[ClipBatch]):
    def __init__(self, videos: Sequence[tuple[str, Path]], spec: ClipSpec, batch_size: int) -> None:
        self._videos = videos
        self._spec = spec
        self._batch_size = batch_size

    def __iter__(self) -> Iterator[ClipBatch]:
        worker = get_worker_info()
        for vid, path in self._videos[worker.id :: worker.num_workers] if worker else self._videos:
            yield from self._decode(vid, VideoReader(path, self._spec))

    def _decode(self, vid: str, reader: VideoReader) -> Iterator[ClipBatch]:
        clips: list[Tensor] = []
        reported = 0
        try:
            for clip in reader:
                clips.append(clip)
                if len(clips) == self._batch_size:
                    yield ClipBatch(vid, torch.stack(clips), reader.frames_decoded - reported)
                    reported = reader.frames_decoded
                    clips.clear()
        except Exception as error:  # whatever error a video causes, the others are still read
            reason = str(error)
            if not isinstance(error, VideoError):
                words = " ".join(f"{type(error).__name__}: {error}".split())
                reason = f"{reader.path}: cannot be read ({words}); convert it with ffmpeg"
            yield ClipBatch(vid, None, reader.frames_decoded - reported, failure=reason)
            return
        rest = torch.stack(clips) if clips else None
        yield ClipBatch(vid, rest, reader.frames_decoded - reported, duration=reader.duration)
