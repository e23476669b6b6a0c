"""The feature store: round trip, layers, every refusal, and writers that are killed."""

import json
import os
import pickle
import random
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdst.cli import main
from sdst.data.float16 import to_float16
from sdst.data.info import query_hash, read_info
from sdst.data.store import FeatureStore
from sdst.errors import UserError
from sdst.features.merge import merge
from sdst.features.writer import FeatureWriter

LAYERS = {"video_layers": [37, 38, 40], "text_layers": [18, 19]}
VIDEOS = {"a b": 4, "-ä_0.0_150.0": 2, "c": 1}  # vid -> clips
QUERIES = {12: 3, "s17-d69_0": 1}  # qid -> tokens


def make_writer(path: Path, **changes: object) -> FeatureWriter:
    return FeatureWriter(path, **{"backbone": "net", "clip_seconds": 2.0, **LAYERS, **changes})


def features(num_items: int, num_layers: int, width: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(num_items, num_layers, width)).astype(np.float16)


def write_all(path: Path, **changes: object) -> Path:
    with make_writer(path, **changes) as writer:
        for seed, (vid, num_clips) in enumerate(VIDEOS.items()):
            writer.write_video("adaptive", vid, features(num_clips, 3, 5, seed))
            writer.write_video("cls", vid, features(num_clips, 3, 8, seed))
        for seed, (qid, num_tokens) in enumerate(QUERIES.items()):
            writer.write_text(qid, features(num_tokens, 2, 6, seed))
        writer.finish()
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_all(tmp_path / "f.h5", simulated=True, extra={"text_prefix": "x", "n": 3})


def test_written_features_are_read_back_levels_first(path: Path) -> None:
    store = FeatureStore(path)
    for seed, (vid, num_clips) in enumerate(VIDEOS.items()):
        video = store.video(vid)
        assert (video.dtype, store.num_clips(vid)) == (np.float16, num_clips)
        np.testing.assert_array_equal(video, features(num_clips, 3, 5, seed).transpose(1, 0, 2))
    for seed, (qid, num_tokens) in enumerate(QUERIES.items()):
        np.testing.assert_array_equal(store.text(qid), features(num_tokens, 2, 6, seed).transpose(1, 0, 2))
    assert sorted(store.vids()) == sorted(VIDEOS)
    assert sorted(store.qids()) == sorted(map(str, QUERIES))
    assert [entry.name for entry in path.parent.iterdir()] == ["f.h5"]  # no journal is left


def test_a_store_prints_as_one_line(path: Path) -> None:
    assert repr(FeatureStore(path, video_layers=[38])) == (
        f"FeatureStore({str(path)!r}, pooling='adaptive', video_layers=(38,), text_layers=(18, 19), backbone net, "
        "3 videos, 2 queries)"
    )


def test_info_has_attributes_and_dimensions(path: Path) -> None:
    info = read_info(path)
    assert (info.backbone, info.clip_seconds, info.simulated, info.complete) == ("net", 2.0, True, True)
    assert (info.video_layers, info.text_layers) == ((37, 38, 40), (18, 19))
    assert (set(info.poolings), info.video_dims) == ({"adaptive", "cls"}, {"adaptive": 5, "cls": 8})
    assert (info.text_dim, info.num_videos, info.num_queries) == (6, 3, 2)
    assert info.extra == {"text_prefix": "x", "n": 3}
    store = FeatureStore(path, pooling="cls")
    assert (store.video_dim, store.text_dim) == (8, 6)


