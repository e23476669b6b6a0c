"""Making a world: it is reproducible, resumable and can grow, and each error is one line."""

from pathlib import Path

import pytest

pytest.importorskip("av")

from helpers.world_scenes import meaning
from sdst.cli import main
from sdst.data.annotations import read_annotations
from sdst.errors import UserError
from sdst.world import commands, draw
from sdst.world.commands import make_world
from sdst.world.scene import read_scene

COUNTS = {"train": 3, "val": 1, "test": 1}


@pytest.fixture
def short_videos(monkeypatch):
    """Make videos of a few clips, so that a world is made quickly."""
    monkeypatch.setattr(draw, "NUM_CLIPS", (4, 6))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_world_has_videos_scenes_and_annotations_that_belong_together(tmp_path, short_videos):
    paths = make_world(tmp_path, COUNTS)
    assert list(paths) == ["train", "val", "test"]
    qids, vids = [], {}
    for split, path in paths.items():
        annotations = read_annotations(path)
        assert not annotations.repairs
        qids += [record.qid for record in annotations.records]
        vids[split] = {record.vid for record in annotations.records}
        for record in annotations.records:
            assert (tmp_path / "videos" / f"{record.vid}.mp4").stat().st_size > 0
            scene = read_scene(tmp_path / "scenes" / f"{record.vid}.json")
            assert (scene.vid, scene.duration) == (record.vid, record.duration)
    assert {split: len(names) for split, names in vids.items()} == COUNTS
    assert len(set().union(*vids.values())) == 5
    assert len(qids) == len(set(qids)) > 5


def test_the_same_seed_makes_the_same_files_and_another_seed_others(tmp_path, short_videos):
    for name, seed in (("one", 0), ("two", 0), ("other", 1)):
        make_world(tmp_path / name, COUNTS, seed=seed)
    one, two, other = (contents(tmp_path / name) for name in ("one", "two", "other"))
    assert len(one) == 2 * 5 + 3
    assert one == two
    assert one.keys() == other.keys()
    assert not any(one[name] == other[name] for name in one)


def test_more_queries_per_video_change_no_video_and_no_earlier_query(tmp_path, short_videos):
    few = make_world(tmp_path / "few", COUNTS, queries=1)
    more = make_world(tmp_path / "more", COUNTS, queries=12)
    one, two = contents(tmp_path / "few"), contents(tmp_path / "more")
    assert {name for name in one if one[name] != two[name]} == {path.name for path in few.values()}
    asked = [read_annotations(paths[split]).records for paths in (few, more) for split in COUNTS]
    first, all_ = asked[:3], asked[3:]
    assert {(r.vid, r.query) for records in first for r in records} < {
        (r.vid, r.query) for records in all_ for r in records
    }
    qids = [record.qid for records in all_ for record in records]
    assert len(qids) == len(set(qids))


def test_workers_change_nothing(tmp_path, monkeypatch):
    make_world(tmp_path / "here", {"val": 1}, workers=0)
    make_world(tmp_path / "there", {"val": 1}, workers=1)
    assert contents(tmp_path / "here") == contents(tmp_path / "there")


def test_only_missing_files_are_made_again(tmp_path, short_videos, monkeypatch):
    make_world(tmp_path, COUNTS)
    before = contents(tmp_path)
    (tmp_path / "videos" / "world-train-0001.mp4").unlink()
    (tmp_path / "scenes" / "world-val-0000.json").unlink()
    made = []
    write = commands.write_video
    monkeypatch.setattr(
        commands, "write_video", lambda scene, path: (made.append(scene.vid), write(scene, path))
    )
    make_world(tmp_path, COUNTS)
    assert made == ["world-train-0001", "world-val-0000"]
    assert contents(tmp_path) == before


def test_an_interrupted_world_is_completed_to_the_same_files(tmp_path, short_videos, monkeypatch):
    write = commands.write_video

    def interrupted(scene, path):
        if scene.vid == "world-train-0002":
            raise KeyboardInterrupt
        write(scene, path)

    monkeypatch.setattr(commands, "write_video", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_world(tmp_path / "world", COUNTS)
    monkeypatch.setattr(commands, "write_video", write)
    assert sorted(contents(tmp_path / "world")) == [
        f"{kind}/world-train-{number}.{suffix}"
        for kind, suffix in (("scenes", "json"), ("videos", "mp4"))
        for number in ("0000", "0001")
    ]
    make_world(tmp_path / "world", COUNTS)
    make_world(tmp_path / "whole", COUNTS)
    assert contents(tmp_path / "world") == contents(tmp_path / "whole")


def test_a_larger_world_contains_the_smaller_world(tmp_path, short_videos):
    make_world(tmp_path, COUNTS)
    before = contents(tmp_path)
    make_world(tmp_path, COUNTS | {"train": 4})
    after = contents(tmp_path)
    assert set(after) - set(before) == {"videos/world-train-0003.mp4", "scenes/world-train-0003.json"}
    assert after.pop("train.jsonl").startswith(before.pop("train.jsonl"))
    assert before.items() <= after.items()


def test_a_folder_with_another_world_is_refused_and_unchanged(tmp_path, short_videos):
    make_world(tmp_path, COUNTS)
    before = contents(tmp_path)
    with pytest.raises(UserError, match=r"world-train-0000\.json: belongs to another world"):
        make_world(tmp_path, COUNTS | {"train": 5}, seed=1)
    assert contents(tmp_path) == before


def test_a_scene_without_queries_is_drawn_again(tmp_path, short_videos, monkeypatch):
    answers = iter([[], [{"vid": "v"}]])
    scenes = []
    monkeypatch.setattr(commands, "annotate", lambda scene, **_: (scenes.append(scene), next(answers))[1])
    make_world(tmp_path, {"test": 1})
    assert len(scenes) == 2
    assert scenes[0] != scenes[1]
    assert read_scene(tmp_path / "scenes" / "world-test-0000.json") == scenes[1]


def test_the_command_makes_the_requested_numbers_of_videos_and_queries(tmp_path, short_videos, capsys):
    out = tmp_path / "world"
    counts = ["--train", "2", "--val", "0", "--test", "1", "--queries", "2"]
    assert main(["world", "make", "--out", str(out), "--seed", "3", "--workers", "0", *counts]) == 0
    assert capsys.readouterr().out == ""
    make_world(tmp_path / "same", {"train": 2, "test": 1}, queries=2, seed=3)
    assert contents(out) == contents(tmp_path / "same")
    assert not (out / "val.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["make"], "--out"),
        (["make", "--out", "{}", "--size", "huge"], "huge"),
        (["make", "--out", "{}", "--seed", "-1"], "must be at least 0, got -1"),
        (["make", "--out", "{}", "--train", "few"], "few"),
        (["make", "--out", "{}", "--queries", "0"], "must be at least 1, got 0"),
        (["make", "--out", "{}", "--train", "0", "--val", "0", "--test", "0"], "at least one video"),
        (["make", "--out", "{}/file"], "cannot create the folder"),
        (["paint"], "paint"),
    ],
)
def test_invalid_arguments_give_a_message_of_one_line(tmp_path, capsys, arguments, message):
    (tmp_path / "file").touch()
    assert main(["world", *(argument.format(tmp_path) for argument in arguments)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("sdst: error: ")
    assert message in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_only_val_and_test_ask_about_held_out_combinations(tmp_path, short_videos):
    paths = make_world(tmp_path, COUNTS)
    held_out = {
        split: {meaning(record.query).held_out for record in read_annotations(path).records}
        for split, path in paths.items()
    }
    assert held_out == {"train": {False}, "val": {True}, "test": {True}}
