"""The data module: what it reads, leaves out, refuses and serves."""

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from helpers.corpus import Corpus, make_corpus, make_rows, write_rows
from sdst.cli import main
from sdst.config.schema import Levels
from sdst.data.annotations import read_annotations
from sdst.data.datamodule import GroundingDataModule
from sdst.data.fingerprint import fingerprint
from sdst.errors import UserError
from sdst.features.simulate import write_simulated


def make_module(corpus: Corpus, **changes: object) -> GroundingDataModule:
    arguments = {"features": str(corpus.features), "levels": Levels(count=2), "batch_size": 4, **changes}
    annotations = {split: str(path) for split, path in corpus.paths.items()}
    return GroundingDataModule("qvhighlights", annotations, **arguments)


def qids(module: GroundingDataModule, split: str, epoch: int = 0) -> list[object]:
    loader = module.loader(split)
    loader.sampler.set_epoch(epoch)
    return [record.qid for batch in loader for record in batch.records]


def test_training_is_shuffled_by_seed_and_epoch_and_evaluation_goes_from_short_to_long(
    corpus: Corpus,
) -> None:
    module = make_module(corpus)
    for split, path in corpus.paths.items():
        records = read_annotations(path).records
        by_length = [record.qid for record in sorted(records, key=lambda record: record.duration)]
        served = qids(module, split)
        assert sorted(served) == sorted(by_length)
        assert (served == by_length) == (split != "train")
    first = qids(module, "train")
    assert qids(make_module(corpus), "train") == first
    assert qids(module, "train", epoch=1) != first
    assert qids(make_module(corpus, seed=1), "train") != first


def test_recipe_says_how_the_features_were_made(corpus: Corpus) -> None:
    data = make_module(corpus, levels=Levels(3, "last"))
    assert data.recipe == {
        "backbone": "simulated",
        "pooling": "adaptive",
        "video_layers": [40, 40, 40],
        "text_layers": [19, 19, 19],
        "video_dim": 16,
        "text_dim": 16,
        "clip_seconds": 2.0,
        "simulated": True,
        "simulation": "design 2, seed 0, widths 16 and 16",
        "max_clips": max(record.duration for record in read_annotations(corpus.paths["train"]).records) / 2,
        "fingerprint": fingerprint(corpus.features, "adaptive"),
    }


def test_a_fingerprint_reads_up_to_the_last_of_many_items(tmp_path: Path) -> None:
    """Of 12 videos at most every other one is left out."""
    corpus = make_corpus(tmp_path, {"train": make_rows("train", 18)})
    before = fingerprint(corpus.features, "adaptive")
    with h5py.File(corpus.features, "r+") as file:
        videos = file["video/adaptive"]
        assert len(videos) == 12
        for name in sorted(videos)[-2:]:
            videos[name][0] += 1
    assert fingerprint(corpus.features, "adaptive") != before


