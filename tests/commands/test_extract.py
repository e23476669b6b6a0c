"""Extraction end to end: what is written, the effect of kills, shards and broken videos, and merging."""

import json
import multiprocessing
import random
import shutil
import signal
import sys
import time
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from helpers.shared_data import SHARED, needs_shared
from helpers.video_files import write_grey_video, write_sound
from sdst.cli import main
from sdst.data.store import FeatureStore
from sdst.errors import UserError
from sdst.features import extract
from sdst.features.backbone import backbone as backbones
from sdst.features.backbone.backbone import IMAGENET_MEAN, IMAGENET_STD
from sdst.features.merge import merge, merge_main
from sdst.features.selection import find_videos
from sdst.features.shards import shard_path
from sdst.features.video import ClipSpec, VideoReader
from sdst.features.writer import FeatureWriter


@dataclass
class Sizes:
    depth: int = 6
    fusion_layer: int = 5
    num_frames: int = 4
    img_size: int = 8


class FakeBackbone:
    """Features that a test can compute: the mean colours of a clip and of its last frame, times the layer number."""

    vision_config = text_config = Sizes()

    def __init__(self) -> None:
        self.num_clips = 0

    def vision(self, frames, layers, poolings):
        self.num_clips += len(frames)
        both = torch.cat([frames.mean(dim=(2, 3, 4)), frames[:, :, -1].mean(dim=(2, 3))], dim=1)
        states = torch.stack([both * layer for layer in layers], dim=1)
        return {pooling: states + len(pooling) for pooling in poolings}

    def text(self, sentences, layers):
        return [
            torch.tensor([[[float(layer), len(word)] for layer in layers] for word in sentence.split()])
            for sentence in sentences
        ]

    def recipe(self):
        return {"backbone": "fake", "text_prefix": ""}


@pytest.fixture
def backbone(monkeypatch):
    fake = FakeBackbone()
    monkeypatch.setattr(backbones, "load_backbone", lambda *args, **kwargs: fake)
    return fake


DURATIONS = {"a": 6.0, "b": 2.0, "-c": 8.0, "d_0.0_4.0": 4.0}


