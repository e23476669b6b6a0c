"""Samples and batches: lengths, saliency targets, positive clips, sampling order, levels, padding."""

from collections import Counter
from dataclasses import fields
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

import sdst.data.sampler as sampler_module
from helpers.corpus import Corpus
from sdst.config.schema import Levels
from sdst.data.annotations import read_annotations
from sdst.data.collate import collate
from sdst.data.dataset import GroundingDataset, Sample, saliency_target, usable_clips
from sdst.data.sampler import EpochSampler
from sdst.data.store import FeatureStore
from sdst.errors import UserError
from sdst.features.writer import FeatureWriter
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
def test_one_extra_clip_is_trimmed_one_missing_accepted_and_more_refused(
    clips: int, off: float, clip_seconds: float, difference: int
) -> None:
    assume(clips + difference >= 1)
    record = make_record((clips + off) * clip_seconds)
    if abs(difference) > 1:
        with pytest.raises(UserError, match=r"video v.*clip_seconds"):
            usable_clips(clips + difference, record, clip_seconds)
    else:
        assert usable_clips(clips + difference, record, clip_seconds) == min(clips, clips + difference)


def test_longer_features_are_cut_only_if_asked() -> None:
    record = make_record(20.0)
    assert usable_clips(40, record, 2.0, cut=True) == 10
    with pytest.raises(UserError, match="8 clips"):
        usable_clips(8, record, 2.0, cut=True)  # the end of the video is missing


def test_trimmed_and_short_videos_are_counted_and_their_samples_cut(tmp_path: Path) -> None:
    features = np.random.default_rng(0).normal(size=(5, 1, 3)).astype(np.float16)
    with FeatureWriter(
        tmp_path / "f.h5", backbone="b", video_layers=[1], text_layers=[1], clip_seconds=2
    ) as writer:
        writer.write_video("adaptive", "v", features)
        writer.write_text(7, features)
        writer.finish()
    durations = [8, 10, 12, 12, 8, 8]  # seconds; the features are 10 s long
    records = [make_record(duration, [[0, 4]]) for duration in durations]
    dataset = GroundingDataset(records, FeatureStore(tmp_path / "f.h5"), 2.0, seed=None)
    assert (dataset.lengths["trimmed"], dataset.lengths["short"]) == (3, 2)
    for index, used in enumerate([4, 5, 5, 5, 4, 4]):
        sample = dataset[0, index]
        np.testing.assert_array_equal(sample.video[0], features[:used, 0])
        assert len(sample.saliency) == used
        # Times stay divided by the duration, however many clips are stored.
        assert sample.num_clips == durations[index] / 2
        np.testing.assert_allclose(sample.moments, [[2 / durations[index], 4 / durations[index]]], rtol=1e-6)


# --- saliency targets ---


@given(st.integers(1, 30), st.data())
def test_annotated_saliency_is_the_sum_of_scores_over_12(num_clips: int, data: st.DataObject) -> None:
    scores = data.draw(st.lists(st.lists(st.integers(0, 4), min_size=3, max_size=3), min_size=num_clips))
    target = saliency_target(make_record(2 * len(scores), [[0, 2]], scores), num_clips, 2.0)
    np.testing.assert_allclose(target, [sum(row) / 12 for row in scores[:num_clips]], rtol=1e-6)


@pytest.mark.parametrize("clip_seconds", [0.5, 1.0, 4.0])
def test_annotated_saliency_is_that_at_the_clip_centre_if_clips_are_not_2_s(clip_seconds: float) -> None:
    scores = np.random.default_rng(0).integers(0, 5, (8, 3))
    num_clips = int(16 / clip_seconds)
    target = saliency_target(make_record(16, [[0, 2]], scores), num_clips, clip_seconds)
    for clip in range(num_clips):
        centre = clip * clip_seconds + clip_seconds / 2
        (label,) = [i for i in range(8) if 2 * i <= centre < 2 * i + 2]
        assert target[clip] == pytest.approx(scores[label].sum() / 12)


quarters = st.integers(0, 80).map(lambda n: n / 4)  # exact in binary, so that halves can be compared
windows = st.lists(st.tuples(quarters, quarters).filter(lambda w: w[0] < w[1]), min_size=1, max_size=3)