def test_short_videos_are_left_out_of_training_only(
    corpus: Corpus, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = {split: make_rows(split, 4) for split in ("train", "val")}
    for split_rows in rows.values():
        short = split_rows[0]
        short |= {"duration": 4.5, "relevant_windows": [[0, 2]], "relevant_clip_ids": [0]}
        short["saliency_scores"] = short["saliency_scores"][:1]
    module = make_module(make_corpus(tmp_path, rows))
    caplog.set_level("INFO")
    assert (len(module.load("train")), len(module.load("val"))) == (3, 4)
    train_note, val_note = caplog.messages
    assert "left out 1 shorter than 5 s" in train_note
    assert "left out" not in val_note
    assert len(make_module(make_corpus(tmp_path / "b", rows), min_duration=4.5).load("train")) == 4


def test_repairs_and_lengths_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = {"train": make_rows("train", 4)}
    made = make_corpus(tmp_path, rows)
    rows["train"][0]["relevant_windows"][0].reverse()
    rows["train"][1]["duration"] += 2
    rows["train"][3]["duration"] -= 0.8  # not a clip's worth
    write_rows(made.paths["train"], rows["train"])
    caplog.set_level("INFO")
    make_module(made).load("train")
    (note,) = caplog.messages
    assert "4 queries on 3 videos" in note
    assert "reversed windows swapped: 1" in note
    assert "short by one clip: 1" in note
    assert "trimmed" not in note


def test_a_split_without_features_labels_or_file_is_refused(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.annotations\.dev: no such split; there are train, val, test"):
        make_module(corpus).load("dev")
    rows = make_rows("train", 3)
    rows[0]["vid"], rows[1]["qid"] = "unknown-video", 999
    strange = Corpus({"train": write_rows(tmp_path / "t.jsonl", rows)}, corpus.features, [])
    with pytest.raises(UserError, match="unknown-video"):
        make_module(strange).load("train")
    rows[0]["vid"] = rows[1]["vid"]
    write_rows(tmp_path / "t.jsonl", rows)
    with pytest.raises(UserError, match=r"/text .*999"):
        make_module(strange).load("train")
    for row in (rows := make_rows("train", 3)):
        del row["relevant_windows"]
    write_rows(tmp_path / "t.jsonl", rows)
    with pytest.raises(UserError, match=r"t\.jsonl: 3 rows lack relevant_windows"):
        make_module(strange).load("train")


def test_features_of_another_clip_length_are_refused(corpus: Corpus) -> None:
    with pytest.raises(UserError, match=r"features\.h5.*data\.clip_seconds=2"):
        make_module(corpus, clip_seconds=1.0)


def test_a_split_is_read_once(corpus: Corpus) -> None:
    module = make_module(corpus)
    assert module.load("val") is module.load("val")


@pytest.mark.parametrize(("stored", "warned"), [(1, True), (2, False)])
def test_features_of_one_layer_are_repeated_with_a_warning(
    corpus: Corpus, tmp_path: Path, caplog: pytest.LogCaptureFixture, stored: int, warned: bool
) -> None:
    records = [record for path in corpus.paths.values() for record in read_annotations(path).records]
    features = tmp_path / "few_layers.h5"
    write_simulated(records, features, video_dim=16, text_dim=16, levels=stored)
    data = make_module(corpus, features=str(features), levels=Levels(count=2))
    assert data.recipe["video_layers"] == ([40, 40] if stored == 1 else [39, 40])
    assert ("holds one layer" in caplog.text) == warned


def test_fewer_stored_layers_than_levels_are_refused_with_the_ways_on(corpus: Corpus) -> None:
    with pytest.raises(UserError, match=r"not all stored.*levels=k1.*levels\.source=last"):
        make_module(corpus, levels=Levels(count=19))


@pytest.fixture
def longer(tmp_path: Path) -> Corpus:
    """A corpus in which the features of the first two videos of each split are 4 clips longer than annotated."""
    rows = {split: make_rows(split, 9) for split in ("train", "val")}
    first = {split: {row["vid"] for row in split_rows[:2]} for split, split_rows in rows.items()}
    whole = {
        split: [row | {"duration": row["duration"] + 8 * (row["vid"] in first[split])} for row in split_rows]
        for split, split_rows in rows.items()
    }
    corpus = make_corpus(tmp_path, whole)
    for split, split_rows in rows.items():
        write_rows(corpus.paths[split], split_rows)
    return corpus


def test_longer_features_are_refused_with_their_number_and_a_way_on(longer: Corpus) -> None:
    with pytest.raises(
        UserError,
        match=r"2 of 6 videos .* \(train0: 8 clips, not 4, train1: 9 clips, not 5\); data.longer=cut .*leave_out",
    ):
        make_module(longer).load("train")
    with pytest.raises(UserError, match=r"data\.longer must be one of refuse, cut, leave_out, got 'drop'"):
        make_module(longer, longer="drop")


def test_longer_features_are_cut_to_the_annotation(longer: Corpus) -> None:
    module = make_module(longer, longer="cut")
    for split, path in longer.paths.items():
        dataset, records = module.load(split), read_annotations(path).records
        assert [record.qid for record in dataset.records] == [record.qid for record in records]
        assert dataset.num_clips == [record.duration / 2 for record in records]
        for index, record in enumerate(records):
            whole = module.store.video(record.vid)
            assert (dataset[0, index].video == whole[:, : dataset.num_clips[index]]).all()
    affected = sum(record.vid in ("train0", "train1") for record in module.load("train").records)
    assert module.longer_features()["train"] == {"cut": affected}


def test_rows_with_longer_features_are_left_out(longer: Corpus) -> None:
    module = make_module(longer, longer="leave_out")
    assert {record.vid for record in module.load("train").records}.isdisjoint({"train0", "train1"})
    assert (
        len(module.load("val")) == len(qids(module, "val")) == 9 - module.longer_features()["val"]["left out"]
    )


@pytest.mark.parametrize("choice", ["cut", "leave_out"])
def test_a_run_on_longer_features_says_so_in_its_metrics(longer: Corpus, tmp_path: Path, choice: str) -> None:
    run = tmp_path / "run"
    options = [f"data.longer={choice}", "trainer.max_epochs=1", f"run_dir={run}"]
    assert main(["train", *longer.overrides, *options]) == 0
    result = json.loads((run / "metrics.json").read_text())
    word = {"cut": "cut", "leave_out": "left out"}[choice]
    assert result["longer_features"] == {"train": {word: 3}, "val": {word: 3}}
    stored = ["--features", str(longer.features), "--annotations", str(longer.paths["val"])]
    out = tmp_path / "p.jsonl"
    assert main(["predict", "--checkpoint", str(run), *stored, "--out", str(out)]) == 0
    predicted = [json.loads(line)["qid"] for line in out.read_text().splitlines()]
    assert predicted == [record.qid for record in read_annotations(longer.paths["val"]).records]


def test_training_leaves_out_moments_without_length_and_evaluation_keeps_their_rows(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = {split: make_rows(split, 6, scores=False) for split in ("train", "val")}
    for split_rows in rows.values():
        split_rows[0]["relevant_windows"] = [[2, 2]]
        split_rows[1]["relevant_windows"] = [[0, 4], [6, 6]]
        split_rows[2]["relevant_windows"] = [[200, 204]]
    made = make_corpus(tmp_path, rows)
    caplog.set_level("INFO")
    data = make_module(made)
    train, val = data.load("train"), data.load("val")
    assert [record.qid for record in train.records] == [row["qid"] for row in rows["train"]][1:2] + [
        row["qid"] for row in rows["train"]
    ][3:]
    assert len(train[0, 0].moments) == 1
    assert [len(val[0, index].moments) for index in range(3)] == [0, 1, 0]
    assert not val[0, 0].saliency.any()
    assert [len(record.windows) for record in val.records[:3]] == [1, 2, 1]
    note, other = caplog.messages
    assert "left out 3 moments without length inside their video and 2 queries without another" in note
    assert "left out" not in other
    assert "windows without length, which no prediction can hit: 2 (first at" in other


def test_training_without_a_usable_moment_is_refused(tmp_path: Path) -> None:
    rows = [row | {"relevant_windows": [[3, 3]]} for row in make_rows("train", 3, scores=False)]
    with pytest.raises(UserError, match="no moment has a length inside its video"):
        make_module(make_corpus(tmp_path, {"train": rows})).load("train")


def test_features_that_are_mostly_longer_are_not_cut(longer: Corpus) -> None:
    rows = make_rows("train", 9)
    write_rows(longer.paths["train"], rows[:5] + rows[8:])
    assert len(make_module(longer, longer="cut").load("train").records) == 6
    write_rows(longer.paths["train"], rows[:2] + rows[8:])  # two of three
    with pytest.raises(UserError, match=r"if most are longer, check data\.clip_seconds"):
        make_module(longer, longer="cut").load("train")


@pytest.fixture
def incomplete(tmp_path: Path) -> Corpus:
    """A corpus in which a query of train, and the video of another row of val, have no features."""
    rows = {"train": make_rows("train", 9), "val": make_rows("val", 6)}
    kept = {"train": rows["train"][1:], "val": rows["val"][1:]}  # videos of val0 and val2 differ
    corpus = make_corpus(tmp_path, kept)
    for split, split_rows in rows.items():
        write_rows(corpus.paths[split], split_rows)
    return corpus


def test_rows_without_features_are_refused_or_left_out_and_counted(
    incomplete: Corpus, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="lacks 1 needed items"):
        make_module(incomplete).load("train")
    module = make_module(incomplete, missing="leave_out")
    assert len(module.load("train").records) == 8
    assert module.missing_features() == {"train": 1}
    run = tmp_path / "run"
    options = ["data.missing=leave_out", "trainer.max_epochs=1", f"run_dir={run}"]
    assert main(["train", *incomplete.overrides, *options]) == 0
    assert json.loads((run / "metrics.json").read_text())["missing_features"] == {"train": 1, "val": 1}
    with pytest.raises(UserError, match=r"data\.missing must be one of refuse, leave_out, got 'drop'"):
        make_module(incomplete, missing="drop")


def test_leaving_out_every_row_is_refused(incomplete: Corpus) -> None:
    write_rows(incomplete.paths["train"], make_rows("train", 1))
    with pytest.raises(UserError, match="lacks 1 needed items"):
        make_module(incomplete, missing="leave_out").load("train")


def test_features_of_another_query_under_the_same_qid_are_refused(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [json.loads(line) for line in corpus.paths["val"].read_text().splitlines()]
    rows[1]["query"] = "another sentence"
    changed = write_rows(tmp_path / "val.jsonl", rows)
    assert main(["train", *corpus.overrides, f"data.annotations.val={changed}"]) == 2
    error = capsys.readouterr().err
    assert (
        f"1 queries have the features of another text (first qid {rows[1]['qid']!r}, 'another sentence')"
        in error
    )


def test_feature_files_without_hashes_of_queries_are_read(corpus: Corpus, tmp_path: Path) -> None:
    older = tmp_path / "older.h5"
    shutil.copy(corpus.features, older)
    with h5py.File(older, "r+") as file:
        del file["query_hashes"]
    assert len(make_module(corpus, features=str(older)).load("train").records)
    with h5py.File(older, "r+") as file:
        file["query_hashes"] = np.frombuffer(b"{", np.uint8)
    with pytest.raises(UserError, match="/query_hashes is damaged"):
        make_module(corpus, features=str(older)).load("train")
