"""Published feature files, imported from folders and archives as they are; values compared layer by layer."""

import json
from pathlib import Path

import numpy as np
import pytest

from helpers.corpus import TINY
from helpers.published import Published, pack, publish, write_annotations
from sdst.cli import main
from sdst.data.store import FeatureStore
from sdst.features.importers.layouts import LAYOUTS

NAMES = [layout.name for layout in LAYOUTS]
ARCHIVES = {  # layout -> (name of the archive, number of parts)
    "sdst": ("features.tar.gz", 1),
    "flashvtg": ("features.zip", 1),
    "internvideo2": ("features.tgz", 2),
    "sg-detr": ("features.zip", 3),
    "r2-tuning": ("features.tar", 5),
}
NUMBERS = {  # layout -> stored numbers of video and text layers
    "sdst": ((36, 37, 38, 39, 40), (15, 16, 17, 18, 19)),
    "r2-tuning": ((1, 2, 3, 4), (1, 2, 3, 4)),
}
BACKBONES = {
    "sdst": "internvideo2-1b",
    "flashvtg": "internvideo2-6b",
    "internvideo2": "internvideo2",
    "sg-detr": "internvideo2-1b-projected",
    "moment-detr": "slowfast+clip",
    "r2-tuning": "clip",
}


def imported(files: Published, out: Path, *options: str, status: int = 0) -> FeatureStore:
    """Import with the real command, validate the file, and open it."""
    pooling = "cls" if "r2-tuning" in files.annotations.name else "adaptive"
    places = ["--annotations", str(files.annotations), "--out", str(out), "--pooling", pooling]
    assert main(["features", "import", *places, *options]) == status
    assert main(["features", "validate", str(out), "--annotations", str(files.annotations)]) == 0
    return FeatureStore(out, pooling=pooling)


def assert_holds(store: FeatureStore, files: Published) -> None:
    for vid, expected in files.videos.items():
        np.testing.assert_array_equal(store.video(vid), expected.astype(np.float16))
    for qid, expected in files.queries.items():
        np.testing.assert_array_equal(store.text(qid), expected.astype(np.float16))


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_of_each_layout_is_recognised(name, tmp_path, capsys):
    files = publish(name, tmp_path / "down")
    if name == "moment-detr":
        places = [
            option for folder in files.video_folders for option in ("--videos", str(files.folder / folder))
        ]
        places += ["--queries", str(files.folder / files.query_folder)]
    else:
        places = ["--from", str(files.folder)]
    store = imported(files, tmp_path / "f.h5", *places)
    assert f"layout {name}: {BACKBONES[name]}, 2 s clips" in capsys.readouterr().out
    assert (store.info.video_layers, store.info.text_layers) == NUMBERS.get(name, ((1,), (1,)))
    assert (store.info.backbone, store.info.clip_seconds) == (BACKBONES[name], 2)
    assert_holds(store, files)


@pytest.mark.parametrize("name", ARCHIVES)
def test_an_archive_of_each_layout_is_read_as_it_is(name, tmp_path):
    files = publish(name, tmp_path / "down")
    archive, parts = ARCHIVES[name]
    packed = pack(files.folder, tmp_path / archive, parts=parts)
    store = imported(files, tmp_path / "f.h5", "--from", str(packed), "--layout", name)
    assert_holds(store, files)


def test_archives_in_a_folder_are_found_there(tmp_path):
    files = publish("sdst", tmp_path / "unpacked")
    (tmp_path / "down").mkdir()
    pack(files.folder / "vid_feats", tmp_path / "down" / "vid_feats.tar.gz", parts=2)
    pack(files.folder / "txt_feats", tmp_path / "down" / "txt_feats.zip")
    assert_holds(imported(files, tmp_path / "f.h5", "--from", str(tmp_path / "down")), files)


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_archives_of_one_video_are_joined(kind, tmp_path):
    files = publish("moment-detr", tmp_path / "down")
    packed = [pack(files.folder / name, tmp_path / f"{name}.{kind}") for name in files.video_folders]
    places = [option for path in packed for option in ("--videos", str(path))]
    store = imported(files, tmp_path / "f.h5", *places, "--queries", str(files.folder / files.query_folder))
    assert_holds(store, files)


def test_features_of_one_layer_are_numbered_as_the_last(tmp_path):
    files = publish("sdst", tmp_path / "down")
    for path in (tmp_path / "down" / "vid_feats").iterdir():
        np.savez(path, visual_feats_pooled=np.load(path)["visual_feats_pooled"])
    for path in (tmp_path / "down" / "txt_feats").iterdir():
        np.savez(path, text_feats=np.load(path)["text_feats"][-1])
    store = imported(files, tmp_path / "f.h5", "--from", str(tmp_path / "down"))
    assert (store.info.video_layers, store.info.text_layers) == ((40,), (19,))
    np.testing.assert_array_equal(store.video("c")[0], files.videos["c"][-1])


