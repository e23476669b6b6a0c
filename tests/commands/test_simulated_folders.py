"""Simulated features as the authors publish theirs: exactly their files, and the same features after an import."""

from pathlib import Path

import numpy as np
import pytest

from helpers.corpus import Corpus
from sdst.cli import main
from sdst.data.annotations import read_annotations
from sdst.data.info import read_info
from sdst.data.store import FeatureStore
from sdst.features.simulate import write_simulated


def simulate(corpus: Corpus, out: Path, *options: str) -> int:
    annotations = list(map(str, corpus.paths.values()))
    sizes = ["--video-dim", "24", "--text-dim", "16"]
    return main(
        ["features", "simulate", *annotations, "--layout", "sdst", *sizes, "--out", str(out), *options]
    )


def test_files_are_those_of_the_authors(corpus: Corpus, tmp_path: Path) -> None:
    assert simulate(corpus, tmp_path) == 0
    records = read_annotations(corpus.paths["train"]).records
    for record in records:
        with np.load(tmp_path / "vid_feats" / f"{record.vid}.npz") as video:
            assert video["visual_feats_interm_pooled"].shape == (round(record.duration / 2), 5, 24)
        with np.load(tmp_path / "txt_feats" / f"{record.qid}.npz") as text:
            assert text["text_feats"].shape == (5, len(record.query.split()) + 1, 16)


@pytest.mark.parametrize("name", ["folder", "features.tar", "features.tar.gz", "features.zip"])
def test_imported_they_are_the_simulated_features_and_say_so(
    corpus: Corpus, tmp_path: Path, name: str
) -> None:
    assert simulate(corpus, tmp_path / "in" / name) == 0
    annotations = list(map(str, corpus.paths.values()))
    imported = tmp_path / "imported.h5"
    command = ["features", "import", "--from", str(tmp_path / "in" / name), "--annotations", *annotations]
    assert main([*command, "--out", str(imported)]) == 0
    info = read_info(imported)
    assert info.simulated
    assert (info.video_layers, info.text_layers) == (tuple(range(36, 41)), tuple(range(15, 20)))
    direct = tmp_path / "direct.h5"
    records = [record for path in corpus.paths.values() for record in read_annotations(path).records]
    write_simulated(records, direct, video_dim=24, text_dim=16, levels=5)
    expected, got = FeatureStore(direct), FeatureStore(imported)
    assert sorted(got.vids()) == sorted(expected.vids())
    assert sorted(got.qids()) == sorted(expected.qids())
    for vid in expected.vids():
        np.testing.assert_array_equal(got.video(vid), expected.video(vid))
    for qid in expected.qids():
        np.testing.assert_array_equal(got.text(qid), expected.text(qid))


def test_a_folder_is_continued_and_an_archive_is_never_overwritten(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert simulate(corpus, tmp_path / "folder") == 0
    kept, made = sorted((tmp_path / "folder" / "vid_feats").iterdir())[:2]
    content = made.read_bytes()
    kept.write_bytes(b"kept")
    made.unlink()
    assert simulate(corpus, tmp_path / "folder") == 0
    assert kept.read_bytes() == b"kept"
    assert made.read_bytes() == content
    (tmp_path / "a.tar").touch()
    assert simulate(corpus, tmp_path / "a.tar") == 2
    assert "never overwritten" in capsys.readouterr().err


def test_one_pooling_only(corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert simulate(corpus, tmp_path / "folder", "--pooling", "avg", "cls") == 2
    assert "--layout sdst has one pooling, got 2" in capsys.readouterr().err
