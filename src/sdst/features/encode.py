"""Run the frozen backbone over clips and queries and write its features (eq. 15)."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from sdst.data.info import query_hash
from sdst.features.backbone.backbone import IMAGENET_MEAN, IMAGENET_STD

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from sdst.features.backbone.backbone import Backbone
    from sdst.features.clip_loader import ClipBatch
    from sdst.features.writer import FeatureWriter
    from sdst.types import Record

QUERIES_PER_BATCH = 64


@dataclass
class EncodedVideos:
    """Which videos were encoded, which failed, and how long it took.

    Attributes:
        durations: vid -> seconds, for the videos written.
        failures: vid -> reason, for the videos that cannot be used.
        frames: Number of frames decoded.
        clips: Number of clips encoded.
        seconds: Wall time.
        waiting_seconds: Wall time during which the backbone waited for decoded clips.
    """

    durations: dict[str, float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    frames: int = 0
    clips: int = 0
    seconds: float = 0.0
    waiting_seconds: float = 0.0

    def throughput(self) -> str:
        """One line with rates and the share of time the backbone waited."""
        seconds = max(self.seconds, 1e-9)
        return (
            f"{self.frames} frames decoded ({self.frames / seconds:.0f}/s), "
            f"{self.clips} clips encoded ({self.clips / seconds:.1f}/s), "
            f"backbone waited {self.waiting_seconds / seconds:.0%} of {self.seconds:.1f} s"
        )


def normalise(frames: Tensor) -> Tensor:
    """Convert (n, 3, F, S, S) uint8 clips to the vision tower's float input of the same shape."""
    mean, std = (torch.tensor(values)[:, None, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    # In place: another tensor of this size costs more than the arithmetic.
    return frames.float().div_(255).sub_(mean).div_(std)


def encode_clips(
    backbone: Backbone, clips: Tensor, layers: Sequence[int], poolings: Sequence[str]
) -> dict[str, NDArray[np.float32]]:
    """Features of decoded clips.

    Args:
        backbone: The frozen backbone.
        clips: (n, F, 3, S, S) uint8 frames.
        layers: Layer numbers of the vision tower.
        poolings: Any of ``cls``, ``avg``, ``adaptive``.

    Returns:
        pooling -> (n, n_layers, Dv).
    """
    pooled = backbone.vision(normalise(clips.transpose(1, 2)), layers, poolings)
    return {pooling: states.float().cpu().numpy() for pooling, states in pooled.items()}


def encode_videos(
    backbone: Backbone,
    batches: Iterable[ClipBatch],
    writer: FeatureWriter,
    layers: Sequence[int],
    poolings: Sequence[str],
    advance: Callable[[int], object],
) -> EncodedVideos:
    """Encode decoded videos and write each one when it is complete.

    Args:
        backbone: The frozen backbone.
        batches: Batches of clips; those of different videos may alternate.
        writer: Writer of the feature file.
        layers: Layer numbers of the vision tower.
        poolings: Poolings to write.
        advance: Function called with the number of clips after every batch.
    """
    result = EncodedVideos()
    begun: dict[str, list[dict[str, NDArray[np.float32]]]] = defaultdict(list)
    start = waiting_since = time.perf_counter()
    for batch in batches:
        result.waiting_seconds += time.perf_counter() - waiting_since
        result.frames += batch.frames_decoded
        if batch.clips is not None:
            begun[batch.vid].append(encode_clips(backbone, batch.clips, layers, poolings))
            result.clips += len(batch.clips)
            advance(len(batch.clips))
        if batch.failure is not None:
            begun.pop(batch.vid, None)
            result.failures[batch.vid] = batch.failure
        elif batch.duration is not None:
            parts = begun.pop(batch.vid)
            for pooling in poolings:
                if not writer.has_video(batch.vid, pooling):
                    writer.write_video(pooling, batch.vid, np.concatenate([part[pooling] for part in parts]))
            result.durations[batch.vid] = batch.duration
        waiting_since = time.perf_counter()
    result.seconds = time.perf_counter() - start
    return result


def encode_queries(
    backbone: Backbone,
    records: Sequence[Record],
    writer: FeatureWriter,
    layers: Sequence[int],
    advance: Callable[[int], object],
) -> None:
    """Encode and write the queries that the feature file does not have yet.

    Args:
        backbone: The frozen backbone.
        records: Records whose queries are encoded.
        writer: Writer of the feature file.
        layers: Layer numbers of the text tower.
        advance: Function called with the number of queries after every batch.
    """
    todo = [record for record in records if not writer.has_text(record.qid, query_hash(record.query))]
    for first in range(0, len(todo), QUERIES_PER_BATCH):
        batch = todo[first : first + QUERIES_PER_BATCH]
        states = backbone.text([record.query for record in batch], layers)
        for record, tokens in zip(batch, states, strict=True):
            writer.write_text(record.qid, tokens.float().cpu().numpy(), query_hash(record.query))
        advance(len(batch))
