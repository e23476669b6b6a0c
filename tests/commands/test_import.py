"""Feature folders of other projects made into a feature file, and the coverage report."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from sdst.data.store import FeatureStore
from sdst.errors import UserError
from sdst.features.importers import intake
from sdst.features.importers.commands import import_main

ROWS = {  # split -> qid -> (vid, duration)
    "train": {0: ("a", 6.0), 1: ("a", 6.0), 2: ("b-1", 4.0)},
    "val": {"x_0": ("c", 20.0)},
}
RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float16)


@pytest.fixture
def folder(tmp_path):
    for split, rows in ROWS.items():
        lines = [
            json.dumps({"qid": qid, "vid": vid, "duration": duration, "query": f"query {qid}"})
            for qid, (vid, duration) in rows.items()
        ]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines))
    (tmp_path / "v").mkdir()
    (tmp_path / "q").mkdir()
    return tmp_path


def run(folder: Path, *options: str) -> int:
    splits = [str(folder / f"{split}.jsonl") for split in ROWS]
    places = ["--videos", str(folder / "v"), "--queries", str(folder / "q"), "--out", str(folder / "f.h5")]
    return import_main(["--annotations", *splits, *places, "--backbone", "other", *options])


def save(path: Path, array: np.ndarray, npz_key: str = "") -> None:
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".npz":
        np.savez(path, **{npz_key: array})
    else:
        torch.save(torch.from_numpy(array), path)


def fill(folder: Path, suffix: str, video_shape: tuple[int, ...], text_shape: tuple[int, ...]) -> None:
    """A file for every video and query, named as Moment-DETR names them."""
    for rows in ROWS.values():
        for qid, (vid, duration) in rows.items():
            save(folder / "v" / f"{vid}{suffix}", normal(round(duration / 2), *video_shape), "features")
            num_tokens = 4 + len(str(qid))  # lengths of queries vary, and show which axis counts tokens
            save(folder / "q" / f"qid{qid}{suffix}", normal(num_tokens, *text_shape), "last_hidden_state")


@pytest.mark.parametrize("suffix", [".npz", ".pt"])
def test_one_layer_per_file(folder, suffix):
    fill(folder, suffix, (7,), (5,))
    assert run(folder, "--query-name", "qid{qid}", "--pooling", "cls", "--video-layers", "40") == 0
    store = FeatureStore(folder / "f.h5", pooling="cls")
    assert (store.info.video_layers, store.info.text_layers) == ((40,), (1,))
    video, query = folder / "v" / f"b-1{suffix}", folder / "q" / f"qidx_0{suffix}"
    if suffix == ".npz":
        expected = np.load(video)["features"], np.load(query)["last_hidden_state"]
    else:
        expected = torch.load(video).numpy(), torch.load(query).numpy()
    np.testing.assert_array_equal(store.video("b-1"), expected[0][None])
    np.testing.assert_array_equal(store.text("x_0"), expected[1][None])


@pytest.mark.parametrize("pooling", ["avg", "cls"])
def test_all_tokens_of_several_layers(folder, pooling):
    fill(folder, ".npy", (3, 6, 7), (3, 5))
    assert run(folder, "--query-name", "qid{qid}", "--pooling", pooling) == 0
    store = FeatureStore(folder / "f.h5", pooling=pooling)
    tokens = np.load(folder / "v" / "a.npy").astype(np.float64)
    expected = tokens[:, :, 0] if pooling == "cls" else sum(tokens[:, :, p] for p in range(6)) / 6
    np.testing.assert_allclose(store.video("a"), expected.transpose(1, 0, 2), atol=1e-3)
    assert store.info.video_layers == (1, 2, 3)
    stored = np.load(folder / "q" / "qid1.npy")
    np.testing.assert_array_equal(store.text(1), stored.transpose(1, 0, 2))


def test_coverage_is_reported_per_split(folder, capsys):
    fill(folder, ".npy", (3, 7), (3, 5))
    (folder / "v" / "b-1.npy").unlink()
    (folder / "q" / "qid0.npy").unlink()
    save(folder / "v" / "a.npy", normal(4, 3, 7))  # one clip more than annotated is common
    save(folder / "v" / "c.npy", normal(8, 3, 7))
    assert run(folder, "--query-name", "qid{qid}") == 3
    printed = capsys.readouterr()
    cells = [[word for word in line.split() if word[0].isalnum()] for line in printed.out.splitlines()]
    assert ["train.jsonl", "1/2", "2/3", "0"] in cells
    assert ["val.jsonl", "1/1", "1/1", "1"] in cells
    assert "2 videos and queries have no features" in printed.err
    missing = [json.loads(line) for line in (folder / "f.missing.jsonl").read_text().splitlines()]
    assert missing == [
        {"split": "train.jsonl", "vid": "b-1"},
        {"split": "train.jsonl", "qid": "0"},
        {"split": "val.jsonl", "vid": "c", "clips": 8, "expected": 10},
    ]


def test_another_length_alone_gives_exit_status_3(folder, capsys):
    fill(folder, ".npy", (3, 7), (3, 5))
    save(folder / "v" / "c.npy", normal(8, 3, 7))
    assert run(folder) == 3
    assert "1 videos have another length" in capsys.readouterr().err


def test_file_name_patterns(folder):
    fill(folder, ".npy", (3, 7), (3, 5))
    for path in (folder / "v").iterdir():
        path.rename(path.with_stem(f"{path.stem}-cam-002"))
    assert run(folder, "--video-name", "{vid}-cam-002", "--query-name", "qid{qid}") == 0


def test_extensions_may_be_in_capitals(folder):
    fill(folder, ".npy", (3, 7), (3, 5))
    for path in list((folder / "v").iterdir()):
        path.rename(path.with_suffix(".NPY"))
    assert run(folder) == 0


def test_a_name_pattern_may_name_a_folder(folder):
    fill(folder, ".npy", (3, 7), (3, 5))
    for path in list((folder / "v").iterdir()):
        (folder / "v" / path.stem).mkdir()
        path.rename(folder / "v" / path.stem / "features.npy")
    assert run(folder, "--video-name", "{vid}/features") == 0


def test_a_name_pattern_without_files_is_refused(folder):
    fill(folder, ".npy", (3, 7), (3, 5))
    with pytest.raises(UserError, match=r"no file for any qid, e\.g\. q0.*check --queries and --query-name"):
        run(folder, "--query-name", "q{qid}")
    assert not list(folder.glob("f.h5*"))


@pytest.mark.parametrize("broken", ["video", "query"])
def test_an_interrupted_import_continues(folder, broken, monkeypatch):
    monkeypatch.setattr(intake, "MOST_HELD", 1)  # decide on axes after one file, and write all others at once
    fill(folder, ".npy", (3, 7), (3, 5))
    victim = folder / "v" / "c.npy" if broken == "video" else folder / "q" / "qid2.npy"
    content = victim.read_bytes()
    victim.write_bytes(content[:-5])
    options = ["--query-name", "qid{qid}", "--text-axes", "tokens,layers"]
    with pytest.raises(UserError, match=f"{victim.name}: damaged or not an array file"):
        run(folder, *options)
    victim.write_bytes(content)
    (folder / "v" / "b-1.npy").write_bytes(b"already imported, so never read again")
    assert run(folder, *options) == 0


def test_all_tokens_need_a_pooling(folder):
    fill(folder, ".npy", (3, 6, 7), (3, 5))
    with pytest.raises(UserError, match="choose --pooling avg or cls"):
        run(folder)
    assert not list(folder.glob("f.h5*"))


def test_help_states_the_shapes_and_keys_that_are_read(capsys):
    with pytest.raises(SystemExit):
        import_main(["--help"])
    printed = capsys.readouterr().out
    for stated in ("'features'", "'last_hidden_state'", "(T, layers, tokens, D)", "(L, layers, D)"):
        assert stated in printed