@pytest.mark.parametrize("layers", [[40], [37, 40], [40, 38, 37], [40, 40, 40], [38, 37, 38]])
def test_layers_come_in_the_order_asked_for_and_may_repeat(path: Path, layers: list[int]) -> None:
    video = FeatureStore(path, video_layers=layers).video("a b")
    stored = features(4, 3, 5, 0)
    assert video.shape == (len(layers), 4, 5)
    for level, layer in zip(video, layers, strict=True):
        np.testing.assert_array_equal(level, stored[:, LAYERS["video_layers"].index(layer)])


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with seven layers of one video, "v"."""
    path = tmp_path_factory.mktemp("deep") / "f.h5"
    with make_writer(path, video_layers=range(7), text_layers=[1]) as writer:
        writer.write_text(0, np.zeros((1, 1, 1)))
        writer.write_video("cls", "v", features(4, 7, 3, 0))
        writer.finish()
    return path


@settings(max_examples=50)
@given(layers=st.lists(st.integers(0, 6), min_size=1, max_size=8))
def test_any_layers_in_any_order_are_those_asked_for(deep: Path, layers: list[int]) -> None:
    video = FeatureStore(deep, pooling="cls", video_layers=layers).video("v")
    np.testing.assert_array_equal(video, np.stack([features(4, 7, 3, 0)[:, layer] for layer in layers]))


def test_exactly_the_float16_values_that_are_not_finite_are_refused() -> None:
    numbers = np.arange(2**16, dtype=np.uint16).view(np.float16)
    finite = np.isfinite(numbers)
    to_float16(numbers[finite], "x")
    for number in numbers[~finite]:
        with pytest.raises(UserError, match="NaN"):
            to_float16([0, number, 0], "x")


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_finite_float16_under_any_name_survives(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    names = st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1).filter(
        lambda name: name not in {".", ".."}
    )
    drawn = data.draw(st.dictionaries(names, st.binary(min_size=24, max_size=24), min_size=1, max_size=3))
    videos = {}
    for vid, raw in drawn.items():
        values = np.frombuffer(raw, np.float16).reshape(3, 2, 2)
        videos[vid] = np.where(np.isfinite(values), values, np.float16(-0.0))
    path = tmp_path_factory.mktemp("store") / "f.h5"
    with make_writer(path, video_layers=[1, 2], text_layers=[1]) as writer:
        writer.write_text(0, np.zeros((1, 1, 1)))
        for vid, array in videos.items():
            writer.write_video("avg", vid, array)
        writer.finish()
    store = FeatureStore(path, pooling="avg")
    for vid, array in videos.items():
        assert store.video(vid).tobytes() == array.transpose(1, 0, 2).tobytes()  # signs of zeros as well


# --- processes ---


def test_values_equal_those_that_hdf5_reads_in_every_storage_layout(path: Path, tmp_path: Path) -> None:
    shifted, chunked = tmp_path / "shifted.h5", tmp_path / "chunked.h5"
    with h5py.File(path) as source:
        for copy, how in ((shifted, {"userblock_size": 512}), (chunked, {})):
            with h5py.File(copy, "w", **how) as target:
                target.attrs.update(source.attrs)
                for key in ("video", "text"):
                    source.copy(key, target)
    with h5py.File(chunked, "r+") as file:
        values = file["video/adaptive/c"][()]
        del file["video/adaptive/c"]
        file.create_dataset("video/adaptive/c", data=values, chunks=(1, 2, 3))
    for copy in (path, shifted, chunked):
        store = FeatureStore(copy, video_layers=[40, 37], text_layers=[18, 18])
        with h5py.File(copy) as file:
            for vid in VIDEOS:
                expected = file[f"video/adaptive/{vid}"][:, 0:3:2].transpose(1, 0, 2)[::-1]
                for _ in range(2):  # the first read looks the array up, the second knows where it is
                    np.testing.assert_array_equal(store.video(vid), expected)
            for qid in QUERIES:
                expected = file[f"text/{qid}"][:, [0]].transpose(1, 0, 2).repeat(2, axis=0)
                np.testing.assert_array_equal(store.text(qid), expected)


def test_a_file_truncated_while_open_is_refused(path: Path) -> None:
    store = FeatureStore(path)
    store.video("a b")
    os.truncate(path, 100)
    with pytest.raises(UserError, match="video/adaptive/a b cannot be read"):
        store.video("a b")


def test_a_replaced_file_is_looked_up_again(path: Path, tmp_path: Path) -> None:
    store = FeatureStore(path)
    store.video("a b")
    other = tmp_path / "other.h5"
    with make_writer(other) as writer:
        writer.write_text(12, features(3, 2, 6, seed=9))
        writer.write_video("adaptive", "new", features(7, 3, 5, seed=8))
        writer.write_video("adaptive", "a b", features(4, 3, 5, seed=7))
        writer.finish()
    other.replace(path)
    later = pickle.loads(pickle.dumps(store))  # as in a DataLoader worker
    np.testing.assert_array_equal(later.video("a b"), features(4, 3, 5, seed=7).transpose(1, 0, 2))


def test_pickling_drops_the_open_file(path: Path) -> None:
    store = FeatureStore(path, video_layers=[40])
    expected = store.video("a b")
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(store)).video("a b"), expected)
    np.testing.assert_array_equal(store.video("a b"), expected)


def test_forked_readers_get_right_features_from_an_open_store(path: Path) -> None:
    store = FeatureStore(path)
    expected = {vid: store.video(vid).tobytes() for vid in VIDEOS}
    children = []
    for number in range(3):
        child = os.fork()
        if child == 0:
            order = random.Random(number).choices(list(VIDEOS), k=50)
            os._exit(0 if all(store.video(vid).tobytes() == expected[vid] for vid in order) else 1)
        children.append(child)
    for vid in list(VIDEOS) * 20:
        assert store.video(vid).tobytes() == expected[vid]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]


KILLED_WRITER = """
import sys
import numpy as np
from sdst.features.writer import FeatureWriter