def test_the_clip_length_is_the_one_that_fits(tmp_path):
    files = publish("internvideo2", tmp_path / "internvideo2_6B", clip_seconds=1)
    store = imported(files, tmp_path / "f.h5", "--from", str(files.folder))
    assert (store.info.clip_seconds, store.info.backbone) == (1, "internvideo2-6b")


def test_a_wrong_clip_length_is_refused(tmp_path, capsys):
    files = publish("internvideo2", tmp_path / "down", clip_seconds=1)
    options = ["--from", str(files.folder), "--annotations", str(files.annotations), "--clip-seconds", "2"]
    assert main(["features", "import", *options, "--out", str(tmp_path / "f.h5")]) == 2
    assert (
        "150 clips (shape (150, 768)) for 150 s, expected 75 of 2 s; 3 of 3 videos fit --clip-seconds 1"
        in (capsys.readouterr().err)
    )
    assert not list(tmp_path.glob("f.h5*"))


def test_folders_of_another_data_set_are_left_out(tmp_path):
    files = publish("flashvtg", tmp_path / "down")
    for folder in ("charade_sta_6b", "charade_sta_llama_text_feature"):
        (tmp_path / "down" / folder).mkdir()
    other = files.folder / "charade_sta_llama_text_feature" / "qid0.pt"
    other.write_bytes((files.folder / files.query_folder / "qid5.pt").read_bytes())
    assert_holds(imported(files, tmp_path / "f.h5", "--from", str(files.folder)), files)


@pytest.mark.parametrize("kind", ["tar.gz", "zip"])
def test_archives_of_another_data_set_are_left_out(kind, tmp_path):
    files = publish("flashvtg", tmp_path / "unpacked")
    (tmp_path / "down").mkdir()
    for folder in ("qvhighlight_6b", "qvhighlight_llama_text_feature"):
        pack(files.folder / folder, tmp_path / "down" / f"{folder}.{kind}")
    other = publish("flashvtg", tmp_path / "other")
    for number, folder in enumerate(("charade_sta_6b", "charade_sta_llama_text_feature")):
        place = other.folder / (other.query_folder if number else other.video_folders[0])
        place = place.rename(other.folder / folder)
        for path in place.iterdir():
            path.rename(path.with_stem(path.stem if number else f"charades-{path.stem}"))
        pack(place, tmp_path / "down" / f"{folder}.{kind}")
    store = imported(files, tmp_path / "f.h5", "--from", str(tmp_path / "down"))
    assert store.info.backbone == "internvideo2-6b"
    assert_holds(store, files)


def test_a_query_without_a_file_is_reported(tmp_path, capsys):
    files = publish("flashvtg", tmp_path / "down")
    (files.folder / files.query_folder / "qid2.pt").unlink()
    out = tmp_path / "f.h5"
    options = ["--from", str(files.folder), "--annotations", str(files.annotations), "--out", str(out)]
    assert main(["features", "import", *options]) == 3
    assert "1 videos and queries have no features" in capsys.readouterr().err
    assert json.loads(out.with_suffix(".missing.jsonl").read_text()) == {
        "split": files.annotations.name,
        "qid": "2",
    }


def test_names_are_compared_in_nfc(tmp_path):
    rows = {0: ("caf\u00e9", 150, 3), 1: ("b", 150, 5)}
    annotations = write_annotations(tmp_path / "a.jsonl", rows)
    (tmp_path / "down" / "vid_feats" / "part1").mkdir(parents=True)
    (tmp_path / "down" / "txt_feats").mkdir()
    for name in ("cafe\u0301", "b"):
        np.savez(
            tmp_path / "down" / "vid_feats" / "part1" / f"{name}.npz", visual_feats_pooled=np.ones((75, 768))
        )
    for qid, (_, _, words) in rows.items():
        np.savez(tmp_path / "down" / "txt_feats" / f"{qid}.npz", text_feats=np.ones((5, words + 2, 1024)))
    options = ["--from", str(tmp_path / "down"), "--annotations", str(annotations)]
    assert main(["features", "import", *options, "--out", str(tmp_path / "f.h5")]) == 0
    assert FeatureStore(tmp_path / "f.h5").num_clips("caf\u00e9") == 75


def test_a_model_trains_on_imported_features(tmp_path):
    files = publish("sdst", tmp_path / "down")
    store = imported(files, tmp_path / "f.h5", "--from", str(files.folder))
    data = [f"data.annotations.{split}={files.annotations}" for split in ("train", "val", "test")]
    assert store.info.video_layers[-1] == 40
    overrides = ["data=qvhighlights", *TINY, *data, f"data.features={tmp_path / 'f.h5'}"]
    assert (
        main(["train", *overrides, "levels=k4", "trainer.max_epochs=1", f"run_dir={tmp_path / 'run'}"]) == 0
    )
    assert (tmp_path / "run" / "metrics.json").is_file()
