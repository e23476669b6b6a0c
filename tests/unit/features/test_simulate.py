"""Simulated features: shapes, determinism, a signal that transfers; and the toy annotations."""

import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

from helpers.shared_data import SHARED, needs_shared
from helpers.toy_annotations import HELD_OUT, THINGS, VERBS, write_toy_annotations
from sdst.cli import main
from sdst.data.annotations import read_annotations
from sdst.data.store import FeatureStore
from sdst.errors import UserError
from sdst.features import simulate
from sdst.features import simulated_concepts as concepts
from sdst.features.simulate import write_simulated
from sdst.features.simulated_concepts import near_miss, query_concept, video_concepts, visibility
from sdst.features.writer import FeatureWriter
from sdst.types import Record

DIMS = {"video_dim": 64, "text_dim": 48}


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Record]]:
    paths = write_toy_annotations(
        tmp_path_factory.mktemp("toy"), num_train=150, num_val=50, num_test=3, seed=0
    )
    return {split: read_annotations(path).records for split, path in paths.items()}


@pytest.fixture(scope="module")
def features(toy: dict[str, list[Record]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("features") / "f.h5"
    write_simulated([record for records in toy.values() for record in records], path, **DIMS)
    return path


def arrays(path: Path) -> dict[str, bytes]:
    store = FeatureStore(path)
    videos = {f"video {vid}": store.video(vid).tobytes() for vid in store.vids()}
    return videos | {f"text {qid}": store.text(qid).tobytes() for qid in store.qids()}


# --- the file ---


def test_shapes_and_attributes(toy: dict[str, list[Record]], features: Path) -> None:
    store = FeatureStore(features)
    assert store.info.simulated
    assert (store.info.video_layers, store.info.text_layers) == ((37, 38, 39, 40), (16, 17, 18, 19))
    for record in toy["val"]:
        assert store.video(record.vid).shape == (4, record.duration / 2, 64)
        assert store.text(record.qid).shape == (4, 1 + len(record.query.split()), 48)  # CLS and words


def test_features_depend_only_on_seed_and_names(
    toy: dict[str, list[Record]], features: Path, tmp_path: Path
) -> None:
    write_simulated(toy["val"][::-1], tmp_path / "val.h5", **DIMS)
    everything = arrays(features)
    alone = arrays(tmp_path / "val.h5")
    assert alone == {key: everything[key] for key in alone}
    write_simulated(toy["val"], tmp_path / "seed1.h5", seed=1, **DIMS)
    other = arrays(tmp_path / "seed1.h5")
    assert other.keys() == alone.keys()
    assert all(other[key] != alone[key] for key in alone)


def test_an_interrupted_simulation_is_continued(
    toy: dict[str, list[Record]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_simulated(toy["test"], tmp_path / "whole.h5", **DIMS)
    write_text, written = FeatureWriter.write_text, []

    def interrupted(self: FeatureWriter, qid: str, *rest: Any) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        write_text(self, qid, *rest)
        written.append(qid)

    monkeypatch.setattr(FeatureWriter, "write_text", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_simulated(toy["test"], tmp_path / "f.h5", **DIMS)
    monkeypatch.undo()
    with pytest.raises(UserError, match="other settings"):
        write_simulated(toy["test"], tmp_path / "f.h5", seed=5, **DIMS)
    write_simulated(toy["test"], tmp_path / "f.h5", **DIMS)
    assert arrays(tmp_path / "f.h5") == arrays(tmp_path / "whole.h5")


def test_an_unfinished_file_of_another_design_is_refused(
    toy: dict[str, list[Record]], features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert FeatureStore(features).info.extra["simulation"].startswith("design 2, seed 0, ")
    with monkeypatch.context() as former:
        former.setattr(simulate, "DESIGN", 1)
        former.setattr(FeatureWriter, "finish", lambda self: None)
        write_simulated(toy["test"], tmp_path / "f.h5", **DIMS)
    with pytest.raises(UserError, match="other settings"):
        write_simulated(toy["test"], tmp_path / "f.h5", **DIMS)


def test_every_pooling_has_features_of_its_own_with_the_same_statistics(
    toy: dict[str, list[Record]], features: Path, tmp_path: Path
) -> None:
    path = tmp_path / "f.h5"
    write_simulated(toy["val"], path, poolings=["cls", "adaptive"], **DIMS)
    store, other = FeatureStore(path), FeatureStore(path, pooling="cls")
    assert store.info.poolings == ("adaptive", "cls")
    sizes = []
    for vid in store.vids():
        assert (store.video(vid) == FeatureStore(features).video(vid)).all()
        assert (store.video(vid) != other.video(vid)).mean() > 0.99
        sizes.append([np.std(values.video(vid).astype(float)) for values in (store, other)])
    np.testing.assert_allclose(*np.mean(sizes, axis=0), rtol=0.1)


def test_command_takes_several_files_with_or_without_labels(tmp_path: Path) -> None:
    paths = write_toy_annotations(tmp_path, num_train=2, num_val=2, num_test=0, seed=3)
    rows = [json.loads(line) for line in paths["val"].read_text().splitlines()]
    bare = tmp_path / "bare.jsonl"
    bare.write_text(
        "\n".join(json.dumps({k: r[k] for k in ("qid", "query", "duration", "vid")}) for r in rows)
    )
    out = str(tmp_path / "f.h5")
    sizes = ["--video-dim", "8", "--text-dim", "9", "--levels", "2", "--clip-seconds", "4"]
    assert main(["features", "simulate", str(paths["train"]), str(bare), "--out", out, *sizes]) == 0
    store = FeatureStore(out)
    assert (store.video_dim, store.text_dim, store.info.video_layers) == (8, 9, (39, 40))
    assert main(["features", "validate", out, "--annotations", str(bare), str(paths["train"])]) == 0


@pytest.mark.parametrize("changes", [{"levels": 0}, {"levels": 20}, {"video_dim": 0}, {"clip_seconds": 0}])
def test_sizes_out_of_range_are_refused(toy: dict[str, list[Record]], tmp_path: Path, changes: dict) -> None:
    with pytest.raises(UserError):
        write_simulated(toy["test"], tmp_path / "f.h5", **changes)
    assert not list(tmp_path.iterdir())


def test_one_qid_for_two_different_rows_is_refused(toy: dict[str, list[Record]], tmp_path: Path) -> None:
    first, second = toy["test"][:2]
    with pytest.raises(UserError, match="two different rows"):
        write_simulated([first, replace(second, qid=first.qid)], tmp_path / "f.h5", **DIMS)


@needs_shared
def test_odd_rows_of_real_files_get_features(tmp_path: Path) -> None:
    names = ("qvhighlights/highlight_val_release", "charades/charades_test_release", "tacos/val")
    for name in names:
        records = read_annotations(SHARED / "annotations" / f"{name}.jsonl").records
        chosen = sorted(records, key=lambda record: len(record.query))[:5] + records[-5:]
        out = tmp_path / f"{Path(name).stem}.h5"
        write_simulated(chosen, out, video_dim=4, text_dim=4, levels=1)
        store = FeatureStore(out)
        store.require((record.vid for record in chosen), (record.qid for record in chosen))
        for record in chosen:
            assert abs(store.video(record.vid).shape[1] - record.duration / 2) <= 1
            assert store.text(record.qid).shape[1] >= 2


# --- the signal ---


@settings(max_examples=50, deadline=None)
@given(
    bounds=st.lists(st.floats(0, 20), min_size=2, max_size=6, unique=True),
    clip_seconds=st.sampled_from([0.5, 1.0, 2.0, 3.3]),
)
def test_visibility_is_the_covered_part_of_each_clip(bounds: list[float], clip_seconds: float) -> None:
    bounds = sorted(bounds)[: len(bounds) // 2 * 2]
    windows = np.array(bounds).reshape(-1, 2)
    num_clips = int(20 / clip_seconds)
    found = visibility(Record(0, "v", "q", 20.0, windows), num_clips, clip_seconds)
    for clip in range(num_clips):
        low, high = clip * clip_seconds, (clip + 1) * clip_seconds
        covered = sum(max(0.0, min(high, end) - max(low, start)) for start, end in windows.tolist())
        assert found[clip] == pytest.approx(covered / clip_seconds, abs=1e-5)


def test_higher_saliency_shows_more() -> None:
    scores = np.array([[0, 0, 0], [0, 0, 0], [2, 2, 2], [4, 4, 4]])
    record = Record(0, "v", "q", 8.0, np.array([[2.0, 8.0]]), scores)
    np.testing.assert_allclose(visibility(record, 4, 2.0), [0, 0.5, 0.75, 1])


def test_shared_words_make_queries_alike_and_stop_words_do_not() -> None:
    query = query_concept("A man washes the car.")
    np.testing.assert_allclose(query_concept("man, WASHES car"), query, rtol=1e-6)
    assert query @ query_concept("a man paints the car") > 0.5
    assert abs(query @ query_concept("the nurse of a farmer")) < 0.5
    assert np.isfinite(query_concept("...")).all()


def transfer_auc(path: Path, toy: dict[str, list[Record]], layers: list[int]) -> float:
    """Mean AUC on val queries of a ridge regression from train clips in a moment to their query's CLS."""
    store = FeatureStore(path, video_layers=layers, text_layers=[19])

    def read(record: Record) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        video = np.concatenate(store.video(record.vid).astype(np.float64), axis=1)  # (T, layers * width)
        starts = 2 * np.arange(len(video))
        inside = np.array([any(a <= start < b for a, b in record.windows) for start in starts])
        return video - video.mean(axis=0), store.text(record.qid)[0, 0].astype(np.float64), inside

    train = [read(record) for record in toy["train"]]
    clips = np.concatenate([video[inside] for video, _, inside in train])
    queries = np.concatenate([np.tile(query, (inside.sum(), 1)) for _, query, inside in train])
    centre = queries.mean(axis=0)
    weights = np.linalg.solve(clips.T @ clips + 10 * np.eye(clips.shape[1]), clips.T @ (queries - centre))
    areas = []
    for video, query, inside in map(read, toy["val"]):
        ranks = rankdata(video @ weights @ (query - centre))
        positives, negatives = inside.sum(), (~inside).sum()
        areas.append((ranks[inside].sum() - positives * (positives + 1) / 2) / (positives * negatives))
    return float(np.mean(areas))


def test_training_transfers_to_unseen_queries_best_with_all_layers(
    toy: dict[str, list[Record]], features: Path
) -> None:
    shallow, deep = transfer_auc(features, toy, [37]), transfer_auc(features, toy, [40])
    together = transfer_auc(features, toy, [37, 38, 39, 40])
    assert 0.55 < shallow < deep - 0.02
    assert 0.7 < deep < together - 0.02
    assert together < 0.99  # not trivial
    assert transfer_auc(features, toy, [40] * 4) < deep + 0.01  # repeating a layer adds nothing


def test_each_layer_sees_some_concepts_best_and_the_last_one_most() -> None:
    for tower, last in (("video adaptive", 40), ("text", 19)):
        layers = range(last - 3, last + 1)
        best = simulate.Tower.draw(tower, layers, 32, 1.0, 1.0, 0).gains.argmax(axis=0)
        counts = np.bincount(best, minlength=4)
        assert counts.min() >= 1
        assert 0.35 < counts[3] / counts.sum() < 0.65


def test_noise_is_each_layers_own() -> None:
    noise = simulate._video_noise((4, 2000, 64), 2.0, np.random.default_rng(0))
    rows = noise.reshape(4, -1)
    assert np.abs(np.corrcoef(rows) - np.eye(4)).max() < 0.05
    np.testing.assert_allclose((noise**2).sum(axis=-1).mean(axis=1), simulate.VIDEO_NOISE**2, rtol=0.05)


@pytest.mark.parametrize("clip_seconds", [1.0, 2.0])
def test_slow_draws_lose_correlation_within_seconds(clip_seconds: float) -> None:
    drawn = np.random.default_rng(0).standard_normal((3, 400, 64), dtype=np.float32)
    slow = concepts.slow(drawn, clip_seconds)
    assert slow.dtype == np.float32
    np.testing.assert_allclose(slow.var(axis=(0, 2))[[0, -1]], 1, atol=0.3)
    np.testing.assert_allclose(slow.var(), 1, atol=0.05)
    for clips in (1, 4, 12):
        found = np.mean(slow[:, clips:] * slow[:, :-clips])
        assert found == pytest.approx(np.exp(-clips * clip_seconds / 8), abs=0.05)
    one = [drawn[0, 0]]
    kept = np.exp(-clip_seconds / 8)
    for new in drawn[0, 1:]:
        one.append(kept * one[-1] + np.sqrt(1 - kept**2) * new)
    np.testing.assert_allclose(slow[0], one, atol=1e-4)


def test_features_lie_in_a_cone_and_neighbouring_clips_are_alike(
    toy: dict[str, list[Record]], tmp_path: Path
) -> None:
    write_simulated(toy["val"], tmp_path / "f.h5", video_dim=256, text_dim=256)
    store = FeatureStore(tmp_path / "f.h5")
    videos = [store.video(vid).astype(float) for vid in store.vids()]
    units = [video / np.linalg.norm(video, axis=-1, keepdims=True) for video in videos]
    for layer in range(4):
        first = [unit[layer] for unit in units]
        neighbours = np.mean([(unit[1:] * unit[:-1]).sum(axis=1).mean() for unit in first])
        distant = np.mean([(unit[20:] * unit[:-20]).sum(axis=1).mean() for unit in first])
        centres = np.array([unit.mean(axis=0) for unit in first])
        others = (centres @ centres.T)[~np.eye(len(centres), dtype=bool)].mean()
        assert 0.35 < others < 0.65
        assert others < distant < neighbours - 0.1
    assert others + 0.04 < distant  # the last layer sees the video's place
    sizes = [np.sqrt(np.mean([np.mean(video[layer] ** 2) for video in videos])) for layer in range(4)]
    assert 0.7 < sizes[0] < sizes[1] < sizes[2] < sizes[3] < 1.4
    texts = np.concatenate([store.text(qid)[3] for qid in store.qids()]).astype(float)
    assert 0.35 < np.sqrt(np.mean(texts**2)) < 0.8


def test_a_near_miss_is_harder_than_another_event() -> None:
    query = "A chef slices tomatoes while singing loudly"
    rng = np.random.default_rng(0)
    likeness = [near_miss(query, rng) @ query_concept(query) for _ in range(200)]
    others = [query_concept(" ".join(rng.choice(concepts.COMMON_WORDS, 4))) for _ in range(200)]
    assert 0.3 < np.mean(likeness) < 0.7
    assert np.mean(likeness) > np.mean([other @ query_concept(query) for other in others]) + 0.3
    assert np.max(likeness) < 0.95
    assert np.isfinite(near_miss("...", rng)).all()
    assert np.isfinite(near_miss(" ".join(concepts.COMMON_WORDS), rng)).all()


def test_moments_of_all_lengths_are_equally_visible() -> None:
    """The gain in the query's direction, over the same video without its moment."""
    shown = {seconds: [] for seconds in (6, 20, 60)}
    for seconds, gains in shown.items():
        for number in range(300):
            record = Record(
                number, f"v{number}", "a chef slices bread", 150.0, np.array([[30.0, 30 + seconds]])
            )
            blind = replace(record, windows=None)
            change = video_concepts([record], 2.0, 0) - video_concepts([blind], 2.0, 0)
            gains.append((change @ query_concept(record.query))[15 : 15 + seconds // 2].mean())
    means = [np.mean(gains) for gains in shown.values()]
    assert max(means) - min(means) < 0.1
    assert all(1 < mean < 1.5 for mean in means)


def test_distractors_have_all_lengths() -> None:
    rng = np.random.default_rng(0)
    lengths = np.array([concepts._somewhere(75, rng).sum() for _ in range(2000)])
    shares = np.histogram(lengths, [0, 5.5, 15.5, 75])[0] / len(lengths)
    assert (shares > 0.15).all()
    assert concepts._somewhere(1, rng).tolist() == [1]


def test_without_labels_there_is_no_signal(toy: dict[str, list[Record]], tmp_path: Path) -> None:
    blind = [replace(record, windows=None, clip_scores=None) for record in toy["train"] + toy["val"]]
    write_simulated(blind, tmp_path / "f.h5", **DIMS)
    assert transfer_auc(tmp_path / "f.h5", toy, [40]) < 0.6


# --- the toy annotations ---


def test_toy_splits_share_no_video_no_qid_and_no_pairing(toy: dict[str, list[Record]]) -> None:
    def pairing(record: Record) -> tuple[str, str]:
        return (
            next(verb for verb in VERBS if verb in record.query),
            next(thing for thing in THINGS if thing in record.query),
        )

    train, unseen = toy["train"], toy["val"] + toy["test"]
    assert not {record.vid for record in train} & {record.vid for record in unseen}
    assert len({record.qid for record in train + unseen}) == len(train + unseen)
    assert not set(map(pairing, train)) & set(map(pairing, unseen))
    words = {word for record in train for word in record.query.split()}
    assert all(set(record.query.split()) <= words for record in unseen)
    assert len(set(map(pairing, train))) > len(VERBS) * len(THINGS) / HELD_OUT


def test_toy_rows_are_varied_and_consistent(toy: dict[str, list[Record]]) -> None:
    by_vid = defaultdict(list)
    for record in toy["train"]:
        by_vid[record.vid].append(record)
        assert 80 <= record.duration <= 150
        assert (record.windows[1:, 0] > record.windows[:-1, 1]).all()
        assert (record.windows % 2 == 0).all()
        inside = np.zeros(len(record.clip_scores), bool)
        for start, end in record.windows.astype(int) // 2:
            inside[start:end] = True
        assert not record.clip_scores[~inside].any()
        assert record.clip_scores[inside].any()
    assert {len(rows) for rows in by_vid.values()} == {1, 2, 3}
    assert all(len({row.query for row in rows}) == len(rows) for rows in by_vid.values())
    assert {len(record.windows) for record in toy["train"]} == {1, 2, 3}
    lengths = np.concatenate([np.diff(record.windows).ravel() for record in toy["train"]])
    shares = np.histogram(lengths, [0, 10.5, 30.5, 150])[0] / len(lengths)
    assert (shares > 0.15).all()


def test_toy_saliency_is_highest_in_the_middle_of_a_moment(toy: dict[str, list[Record]]) -> None:
    middle, edge = [], []
    for record in toy["train"]:
        for start, end in record.windows.astype(int) // 2:
            if end - start >= 5:
                middle.append(record.clip_scores[(start + end) // 2].mean())
                edge.append(record.clip_scores[start].mean())
    assert np.mean(middle) > np.mean(edge) + 1


def test_toy_files_depend_only_on_the_seed(tmp_path: Path) -> None:
    texts = []
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        paths = write_toy_annotations(tmp_path / folder, num_train=3, num_val=1, num_test=1, seed=seed)
        texts.append([path.read_bytes() for path in paths.values()])
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize("seconds", ["inf", "nan", "0", "-1"])
def test_an_invalid_clip_length_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], seconds: str
) -> None:
    paths = write_toy_annotations(tmp_path, num_train=2, num_val=2, num_test=0, seed=3)
    out = tmp_path / "f.h5"
    arguments = [str(paths["train"]), "--out", str(out), "--clip-seconds", seconds]
    assert main(["features", "simulate", *arguments]) == 2
    assert f"--clip-seconds: must be a finite number above 0, got {seconds}" in capsys.readouterr().err
    assert not list(tmp_path.glob("f.h5*"))