with FeatureWriter(sys.argv[1], backbone="b", video_layers=[1, 2], text_layers=[1], clip_seconds=2) as writer:
    for number in range(60):
        if not writer.has_video(f"v{number}", "avg"):
            writer.write_video("avg", f"v{number}", np.random.default_rng(number).normal(size=(40, 2, 512)))
        if not writer.has_text(number):
            writer.write_text(number, np.random.default_rng(number).normal(size=(5, 1, 32)))
        print(number, flush=True)
    writer.finish()
"""


def contents(path: Path) -> dict[str, bytes]:
    found = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: (
                found.update({name: item[()].tobytes()}) if isinstance(item, h5py.Dataset) else None
            )
        )
        return found | {f"attr {name}": np.asarray(value).tobytes() for name, value in file.attrs.items()}


@pytest.mark.processes
def test_a_writer_killed_several_times_ends_with_the_same_file(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED_WRITER]
    subprocess.run([*command, str(tmp_path / "whole.h5")], check=True, stdout=subprocess.DEVNULL)
    path = tmp_path / "killed.h5"
    for last_line in (1, 17, 40):
        with subprocess.Popen([*command, str(path)], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:  # by now the writer is somewhere in one of the next items
                if int(line) == last_line:
                    process.send_signal(signal.SIGKILL)
                    break
        assert process.returncode == -signal.SIGKILL
        with pytest.raises(UserError, match=r"killed\.h5\.partial"):
            read_info(path)
    path.with_name(".killed.h5.tmp").write_bytes(b"what a writer killed while finishing leaves")
    subprocess.run([*command, str(path)], check=True, stdout=subprocess.DEVNULL)
    assert contents(path) == contents(tmp_path / "whole.h5")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["killed.h5", "whole.h5"]


def test_a_journal_cut_at_any_byte_is_continued_to_the_same_file(tmp_path: Path) -> None:
    def write(path: Path) -> None:
        with make_writer(path, video_layers=[1], text_layers=[1]) as writer:
            if not writer.has_video("v", "avg"):
                writer.write_video("avg", "v", np.arange(3).reshape(3, 1, 1))
            if not writer.has_text(7):
                writer.write_text(7, np.ones((1, 1, 2)))
            if finishing:
                writer.finish()

    finishing = False
    write(tmp_path / "journal.h5")
    journal = (tmp_path / "journal.h5.partial").read_bytes()
    finishing = True
    write(tmp_path / "journal.h5")
    expected = contents(tmp_path / "journal.h5")
    for length in range(len(journal) + 1):
        path = tmp_path / f"{length}.h5"
        Path(f"{path}.partial").write_bytes(journal[:length])
        write(path)
        assert contents(path) == expected, length


def test_a_damaged_item_and_all_items_after_it_are_written_again(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    with make_writer(path, video_layers=[1]) as writer:
        for vid in ("first", "second", "third"):
            writer.write_video("avg", vid, np.full((1, 1, 4), 0.5))
    journal = Path(f"{path}.partial")
    raw = bytearray(journal.read_bytes())
    raw[raw.index(b"third") - 25] ^= 1  # inside the values of "second"
    journal.write_bytes(raw)
    with make_writer(path, video_layers=[1]) as writer:
        assert [writer.has_video(vid, "avg") for vid in ("first", "second", "third")] == [True, False, False]


# --- refusals ---


def test_writer_refuses_other_settings_finished_files_and_a_second_writer(tmp_path: Path, path: Path) -> None:
    with pytest.raises(UserError, match="never overwritten"):
        make_writer(path)
    new = tmp_path / "new.h5"
    with make_writer(new), pytest.raises(UserError, match="another process"):
        make_writer(new)
    with pytest.raises(UserError, match=r"clip_seconds 2\.0, now 1\.0"):
        make_writer(new, clip_seconds=1.0)
    with pytest.raises(UserError, match="increasing"):
        make_writer(tmp_path / "other.h5", video_layers=[40, 39])
    (tmp_path / "foreign.h5.partial").write_text("something else\n")
    with pytest.raises(UserError, match="not a journal"):
        make_writer(tmp_path / "foreign.h5")
    with pytest.raises(UserError, match="cannot be written"):
        make_writer(path / "below_a_file.h5")


def test_writer_refuses_bad_items_and_stays_usable(tmp_path: Path) -> None:
    with make_writer(tmp_path / "f.h5") as writer:
        bad = features(2, 3, 4, 0)
        bad[1, 1, 1] = np.nan
        with pytest.raises(UserError, match="NaN"):
            writer.write_video("avg", "v", bad)
        with pytest.raises(UserError, match="beyond float16"):
            writer.write_video("avg", "v", np.full((2, 3, 4), 1e5))
        writer.write_video("avg", "v", features(2, 3, 5, 0))
        with pytest.raises(UserError, match="already"):
            writer.write_video("avg", "v", features(2, 3, 5, 0))
        with pytest.raises(UserError, match="wide"):
            writer.write_video("avg", "w", features(2, 3, 4, 0))
        for shape in ((2, 2, 5), (0, 3, 5), (3, 5)):
            with pytest.raises(UserError, match="shape"):
                writer.write_video("avg", "w", np.zeros(shape))
        for name in ("a/b", "", ".", "a\0"):
            with pytest.raises(UserError, match="cannot name"):
                writer.write_video("avg", name, features(2, 3, 5, 0))
        with pytest.raises(UserError, match="no query"):
            writer.finish()
        writer.write_text(1, features(1, 2, 5, 0))
        writer.finish()
    assert FeatureStore(tmp_path / "f.h5", pooling="avg").vids() == ["v"]


def damage(path: Path, how: str) -> None:
    with h5py.File(path, "r+") as file:
        match how:
            case "format" | "version" | "backbone":
                del file.attrs[how]
            case "complete":
                file.attrs[how] = False
            case "video_layers":
                file.attrs[how] = "forty"
            case "video" | "text":
                del file[how]
            case "nan":
                file["video/adaptive/a b"][1, 2, 3] = np.inf
            case "layers" | "float32" | "rank":
                del file["video/adaptive/a b"]
                file["video/adaptive/a b"] = {
                    "layers": np.zeros((4, 2, 5), np.float16),
                    "float32": np.zeros((4, 3, 5), np.float32),
                    "rank": np.zeros((4, 5), np.float16),
                }[how]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("format", "'format'"),
        ("version", "'version' is None"),
        ("backbone", "'backbone' is missing"),
        ("complete", "'complete'"),
        ("video_layers", "'video_layers' must be a list of layer numbers"),
        ("video", "/video must be a group"),
        ("text", "/text must be a group"),
        ("nan", "/video/adaptive/a b holds NaN or Inf"),
        ("layers", "/video/adaptive/a b must have layers x width"),
        ("float32", "/video/adaptive/a b must be a filled float16"),
        ("rank", "/video/adaptive/a b must be a filled float16"),
    ],
)
def test_reader_refuses_a_damaged_file_in_one_line(path: Path, how: str, message: str) -> None:
    damage(path, how)
    with pytest.raises(UserError, match=message) as caught:
        FeatureStore(path).video("a b")
    assert str(caught.value).count(str(path)) == 1
    assert "\n" not in str(caught.value)


def test_reader_refuses_missing_poolings_layers_and_items(path: Path) -> None:
    for arguments in ({"pooling": "avg"}, {"video_layers": [39]}, {"text_layers": [1]}, {"video_layers": []}):
        with pytest.raises(UserError, match="choose from"):
            FeatureStore(path, **arguments)
    store = FeatureStore(path)
    for read in (store.video, store.num_clips, store.text):
        with pytest.raises(UserError, match=r"no /.*/?nowhere"):
            read("nowhere")
    assert store.missing(["x", "c", "y", "x"], [12, 13, "14"]) == (["x", "y"], ["13", "14"])
    store.require(VIDEOS, QUERIES)
    with pytest.raises(UserError, match=r"/video/adaptive lacks 4 .*\(0, 1, 2, \.\.\.\)"):
        store.require(map(str, range(4)), QUERIES)
    with pytest.raises(UserError, match=r"/text lacks 1 .*\(13\)"):
        store.require(VIDEOS, [12, 13])


def test_reader_refuses_absent_foreign_and_truncated_files(path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        FeatureStore(path.with_name("absent.h5"))
    raw = path.read_bytes()
    for content in (b"", b"text", raw[: len(raw) // 2], raw[:-1]):
        path.write_bytes(content)
        with pytest.raises(UserError, match="not an HDF5 file, or truncated"):
            FeatureStore(path)


# --- commands ---


def annotate(path: Path, rows: list[tuple[int | str, str, float]]) -> Path:
    lines = [{"qid": qid, "vid": vid, "duration": seconds, "query": "words"} for qid, vid, seconds in rows]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def test_inspect_prints_only_json_and_warns_of_simulated_features(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["features", "inspect", str(path), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["video_dims"] == {"adaptive": 5, "cls": 8}
    assert printed["clips"]["cls"] == {"fewest": 1, "most": 4}
    assert main(["features", "inspect", str(path)]) == 0
    assert "SIMULATED" in capsys.readouterr().out


def test_validate_reports_every_kind_of_problem(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = annotate(path.with_name("good.jsonl"), [(12, "a b", 8.0), ("s17-d69_0", "c", 3.9)])
    assert main(["features", "validate", str(path), "--annotations", str(good)]) == 0
    assert "no problems" in capsys.readouterr().out
    bad = annotate(path.with_name("bad.jsonl"), [(12, "a b", 11.1), (13, "absent", 4.0)])
    damage(path, "nan")
    assert main(["features", "validate", str(path), "--annotations", str(good), str(bad)]) == 2
    report = capsys.readouterr().out
    for problem in (
        "/text lacks 13",
        "/video/cls lacks absent",
        "a b holds NaN",
        "a b has 4 clips for 11.1 s",
    ):
        assert problem in report


def test_hashes_of_queries_survive_a_kill_a_merge_and_refuse_another_query(tmp_path: Path) -> None:
    inputs = [tmp_path / "a.h5", tmp_path / "b.h5"]
    for number, path in enumerate(inputs):
        settings = {"backbone": "b", "video_layers": [1], "text_layers": [1], "clip_seconds": 2.0}
        with FeatureWriter(path, **settings) as writer:
            writer.write_video("avg", f"v{number}", np.ones((2, 1, 3)))
            writer.write_text(number, np.ones((2, 1, 3)), query_hash(f"query {number}"))
        with FeatureWriter(path, **settings) as writer:  # continued
            assert writer.has_text(number, query_hash(f"query {number}"))
            with pytest.raises(UserError, match=f"qid {number} was begun with another query"):
                writer.has_text(number, query_hash("another"))
            writer.finish()
    merge(inputs, tmp_path / "both.h5")
    store = FeatureStore(tmp_path / "both.h5", pooling="avg")
    assert store.query_hashes == {str(number): query_hash(f"query {number}") for number in range(2)}
    assert query_hash("query 0") != query_hash("query 1")