@pytest.fixture
def corpus(tmp_path):
    """Four videos of 2 s clips, two queries each."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for vid, seconds in DURATIONS.items():
        write_grey_video(folder / f"{vid}.mov", [i / 5 for i in range(round(seconds * 5))])
    (folder / "a.srt").write_text("beside the video")
    return write_rows(tmp_path / "rows.jsonl", DURATIONS)


def write_rows(path: Path, durations: dict[str, float]) -> Path:
    rows = [
        {"qid": f"{vid}_{n}", "vid": vid, "duration": seconds, "query": "dog " * (n + 1) + vid}
        for vid, seconds in durations.items()
        for n in range(2)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def run(corpus: Path, *options: object, out: str = "f.h5") -> int:
    folder = corpus.parent
    where = ["--annotations", corpus, "--videos", folder / "videos", "--out", folder / out]
    how = ["--checkpoint", "unused", "--vocab", "unused", "--layers", "3", "--workers", "0"]
    return extract.main([str(part) for part in (*where, *how, *options)])


def contents(path: Path) -> dict[str, bytes | str]:
    """Everything in a feature file."""
    found: dict[str, bytes | str] = {}
    with h5py.File(path) as file:
        found |= {f"attr {name}": str(value) for name, value in file.attrs.items()}

        def add(name: str, item: h5py.Dataset | h5py.Group) -> None:
            if isinstance(item, h5py.Dataset):
                found[name] = str(item.shape).encode() + item[()].tobytes()

        file.visititems(add)
    return found


def assert_same_features(path: Path, expected: Path) -> None:
    """Two feature files are equal; their query features may differ by float16 rounding.

    The queries left by a kill or taken by a shard are encoded in other batches, and some CPUs add in another order
    when the batch size differs.
    """
    ours, theirs = contents(path), contents(expected)
    assert ours.keys() == theirs.keys()
    assert {key for key in ours if ours[key] != theirs[key] and not key.startswith("text/")} == set()
    with h5py.File(path) as left, h5py.File(expected) as right:
        for qid in right["text"]:
            np.testing.assert_allclose(left["text"][qid], right["text"][qid], rtol=2e-3, atol=1e-4)


def test_features_match_each_clip_and_query(corpus, backbone):
    assert run(corpus, "--pooling", "adaptive", "avg", "--batch-size", 2) == 0
    path = corpus.parent / "f.h5"
    mean, std = np.array(IMAGENET_MEAN), np.array(IMAGENET_STD)
    for pooling in ("adaptive", "avg"):
        store = FeatureStore(path, pooling=pooling)
        for vid, seconds in DURATIONS.items():
            features = store.video(vid)
            clips = list(VideoReader(corpus.parent / "videos" / f"{vid}.mov", ClipSpec(size=8)))
            assert features.shape == (3, len(clips), 6)
            assert len(clips) == int(seconds / 2 + 0.5)
            for t, clip in enumerate(clips):
                frames = [(clip[f, :, 0, 0].numpy() / 255 - mean) / std for f in range(4)]
                both = np.concatenate([np.mean(frames, axis=0), frames[-1]])
                for k, layer in enumerate((4, 5, 6)):
                    np.testing.assert_allclose(features[k, t], both * layer + len(pooling), rtol=2e-3)
            np.testing.assert_array_equal(
                store.text(f"{vid}_1"), [[[n, 3], [n, 3], [n, len(vid)]] for n in (3, 4, 5)]
            )
    info = store.info
    assert (info.backbone, info.video_layers, info.text_layers) == ("fake", (4, 5, 6), (3, 4, 5))
    assert info.clip_seconds == 2.0
    assert info.extra == {"text_prefix": "", "resize": "stretch", "antialias": False}


@pytest.mark.processes
def test_workers_and_batch_size_do_not_change_the_file(corpus, backbone):
    run(corpus, out="one.h5")
    num_clips = backbone.num_clips
    assert run(corpus, "--workers", 2, "--batch-size", 1, out="two.h5") == 0
    assert backbone.num_clips == 2 * num_clips
    assert contents(corpus.parent / "one.h5") == contents(corpus.parent / "two.h5")


def test_layers_are_the_last_ones_or_listed_ones(corpus, backbone):
    run(corpus, "--video-layers", "1,3,6", "--text-layers", "2")
    info = FeatureStore(corpus.parent / "f.h5").info
    assert (info.video_layers, info.text_layers) == ((1, 3, 6), (2,))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--video-layers", "5,7"], "from 1 to 6"),
        (["--layers", "6"], "text layers must .* from 1 to 5"),
        (["--video-layers", "3,2"], "shallow to deep"),
        (["--video-layers", "x"], "31,34,37,40"),
        (["--shard", "2/2"], "must be i/n .* got '2/2'"),
        (["--clip-seconds", "0"], "must be a finite number above 0, got 0"),
        (["--batch-size", "0"], "must be at least 1, got 0"),
        (["--videos", "nowhere"], "no such folder"),
        (["--only", "nowhere"], "nowhere: cannot be read"),
        (["--shard", "7/9"], "no video is left"),
    ],
)
def test_bad_options_are_refused(corpus, backbone, options, reason):
    with pytest.raises(UserError, match=reason):
        run(corpus, *options)


def test_failed_videos_are_listed_and_can_be_added_later(corpus, backbone, capsys):
    folder = corpus.parent
    whole = write_rows(
        folder / "more.jsonl", {**DURATIONS, "gone": 3.0, "sound": 3.0, "twice": 3.0, "empty": 3.0}
    )
    videos = folder / "videos"
    write_sound(videos / "sound.mp4")
    (videos / "empty.mkv").touch()
    for suffix in ("mp4", "webm"):
        (videos / f"twice.{suffix}").touch()
    assert run(whole) == 3
    listing = folder / "f.failed.jsonl"
    reasons = {row["vid"]: row["reason"] for row in map(json.loads, listing.read_text().splitlines())}
    assert "no video file named gone" in reasons["gone"]
    assert "twice.mp4, twice.webm; keep one" in reasons["twice"]
    assert "has no video stream" in reasons["sound"]
    assert "is empty" in reasons["empty"]
    assert len(reasons) == 4
    assert "4 videos failed" in capsys.readouterr().err
    assert run(corpus, out="alone.h5") == 0
    assert contents(folder / "f.h5") == contents(folder / "alone.h5")

    for path in [*videos.glob("twice.*"), videos / "sound.mp4", videos / "empty.mkv"]:
        path.unlink()
    for vid in reasons:
        write_grey_video(videos / f"{vid}.mov", [0.0, 1.0, 2.0])
    assert run(whole, "--only", listing, out="rest.h5") == 0
    merge([folder / "f.h5", folder / "rest.h5"], folder / "merged.h5")
    run(whole, out="all.h5")
    assert contents(folder / "merged.h5") == contents(folder / "all.h5")


def test_a_run_where_every_video_fails_writes_no_feature_file(corpus, backbone):
    for path in (corpus.parent / "videos").iterdir():
        path.unlink()
    assert run(corpus) == 3
    assert not (corpus.parent / "f.h5").exists()


def test_all_videos_of_another_length_than_annotated_are_listed(corpus, backbone, caplog, monkeypatch):
    rows = write_rows(corpus.parent / "other.jsonl", {"a": 9.9, "b": 9.0, "-c": 4.0, "d_0.0_4.0": 9.0})
    write = FeatureWriter.write_video

    def stop_after_two(writer, pooling, vid, array):
        write(writer, pooling, vid, array)
        if vid == "b":
            raise KeyboardInterrupt

    monkeypatch.setattr(FeatureWriter, "write_video", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        run(rows)
    monkeypatch.setattr(FeatureWriter, "write_video", write)
    with caplog.at_level("WARNING"):
        assert run(rows) == 0
    listing = corpus.parent / "f.lengths.jsonl"
    (message,) = [record.message for record in caplog.records if "annotated" in record.message]
    assert message.startswith("4 of 4 videos differ from their annotated length by more than a clip (")
    assert f"; ...); they are listed in {listing}" in message
    listed = [json.loads(line) for line in listing.read_text().splitlines()]
    assert [(row["vid"], row["annotated"]) for row in listed] == [
        ("a", 9.9),
        ("b", 9.0),
        ("-c", 4.0),
        ("d_0.0_4.0", 9.0),
    ]
    assert [row["seconds"] for row in listed] == pytest.approx([6, 2, 8, 4], abs=0.3)
    (corpus.parent / "f.h5").unlink()
    assert run(corpus) == 0
    assert not listing.exists()


def test_progress_shows_only_in_a_terminal(corpus, backbone, capsys, monkeypatch):
    run(corpus, out="silent.h5")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    run(corpus)
    shown = capsys.readouterr().err
    assert "10/10" in shown  # clips
    assert "8/8" in shown  # queries
    assert "/s" in shown


def test_one_qid_with_two_queries_is_refused(corpus, backbone):
    other = write_rows(corpus.parent / "other.jsonl", {"a": 6.0})
    other.write_text(other.read_text().replace("dog", "cat"))
    with pytest.raises(UserError, match=r"other\.jsonl: qid 'a_0' stands for another query"):
        run(corpus, "--annotations", corpus, other)


def test_a_video_name_pattern(tmp_path):
    path = write_grey_video(tmp_path / "s1-cam-002.mov", [0.0])
    assert find_videos(tmp_path, ["s1", "s2"], "{vid}-cam-002") == (
        {"s1": path},
        {"s2": f"{tmp_path}: no video file named s2-cam-002"},
    )


@pytest.mark.parametrize(
    "name",
    [
        "00000.MTS",
        "00000.m2ts",
        "00000.gif",
        "00000.asf",
        "00000.MP4",
        "00000",
        "00000.unheard-of",
        "deep/er/00000.mov",
    ],
)
def test_a_video_may_have_any_extension_and_lie_in_a_sub_folder(tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    for other in ("00000.srt", "00000.jpg", "00000.mp4.part", "000001.mp4", ".00000.mp4"):
        (tmp_path / other).touch()
    assert find_videos(tmp_path, ["00000"]) == ({"00000": path}, {})


def test_a_name_with_dots_and_no_extension(tmp_path):
    (tmp_path / "d_0.0_4.0").touch()
    assert find_videos(tmp_path, ["d_0.0_4.0", "d_0.0_4"])[0]["d_0.0_4.0"] == tmp_path / "d_0.0_4.0"


def test_known_extensions_and_the_folder_itself_go_first(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("a.dat", "sub/a.mp4", "b.webm", "sub/b.mp4"):
        (tmp_path / name).touch()
    found, _ = find_videos(tmp_path, ["a", "b"])
    assert found == {"a": tmp_path / "sub/a.mp4", "b": tmp_path / "b.webm"}


def test_two_files_of_one_rank_are_refused_by_name(tmp_path):
    for name in ("x/a.mp4", "y/a.mkv"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    assert find_videos(tmp_path, ["a"]) == ({}, {"a": f"{tmp_path}: x/a.mp4, y/a.mkv; keep one of them"})


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_are_compared_in_composed_form(tmp_path, form):
    name = "café_né"
    path = tmp_path / f"{unicodedata.normalize(form, name)}.mp4"
    path.touch()
    for vid in (unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name)):
        assert find_videos(tmp_path, [vid])[0] == {vid: path}


def test_a_linked_folder_is_searched_once(tmp_path):
    videos = tmp_path / "videos"
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/a.mp4").touch()
    videos.mkdir()
    (videos / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/loop").symlink_to(videos)
    assert find_videos(videos, ["a"])[0] == {"a": videos / "link/a.mp4"}


def test_a_video_without_a_decoder_is_listed(corpus, backbone, capsys):
    (corpus.parent / "videos/b.mov").write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'
    )
    assert run(corpus) == 3
    (row,) = map(json.loads, (corpus.parent / "f.failed.jsonl").read_text().splitlines())
    assert row["vid"] == "b"
    assert "there is no decoder for its pictures" in row["reason"]
    assert sorted(FeatureStore(corpus.parent / "f.h5").vids()) == ["-c", "a", "d_0.0_4.0"]


def test_finished_videos_are_not_encoded_again(corpus, backbone, monkeypatch):
    run(corpus, out="whole.h5")
    total = backbone.num_clips
    vision = backbone.vision

    def fail_at_the_third(frames, layers, poolings):
        if backbone.num_clips - total >= 4:  # "a" and "b" have four clips
            raise KeyboardInterrupt
        return vision(frames, layers, poolings)

    monkeypatch.setattr(backbone, "vision", fail_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        run(corpus)
    monkeypatch.setattr(backbone, "vision", vision)
    before = backbone.num_clips
    assert run(corpus) == 0
    assert backbone.num_clips - before == total - 4
    assert contents(corpus.parent / "f.h5") == contents(corpus.parent / "whole.h5")


def test_shards_merged_equal_one_run(corpus, backbone, capsys):
    folder = corpus.parent
    run(corpus, out="whole.h5")
    shards = [shard_path(folder / "f.h5", index, 3) for index in range(3)]
    for index in range(3):
        assert run(corpus, "--shard", f"{index}/3") == 0
    assert [path.name for path in shards] == [f"f.shard-{index}-of-3.h5" for index in range(3)]
    assert merge_main([*map(str, shards), "--out", str(folder / "f.h5")]) == 0
    assert "4 videos, 8 queries" in capsys.readouterr().out
    assert contents(folder / "f.h5") == contents(folder / "whole.h5")

    with pytest.raises(UserError, match="f: shards 1 of 3 are missing"):
        merge([shards[0], shards[2]], folder / "g.h5")
    with pytest.raises(UserError, match="is also in"):
        merge([folder / "f.h5", folder / "whole.h5"], folder / "g.h5")
    run(corpus, "--clip-seconds", "1", out="finer.h5")
    with pytest.raises(UserError, match=r"finer\.h5: was not made like .* \(clip_seconds 1\.0, not 2\.0\)"):
        merge([folder / "f.h5", folder / "finer.h5"], folder / "g.h5")
    assert not (folder / "g.h5").exists()


@pytest.mark.slow
def test_processes_share_the_videos_name_the_one_that_fails_and_join_what_they_wrote(demo, tmp_path, capsys):
    videos, out = tmp_path / "videos", tmp_path / "f.h5"
    shutil.copytree(demo / "world/videos", videos)
    lost = sorted(videos.iterdir())[0]
    lost.unlink()
    annotations = sorted(map(str, (demo / "world").glob("*.jsonl")))
    options = ["--annotations", *annotations, "--videos", str(videos), "--config", "small-world"]
    options += ["--workers", "0"]
    whole = tmp_path / "whole.h5"
    assert main(["extract", *options, "--out", str(whole)]) == 3
    assert f"{lost.stem}: " in capsys.readouterr().err

    shards = [shard_path(out, index, 2) for index in range(2)]
    blocked = shards[1].with_suffix(".h5.partial")
    blocked.mkdir()
    arguments = ["extract", *options, "--out", str(out), "--processes", "2"]
    assert main(arguments) == 2
    assert "shard 1 of 2 failed: " in capsys.readouterr().err
    assert [path.exists() for path in shards] == [True, False]
    blocked.rmdir()
    assert main(arguments) == 3
    assert f"{lost.stem}: " in capsys.readouterr().err
    assert_same_features(out, whole)
    listing, expected = (path.with_suffix(".failed.jsonl").read_text() for path in (out, whole))
    assert lost.stem in listing
    assert listing == expected
    assert {path.name for path in tmp_path.iterdir()} == {
        *("videos", "f.h5", "f.failed.jsonl", "whole.h5", "whole.failed.jsonl")
    }


REAL = {  # data/README.md
    "charades": 30.697,
    "internvideo2_example1": 8.0,
    "mmaction_part_0": 1.067,
    "mmaction_test": 10.0,
    "sam2_coffee": 9.576,
}


@needs_shared
@pytest.mark.processes
@pytest.mark.slow
def test_real_videos_survive_kills_and_two_shards(tmp_path, monkeypatch):
    """The tiny InternVideo2 over every real video, killed at random moments, equals an uninterrupted run."""
    oracles = SHARED / "oracles"
    vocab = tmp_path / "vocab.txt"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "dog"]
    vocab.write_text("\n".join(words + [f"word{n}" for n in range(300 - len(words))]) + "\n")
    loaded = backbones.load_backbone(
        oracles / "internvideo2_stage2_tiny.pt", oracles / "internvideo2_stage2_tiny.config.json", vocab=vocab
    )
    monkeypatch.setattr(backbones, "load_backbone", lambda *args, **kwargs: loaded)
    torch.set_num_threads(1)  # a forked child must not wait for its parent's threads
    rows = write_rows(tmp_path / "rows.jsonl", REAL)
    (tmp_path / "videos").symlink_to(SHARED / "videos")

    start = time.perf_counter()
    assert run(rows, "--batch-size", 4, out="whole.h5") == 0
    whole_seconds = time.perf_counter() - start
    store = FeatureStore(tmp_path / "whole.h5")
    for vid, seconds in REAL.items():
        assert store.num_clips(vid) == max(1, int(seconds / 2 + 0.5))

    draw = random.Random(0)
    killed = 0
    while killed < 4:
        child = multiprocessing.get_context("fork").Process(target=run, args=(rows, "--batch-size", 4))
        child.start()
        child.join(timeout=draw.uniform(0, 0.5 * whole_seconds))
        child.kill()
        child.join()
        killed += child.exitcode == -signal.SIGKILL
        if (tmp_path / "f.h5").exists():  # finished before the last kill, so start again
            assert_same_features(tmp_path / "f.h5", tmp_path / "whole.h5")
            (tmp_path / "f.h5").unlink()
    assert run(rows, "--batch-size", 4) == 0
    assert_same_features(tmp_path / "f.h5", tmp_path / "whole.h5")

    for index in range(2):
        run(rows, "--batch-size", 4, "--shard", f"{index}/2", out="half.h5")
    merge([shard_path(tmp_path / "half.h5", index, 2) for index in range(2)], tmp_path / "half.h5")
    assert_same_features(tmp_path / "half.h5", tmp_path / "whole.h5")


@pytest.mark.parametrize("tool", ["merge", "import"])
def test_the_features_command_runs_its_tools(tool, capsys):
    assert main(["features", tool]) == 2
    assert capsys.readouterr().err.startswith(f"sdst: error: sdst features {tool}: the following arguments")
    with pytest.raises(SystemExit):
        main(["features", "--help"])
    assert f"    {tool} " in capsys.readouterr().out