@given(windows, st.sampled_from([0.5, 1.0, 2.0, 4.0]))
def test_without_scores_a_clip_counts_if_half_of_it_or_of_a_shorter_moment_is_inside(
    moments: list[tuple[float, float]], clip_seconds: float
) -> None:
    num_clips = int(20 / clip_seconds)
    target = saliency_target(make_record(20, moments), num_clips, clip_seconds)
    for clip in range(num_clips):
        inside = False
        for start, end in moments:
            grid = np.arange(clip * clip_seconds, (clip + 1) * clip_seconds, 0.125)
            overlap = sum(start <= moment < end for moment in grid) * 0.125
            inside |= overlap >= min(clip_seconds, end - start) / 2
        assert target[clip] == inside
    for start, end in moments:  # every moment has a positive clip
        first, last = int(start // clip_seconds), int(np.ceil(end / clip_seconds))
        assert target[first:last].any()


def test_a_record_without_labels_has_no_target_and_no_positive_clip(corpus: Corpus) -> None:
    (known, *_) = read_annotations(corpus.paths["val"]).records
    record = Record(known.qid, known.vid, known.query, known.duration)
    sample = GroundingDataset([record], FeatureStore(corpus.features), 2.0, seed=3)[0, 0]
    assert not sample.saliency.any()
    assert (sample.positive_clip, sample.moments.shape) == (-1, (0, 2))


# --- positive clips ---


def positives(corpus: Corpus, seed: int | None, epoch: int, batch_size: int = 4, workers: int = 0) -> dict:
    records = read_annotations(corpus.paths["train"]).records
    dataset = GroundingDataset(records, FeatureStore(corpus.features), 2.0, seed)
    sampler = EpochSampler([1] * len(records), seed=batch_size)  # another order for each batch size
    sampler.set_epoch(epoch)
    loader = DataLoader(dataset, batch_size, sampler=sampler, num_workers=workers, collate_fn=collate)
    found = {}
    for batch in loader:
        for record, positive, saliency in zip(
            batch.records, batch.positive_clip, batch.saliency, strict=True
        ):
            assert saliency[positive] > 0
            if seed is None:
                assert saliency[positive] == saliency.max()
            found[record.qid] = int(positive)
    return found


def test_positive_clips_follow_from_seed_epoch_and_index_alone(corpus: Corpus) -> None:
    drawn = positives(corpus, seed=1, epoch=0)
    assert positives(corpus, seed=1, epoch=0, batch_size=3, workers=2) == drawn
    others = [positives(corpus, seed=1, epoch=epoch) for epoch in range(1, 6)]
    assert any(other != drawn for other in others)
    assert any(positives(corpus, seed=seed, epoch=0) != drawn for seed in range(2, 6))
    every = read_annotations(corpus.paths["train"]).records
    wide = next(record for record in every if (record.clip_scores.sum(axis=1) > 0).sum() > 1)
    assert len({other[wide.qid] for other in [drawn, *others]}) > 1  # all positive clips get their turn


@pytest.mark.parametrize("seed", [None, 1])
def test_negative_clips_lie_outside_all_moments(corpus: Corpus, seed: int | None) -> None:
    records = read_annotations(corpus.paths["train"]).records
    dataset = GroundingDataset(records, FeatureStore(corpus.features), 2.0, seed)
    drawn = set()
    for index, record in enumerate(records):
        middles = 2.0 * np.arange(dataset.num_clips[index]) + 1
        outside = [
            clip
            for clip, at in enumerate(middles)
            if not any(start <= at <= end for start, end in record.windows)
        ]
        for number in range(8):
            clip = dataset[number, index].negative_clip
            assert clip in outside if outside else clip == -1
            drawn.add((index, clip))
    assert len(drawn) > len(records) or seed is None  # other clips in other passes


def test_evaluation_takes_the_most_salient_clip_in_every_epoch(corpus: Corpus) -> None:
    assert positives(corpus, seed=None, epoch=0) == positives(corpus, seed=None, epoch=1)


# --- order ---


def ranks(monkeypatch: pytest.MonkeyPatch, sampler: EpochSampler, world: int) -> list[list[tuple[int, int]]]:
    shares = []
    for rank in range(world):
        monkeypatch.setattr(sampler_module, "_rank_and_world", lambda rank=rank: (rank, world))
        shares.append(list(sampler))
        assert len(sampler) == len(shares[-1])
    return shares


@pytest.mark.parametrize("size", [1, 5, 12])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_share_an_evaluation_split_without_repeats_and_a_training_split_evenly(
    monkeypatch: pytest.MonkeyPatch, size: int, world: int
) -> None:
    shares = ranks(monkeypatch, EpochSampler([1] * size, seed=None), world)
    assert sorted(key for share in shares for key in share) == [(0, index) for index in range(size)]
    shares = ranks(monkeypatch, EpochSampler([1] * size, seed=0), world)
    assert len({len(share) for share in shares}) == 1
    indices = [index for share in shares for _, index in share]
    assert set(indices) == set(range(size))
    assert len(indices) - size < world


def test_training_order_is_a_permutation_drawn_from_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[tuple[int, int]]:
        sampler = EpochSampler([1] * 50, seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    first = order(0, 3)
    assert sorted(first) == [(3, index) for index in range(50)]
    assert first != sorted(first)
    assert first == order(0, 3)
    drawn = np.random.default_rng([0, 3]).permutation(50)  # stored runs resume with this order
    assert [index for _, index in first] == drawn.tolist()
    indices = [index for _, index in first]
    assert indices != [index for _, index in order(0, 4)]
    assert indices != [index for _, index in order(1, 3)]
    assert list(EpochSampler([3, 1, 2, 1], None)) == [(0, 1), (0, 3), (0, 2), (0, 0)]


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("repeat", [1, 2, 4])
def test_repeated_epochs_take_every_query_so_often_in_an_order_of_its_own_each_time(
    monkeypatch: pytest.MonkeyPatch, repeat: int, world: int
) -> None:
    size = 7
    sampler = EpochSampler([1] * size, 5, repeat)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        shares = ranks(monkeypatch, sampler, world)
        assert {len(share) for share in shares} == {-(-size * repeat // world)}
        drawn = [share[place] for place in range(len(shares[0])) for share in shares]  # as steps take them
        keys, filled = drawn[: size * repeat], drawn[size * repeat :]
        assert filled == keys[: len(filled)]
        assert Counter(index for _, index in keys) == dict.fromkeys(range(size), repeat)
        plain = EpochSampler([1] * size, 5)  # that many epochs of one pass
        monkeypatch.setattr(sampler_module, "_rank_and_world", lambda: (0, 1))
        expected = []
        for number in range(epoch * repeat, (epoch + 1) * repeat):
            plain.set_epoch(number)
            expected += list(plain)
        assert keys == expected
        orders = {tuple(index for _, index in keys[i : i + size]) for i in range(0, size * repeat, size)}
        assert len(orders) == repeat


def test_a_repeated_epoch_continues_where_it_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = EpochSampler([1] * 5, 0, repeat=3)
    whole.set_epoch(2)
    resumed = EpochSampler([1] * 5, 0, repeat=3)
    resumed.resume(2, keys=4)
    for rank in range(2):
        monkeypatch.setattr(sampler_module, "_rank_and_world", lambda rank=rank: (rank, 2))
        assert list(resumed) == list(whole)[4:]
    resumed.set_epoch(3)
    assert len(list(resumed)) == len(resumed)


# --- levels ---


@given(st.integers(1, 5), st.integers(1, 3), st.sampled_from(["intermediate", "last"]), st.booleans())
def test_levels_count_back_from_the_last_layer(k: int, stride: int, source: str, deepest_first: bool) -> None:
    stored = range(21, 41)
    direction = "descending" if deepest_first else "ascending"
    levels = Levels(k, source, stride, direction)
    expected = [40] * k if source == "last" else list(range(40, 0, -stride))[:k]
    assert levels.video_layers(stored) == (expected if deepest_first else expected[::-1])
    neighbours = [40] * k if source == "last" else list(range(40, 40 - k, -1))
    assert levels.text_layers(stored) == (neighbours if deepest_first else neighbours[::-1])
    levels = Levels(k, source, 1, direction, text_stride=stride)
    assert levels.text_layers(stored) == (expected if deepest_first else expected[::-1])


@given(st.integers(1, 5), st.integers(1, 3), st.sampled_from(["ascending", "descending"]))
def test_a_tower_stored_as_one_layer_gives_it_at_every_level(k: int, stride: int, direction: str) -> None:
    levels = Levels(k, "intermediate", stride, direction)
    assert levels.video_layers([40]) == levels.text_layers([40]) == [40] * k


@pytest.mark.parametrize(
    "change", [{"count": 0}, {"stride": 0}, {"text_stride": 0}, {"source": "first"}, {"direction": "up"}]
)
def test_levels_out_of_range_are_refused(change: dict) -> None:
    with pytest.raises(UserError, match=r"levels.*" + next(iter(change))):
        Levels(**change)


# --- batches ---


@st.composite
def samples(draw: st.DrawFn) -> list[Sample]:
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    made = []
    for vid in draw(st.lists(st.sampled_from("abc"), min_size=1, max_size=5)):
        clips, tokens, moments = (draw(st.integers(low, 4)) for low in (1, 1, 0))
        made.append(
            Sample(
                record=make_record(2.0 * clips, vid=vid),
                video=rng.normal(size=(2, clips, 3)).astype(np.float16),
                text=rng.normal(size=(2, tokens, 5)).astype(np.float16),
                num_clips=clips + 0.25,
                moments=rng.uniform(size=(moments, 2)).astype(np.float32),
                saliency=rng.uniform(0.1, 1, clips).astype(np.float32),
                positive_clip=int(rng.integers(-1, clips)),
                negative_clip=int(rng.integers(-1, clips)),
            )
        )
    return made


@given(samples())
def test_collate_pads_with_zeros_and_marks_real_values(made: list[Sample]) -> None:
    batch = collate(made)
    assert len(batch) == len(made)
    for i, sample in enumerate(made):
        assert batch.records[i] is sample.record
        (_, clips, _), (_, tokens, _), moments = sample.video.shape, sample.text.shape, len(sample.moments)
        for values, mask, length, original, axis in (
            (batch.video[i], batch.video_mask[i], clips, sample.video, 1),
            (batch.text[i], batch.text_mask[i], tokens, sample.text, 1),
            (batch.moments[i], batch.moment_mask[i], moments, sample.moments, 0),
            (batch.saliency[i], batch.video_mask[i], clips, sample.saliency, 0),
        ):
            assert mask.tolist() == [place < length for place in range(len(mask))]
            np.testing.assert_array_equal(values.narrow(axis, 0, length), original)
            assert not values.narrow(axis, length, len(mask) - length).any()
            assert values.numpy().dtype == original.dtype
        assert (batch.num_clips[i], batch.positive_clip[i]) == (sample.num_clips, sample.positive_clip)
        assert batch.negative_clip[i] == sample.negative_clip
        for j, other in enumerate(made):
            assert (batch.video_index[i] == batch.video_index[j]) == (sample.record.vid == other.record.vid)
    for mask in (batch.video_mask, batch.text_mask, batch.moment_mask):
        assert mask.sum(dim=1).max() == mask.shape[1]  # no padding beyond the longest sample


def test_a_batch_about_one_video_stores_its_features_once(corpus: Corpus) -> None:
    records = read_annotations(corpus.paths["val"]).records
    dataset = GroundingDataset(records, FeatureStore(corpus.features), 2.0, None)
    one, other = (
        next(i for i, record in enumerate(records) if record.vid == vid) for vid in ("val0", "val1")
    )
    alone = dataset[0, one]
    shared = collate([dataset[0, one], dataset[0, one]])
    assert shared.video.shape[0] == 1
    assert shared.video_mask.shape[0] == shared.text.shape[0] == 2
    np.testing.assert_array_equal(shared.video[0], alone.video)
    mixed = collate([dataset[0, one], dataset[0, other], dataset[0, one]])
    assert mixed.video.shape[0] == 3
    for i in (0, 2):
        np.testing.assert_array_equal(mixed.video[i, :, : alone.video.shape[1]], alone.video)


def test_batch_moves_and_pins_every_tensor(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    records = read_annotations(corpus.paths["val"]).records
    dataset = GroundingDataset(records, FeatureStore(corpus.features), 2.0, None)
    batch = collate([dataset[0, index] for index in range(3)])
    moved = batch.to("meta")
    numbers = count()  # no page-locked memory without a GPU: each tensor becomes a number of its own instead
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: (next(numbers), tensor))
    pinned = batch.pin_memory()
    names = [f.name for f in fields(batch) if f.name != "records"]
    for index, name in enumerate(names):
        assert getattr(moved, name).device.type == "meta"
        number, tensor = getattr(pinned, name)
        assert number == index
        assert tensor is getattr(batch, name)
    assert moved.records is pinned.records is batch.records
