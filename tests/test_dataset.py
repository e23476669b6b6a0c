"""Samples and batches: lengths, saliency targets, positive clips, sampling order, levels, padding."""

import math
from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

import sdst.data.dataset as dataset_module
from conftest import Corpus
from sdst.data.annotations import read_annotations
from sdst.data.collate import collate
from sdst.data.dataset import EpochSampler, GroundingDataset, Sample, saliency_target, usable_clips
from sdst.data.levels import Levels
from sdst.errors import UserError
from sdst.features.store import FeatureStore
from sdst.spans import count_clips
from sdst.types import Record


def make_record(duration: float, windows: object = None, scores: object = None, vid: str = "v") -> Record:
    return Record(
        qid=7,
        vid=vid,
        query="a dog",
        duration=duration,
        windows=None if windows is None else np.array(windows, dtype=float),
        clip_scores=None if scores is None else np.array(scores),
    )


# --- lengths ---


@given(st.integers(1, 200), st.floats(-0.4, 0.4), st.sampled_from([0.5, 1.0, 2.0]), st.integers(-3, 3))
def test_one_clip_more_is_trimmed_one_less_used_and_more_refused(
    clips: int, off: float, clip_seconds: float, difference: int
) -> None:
    assume(clips + difference >= 1)
    record = make_record((clips + off) * clip_seconds)
    if abs(difference) > 1:
        with pytest.raises(UserError, match="video v.*clip_seconds"):
            usable_clips(clips + difference, record, clip_seconds)
    else:
        assert usable_clips(clips + difference, record, clip_seconds) == min(clips, clips + difference)


def test_dataset_counts_trimmed_and_short_videos_and_cuts_their_features(corpus: Corpus) -> None:
    store = FeatureStore(corpus.features)
    record = read_annotations(corpus.paths["val"]).records[0]
    stored = store.num_clips(record.vid)
    records = [
        make_record(2.0 * (stored + longer), [[0, 2]], vid=record.vid) for longer in (0, 1, 1, -1, -1, -1)
    ]
    dataset = GroundingDataset(records, store, 2.0, seed=None)
    assert (dataset.lengths["short"], dataset.lengths["trimmed"]) == (2, 3)
    whole, _ = store.video(record.vid), store.close() if hasattr(store, "close") else None
    for index, used in enumerate([stored, stored, stored, stored - 1, stored - 1, stored - 1]):
        np.testing.assert_array_equal(dataset.store.video(record.vid)[:, :used], whole[:, :used])
        assert len(dataset.records) == 6
        assert count_clips(records[index].duration, 2.0) in (used, used + 1)


# --- saliency targets ---
