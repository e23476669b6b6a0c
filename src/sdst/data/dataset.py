"""One sample per (video, query): features of the wanted layers, moments, saliency target, positive clip."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch.utils.data import Dataset

from sdst.data.annotations import LABELLED_CLIP_SECONDS, clips_of, label_saliency, moments_inside
from sdst.errors import UserError
from sdst.spans import count_clips, regrid, se_to_cw

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from sdst.data.store import FeatureStore
    from sdst.types import Record

MOST_CUT = 0.5
"""Share of the rows above which longer features are not cut, because their clips must be shorter than stated."""


@dataclass
class Sample:
    """One element of a batch, before :func:`sdst.data.collate.collate` pads it.

    Attributes:
        record: The annotation.
        video: (K, T, Dv) float16 features of the clips.
        text: (K, L, Dt) float16 features of the query tokens.
        num_clips: Duration / clip length, not rounded.
        moments: (G, 2) float32 (centre, width), divided by the duration.
        saliency: (T,) float32 target in [0, 1].
        positive_clip: A clip with saliency > 0, or -1 if there is none.
        negative_clip: A clip outside all moments, or -1 if there is none.
    """

    record: Record
    video: NDArray[np.float16]
    text: NDArray[np.float16]
    num_clips: float
    moments: NDArray[np.float32]
    saliency: NDArray[np.float32]
    positive_clip: int
    negative_clip: int


@dataclass
class Target:
    """What a sample's annotation says about its clips.

    Attributes:
        moments: (G, 2) float32 (centre, width), divided by the duration.
        saliency: (T,) float32 target in [0, 1].
        salient: Clips with saliency > 0.
        outside: Clips outside all moments.
    """

    moments: NDArray[np.float32]
    saliency: NDArray[np.float32]
    salient: NDArray[np.int64]
    outside: NDArray[np.int64]


def usable_clips(stored: int, record: Record, clip_seconds: float, *, cut: bool = False) -> int:
    """How many of a video's ``stored`` clips a sample uses.

    Real files differ from their annotated duration by a fraction of a clip, so one clip more or less is normal: an
    extra clip is trimmed, and a missing one leaves the end of the video without features. A larger difference means
    that features and annotations have different clip lengths or different videos. Features of a video with labels per
    clip have one clip per label, as released, or as many as the duration says; then labels and saliency are regridded.

    Args:
        stored: Number of clips in the feature file.
        record: The annotation.
        clip_seconds: Clip length, in seconds.
        cut: Whether to trim any number of extra clips.

    Raises:
        UserError: The stored clips and the expected ones differ by more than one clip.
    """
    expected = count_clips(clips_of(record, clip_seconds, stored), 1.0)
    if expected - stored > 1 or (stored - expected > 1 and not cut):
        raise UserError(
            f"features of video {record.vid}: {stored} clips, but {record.duration:g} s are {expected} clips of "
            f"{clip_seconds:g} s; check data.clip_seconds and that the features belong to these annotations"
        )
    return min(stored, expected)


def saliency_target(record: Record, num_clips: int, clip_seconds: float) -> NDArray[np.float32]:
    """(num_clips,) target in [0, 1], zeros for a record without labels (App. A, B).

    With annotated saliency, the target is the sum of a clip's three scores / 12, or what ``label_saliency`` makes of
    labels per clip, on the grid of the features. Without it, a clip is 1 inside a moment and 0 outside. A clip is
    inside if the overlap is at least half of the clip, or half of a moment shorter than a clip, so that every moment
    covered by clips has a positive clip.
    """
    target = np.zeros(num_clips, dtype=np.float32)
    if record.clip_scores is not None:
        # Each score covers 2 s of video, whatever the length of feature clips.
        scored = ((np.arange(num_clips) + 0.5) * clip_seconds / LABELLED_CLIP_SECONDS).astype(int)
        known = scored < len(record.clip_scores)
        target[known] = record.clip_scores[scored[known]].sum(axis=1) / 12
    elif record.clip_labels is not None:
        target[:] = regrid(label_saliency(record.clip_labels), num_clips)
    elif record.windows is not None:
        starts = np.arange(num_clips) * clip_seconds
        for start, end in moments_inside(record):
            overlap = np.minimum(starts + clip_seconds, end) - np.maximum(starts, start)
            target[overlap >= min(clip_seconds, end - start) / 2] = 1
    return target


def _longer_features(
    records: Sequence[Record], num_stored: Mapping[str, int], clip_seconds: float
) -> UserError:
    """The error about features that are more than a clip longer than annotated: how many, and the first three."""
    expected = {record.vid: count_clips(record.duration, clip_seconds) for record in records}
    longer = [vid for vid in expected if num_stored[vid] - expected[vid] > 1]
    first = ", ".join(f"{vid}: {num_stored[vid]} clips, not {expected[vid]}" for vid in longer[:3])
    return UserError(
        f"features of {len(longer)} of {len(expected)} videos are more than a clip longer than annotated "
        f"({first}{', ...' if len(longer) > 3 else ''}); data.longer=cut uses the annotated part, "
        "data.longer=leave_out leaves their rows out; if most are longer, check data.clip_seconds"
    )


class GroundingDataset(Dataset[Sample]):
    """Records with their features.

    A key is (pass, index). In training the positive and the negative clip are drawn from a generator seeded by (seed,
    pass, index), so they depend on neither workers nor batches. In evaluation each is the most salient
    candidate, the first one if several are.

    Args:
        records: Annotations; every video and query must be in the store.
        store: Features of the wanted layers.
        clip_seconds: Clip length, in seconds.
        seed: Seed of the training draw; None in evaluation.
        longer: What to do if features are more than a clip longer than annotated: ``refuse`` them, ``cut`` them to the
            annotation unless most are longer, or ``leave_out`` their rows.

    Attributes:
        records: The annotations in use.
        lengths: How many samples were ``trimmed`` by a clip, and how many are ``short`` of one.
        longer: Number of samples that were cut or left out because of ``longer``.
        num_clips: T of each record.
        whole_clips: Length of each record's video in clips, not rounded.

    Raises:
        UserError: Features and annotations differ in length, or no record is left.
    """

    def __init__(
        self,
        records: Sequence[Record],
        store: FeatureStore,
        clip_seconds: float,
        seed: int | None,
        longer: str = "refuse",
    ) -> None:
        self.store = store
        self.clip_seconds = clip_seconds
        self.seed = seed
        self._latest: tuple[str, int, NDArray[np.float16]] | None = None
        self.lengths: Counter[str] = Counter()
        self.num_clips: list[int] = []
        self.whole_clips: list[float] = []
        store.require_queries(records)
        num_stored = {vid: store.num_clips(vid) for vid in dict.fromkeys(record.vid for record in records)}
        too_long = [
            record.qid
            for record in records
            if (stored := num_stored[record.vid]) - count_clips(clips_of(record, clip_seconds, stored), 1.0)
            > 1
        ]
        self.longer = len(too_long)
        if too_long and (longer == "refuse" or (longer == "cut" and self.longer > MOST_CUT * len(records))):
            raise _longer_features(records, num_stored, clip_seconds)
        if longer == "leave_out":
            left_out = set(too_long)
            records = [record for record in records if record.qid not in left_out]
            if not records:
                raise UserError(
                    "data.longer=leave_out leaves out every row, because all features are longer than annotated; "
                    "check data.clip_seconds, or use data.longer=cut"
                )
        self.records = records
        for record in records:
            stored = num_stored[record.vid]
            used = usable_clips(stored, record, clip_seconds, cut=longer == "cut")
            self.lengths["trimmed"] += stored == used + 1
            self.whole_clips.append(clips_of(record, clip_seconds, stored))
            self.lengths["short"] += used < count_clips(self.whole_clips[-1], 1.0)
            self.num_clips.append(used)

    def __len__(self) -> int:
        return len(self.records)

    @property
    def max_clips(self) -> int:
        """T of the longest sample."""
        return max(self.num_clips)

    def target(self, index: int) -> Target:
        """The target of a sample, the same in every pass."""
        record, num_clips = self.records[index], self.num_clips[index]
        saliency = saliency_target(record, num_clips, self.clip_seconds)
        moments = se_to_cw(moments_inside(record)) / record.duration
        middle = (np.arange(num_clips) + 0.5) / self.whole_clips[index]
        outside = (np.abs(middle - moments[:, :1]) > moments[:, 1:] / 2).all(axis=0)
        return Target(
            moments.astype(np.float32), saliency, np.flatnonzero(saliency > 0), np.flatnonzero(outside)
        )

    def draw(self, key: tuple[int, int], target: Target) -> tuple[int, int]:
        """The positive and the negative clip of a key, -1 if there is none."""
        generator = None if self.seed is None else np.random.default_rng([self.seed, *key])

        def one_of(clips: NDArray[np.int64]) -> int:
            if len(clips) == 0:
                return -1
            return int(
                clips[target.saliency[clips].argmax()] if generator is None else generator.choice(clips)
            )

        return one_of(target.salient), one_of(target.outside)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        index = key[1]
        record, target = self.records[index], self.target(index)
        positive_clip, negative_clip = self.draw(key, target)
        return Sample(
            record=record,
            video=self._video(record.vid, self.num_clips[index]),
            text=self.store.text(record.qid),
            num_clips=self.whole_clips[index],
            moments=target.moments,
            saliency=target.saliency,
            positive_clip=positive_clip,
            negative_clip=negative_clip,
        )

    def _video(self, vid: str, num_clips: int) -> NDArray[np.float16]:
        """The first clips of a video; repeated calls return the same array, which ``collate`` then stores once."""
        if self._latest is None or self._latest[:2] != (vid, num_clips):
            self._latest = vid, num_clips, self.store.video(vid)[:, :num_clips]
        return self._latest[2]
