"""Archives and files that cannot be used: one line, exit status 2, no feature file; killed imports continue."""

import io
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from helpers.published import ROWS, Published, pack, publish
from helpers.shared_data import SHARED
from sdst.cli import main
from sdst.data.store import FeatureStore
from sdst.features.importers import intake, packed
from sdst.features.writer import FeatureWriter

CASES = SHARED.parent / "cases" / "features"
needs_cases = pytest.mark.skipif(not CASES.is_dir(), reason=f"cases from practice not found at {CASES}")


@pytest.fixture
def files(tmp_path: Path) -> Published:
    return publish("sdst", tmp_path / "down")


def run(files: Published, *options: str | Path) -> int:
    places = ["--annotations", files.annotations, "--out", files.folder.parent / "f.h5"]
    return main(["features", "import", *map(str, places), *map(str, options)])


def refused(files: Published, capsys: pytest.CaptureFixture[str], *options: str | Path) -> str:
    """The one line with which an import is refused; nothing may be written."""
    capsys.readouterr()
    before = list(files.folder.parent.glob("f.h5*"))
    assert run(files, *options) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1, printed
    assert list(files.folder.parent.glob("f.h5*")) == before
    return printed


def add_member(archive: Path, entry: tarfile.TarInfo, content: bytes = b"") -> None:
    entry.size = len(content)
    with tarfile.open(archive, "a") as opened:
        opened.addfile(entry, io.BytesIO(content))


@pytest.mark.parametrize("name", ["../c.npz", "/tmp/c.npz", "down/../../c.npz"])
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_members_outside_an_archive_are_refused(name, kind, files, capsys):
    archive = pack(files.folder, files.folder.parent / f"a.{kind}")
    if kind == "tar":
        add_member(archive, tarfile.TarInfo(name), b"x")
    else:
        with zipfile.ZipFile(archive, "a") as opened:
            opened.writestr(name, b"x")
    assert f"its member '{name}' lies outside the archive" in refused(files, capsys, "--from", archive)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE])
def test_links_and_devices_in_an_archive_are_refused(kind, files, capsys):
    archive = pack(files.folder, files.folder.parent / "a.tar")
    entry = tarfile.TarInfo("vid_feats/x.npz")
    entry.type, entry.linkname = kind, "/etc/passwd"
    add_member(archive, entry)
    assert "is a link or device" in refused(files, capsys, "--from", archive)


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.zip"])
def test_archives_that_are_cut_off_or_damaged_are_refused(name, files, capsys):
    archive = pack(files.folder, files.folder.parent / name)
    whole = archive.read_bytes()
    # 1,024 bytes of zeros end a tar file, so half of it may end between two members.
    for content in (
        whole[: len(whole) // 2],
        whole[:-10_300],
        whole[:1000],
        whole[: len(whole) // 2 // 512 * 512],
    ):
        archive.write_bytes(content)
        assert f"{name}: damaged, cut off or unsafe archive" in refused(files, capsys, "--from", archive)
    if name != "a.tar":
        middle = len(whole) // 2
        archive.write_bytes(whole[:middle] + bytes(100) + whole[middle + 100 :])
        assert "damaged" in refused(files, capsys, "--from", archive)


def test_a_tar_file_that_ends_between_two_members_is_refused(files, capsys):
    archive = pack(files.folder, files.folder.parent / "a.tar")
    with tarfile.open(archive) as opened:
        start = opened.getmembers()[-1].offset
    archive.write_bytes(archive.read_bytes()[:start])
    assert "it stops before its end mark" in refused(files, capsys, "--from", archive)


def test_a_missing_part_is_named(files, capsys):
    first = pack(files.folder, files.folder.parent / "a.tar.gz", parts=4)
    first.with_name("a.tar.gz.ac").unlink()
    assert "parts aa, ab, ad are there" in refused(files, capsys, "--from", first)
    first.with_name("a.tar.gz.ad").unlink()
    assert "cut off" in refused(files, capsys, "--from", first)
    first.unlink()
    assert "parts ab are there" in refused(files, capsys, "--from", first.with_name("a.tar.gz.ab"))


@pytest.mark.parametrize("kind", ["tar.gz", "zip"])
def test_archive_bombs_are_refused(kind, files, capsys):
    archive = files.folder.parent / f"bomb.{kind}"
    zeros = bytes(200 * 2**20)
    if kind == "zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
            opened.writestr("vid_feats/c.npz", zeros)
    else:
        with tarfile.open(archive, "w:gz", compresslevel=1) as opened:
            entry = tarfile.TarInfo("vid_feats/other.npz")
            entry.size = len(zeros)
            opened.addfile(entry, io.BytesIO(zeros))
    assert "damaged, cut off or unsafe archive (unpacks to" in refused(files, capsys, "--from", archive)


@pytest.mark.parametrize("place", ["vid_feats/sub/c.npz", "txt_feats/qid5.npz", "vid_feats/c.npy"])
@pytest.mark.parametrize("kind", ["folder", "tar", "zip"])
def test_two_files_of_one_video_or_query_are_refused(place, kind, files, capsys):
    second = files.folder / place
    second.parent.mkdir(exist_ok=True)
    if place.endswith(".npy"):
        np.save(second, files.videos["c"].swapaxes(0, 1))
    else:
        shutil.copy(files.folder / ("txt_feats/5.npz" if "txt" in place else "vid_feats/c.npz"), second)
    source = files.folder if kind == "folder" else pack(files.folder, files.folder.parent / f"a.{kind}")
    printed = refused(files, capsys, "--from", source)
    assert "has two files, " in printed
    assert place in printed


@pytest.mark.parametrize(
    ("place", "arrays", "message"),
    [
        ("vid_feats/c", {"visual_feats_pooled": np.ones((63, 768))}, "all files must have the same layers"),
        (
            "vid_feats/c",
            {"visual_feats_interm_pooled": np.ones((63, 4, 768))},
            "all files must have the same layers",
        ),
        (
            "vid_feats/c",
            {"visual_feats_interm_pooled": np.full((63, 5, 768), np.nan)},
            "holds NaN, Inf or values",
        ),
        ("vid_feats/c", {"visual_feats_interm_pooled": np.full((63, 5, 768), 1e6)}, "values beyond float16"),
        ("vid_feats/c", {"visual_feats_interm_pooled": np.ones((0, 5, 768))}, "is empty"),
        ("vid_feats/c", {"visual_feats_interm_pooled": np.ones((63, 5, 512))}, "is 512 wide"),
        ("vid_feats/c", {"x": np.ones((63, 5, 768)), "y": np.ones(2)}, "choose with --video-key from: x, y"),
        ("txt_feats/5", {"text_feats": np.ones((6, 1024))}, "all files must have the same layers"),
        ("txt_feats/5", {"text_feats": np.ones((1, 6, 1024))}, "all files must have the same layers"),
        (
            "txt_feats/5",
            {"text_feats": np.array([np.ones(3), np.ones(2)], dtype=object)},
            "pickled Python objects",
        ),
        (
            "txt_feats/2",
            {"text_feats": np.ones((5, 8, 1024))},
            "qid 2: its file has 8 tokens, but the query has 11",
        ),
    ],
)
@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_a_file_unlike_the_others_is_refused(place, arrays, message, kind, files, capsys):
    np.savez(files.folder / f"{place}.npz", **arrays)
    if "has 8 tokens" in message:
        np.savez(files.folder / "txt_feats" / "5.npz", text_feats=np.ones((5, 12, 1024)))
    source = files.folder if kind == "folder" else pack(files.folder, files.folder.parent / "a.tar")
    printed = refused(files, capsys, "--from", source)
    assert message in printed
    assert "qid 2" in message or f"{place}.npz" in printed


def test_a_longer_query_may_show_late_that_a_file_is_another_querys(files, capsys, monkeypatch):
    monkeypatch.setattr(intake, "MOST_HELD", 1)
    np.savez(files.folder / "txt_feats" / "0.npz", text_feats=np.ones((5, 6, 1024)))  # 7 words
    assert run(files, "--from", files.folder) == 2
    printed = capsys.readouterr().err
    assert (
        "qid 0: its file has 6 tokens, but the query has 7 words and other files have up to 13 tokens"
        in printed
    )
    assert "f.h5.partial" in printed


def test_queries_cut_at_one_length_are_accepted(files):
    for qid in ROWS:
        np.savez(
            files.folder / "txt_feats" / f"{qid}.npz", text_feats=np.ones((5, 6 if qid < 5 else 5, 1024))
        )
    assert run(files, "--from", files.folder) == 0


def test_clips_on_the_second_axis_are_refused(files, capsys):
    for lengths in ({"c": 63}, {}):  # of other lengths, and all alike
        for vid, layers in files.videos.items():
            array = np.resize(layers, (2, lengths.get(vid, 75), 8))
            np.savez(files.folder / "vid_feats" / f"{vid}.npz", features=array)
        printed = refused(files, capsys, "--from", files.folder, "--backbone", "x")
        assert "clips must be the first axis: (T, D), (T, layers, D)" in printed


def test_transposed_features_are_refused(files, capsys):
    for length in (63, 75):
        for vid, layers in files.videos.items():
            array = np.resize(layers, (length if vid == "c" else 75, 768)).T
            np.savez(files.folder / "vid_feats" / f"{vid}.npz", features=array)
        printed = refused(files, capsys, "--from", files.folder, "--backbone", "x")
        assert "clips must be the first axis" in printed


def test_equal_texts_of_no_known_layout_need_the_option(files, capsys):
    for qid in ROWS:
        np.savez(files.folder / "txt_feats" / f"{qid}.npz", other=np.ones((5, 13, 1024)))
    printed = refused(files, capsys, "--from", files.folder)
    assert "5 layers of 13 tokens (--text-axes layers,tokens) or 5 tokens in 13 layers" in printed
    assert run(files, "--from", files.folder, "--text-axes", "layers,tokens") == 0
    assert FeatureStore(files.folder.parent / "f.h5").info.text_layers == (1, 2, 3, 4, 5)


def test_a_layout_that_does_not_fit_is_refused(files, capsys):
    printed = refused(files, capsys, "--from", files.folder, "--layout", "r2-tuning")
    assert "expected 4 axes of width any in layout r2-tuning; check --layout or leave it out" in printed
    printed = refused(files, capsys, "--from", files.folder, "--layout", "sg-detr")
    assert "expected 2 axes of width 512 in layout sg-detr" in printed


def test_an_unknown_network_must_be_named(files, capsys):
    for vid, layers in files.videos.items():
        np.savez(files.folder / "vid_feats" / f"{vid}.npz", features=layers[0, :, :7])
    assert "name the network with --backbone NAME" in refused(files, capsys, "--from", files.folder)


def test_sources_must_be_given_for_both_kinds(files, capsys):
    for options in (
        (),
        ("--videos", files.folder),
        ("--videos", "a", "--queries", "b", "--from", files.folder),
    ):
        assert "expected --from, or --videos and --queries" in refused(files, capsys, *options)
    assert "no such folder or archive" in refused(files, capsys, "--from", files.folder / "nothing")
    assert "not a .tar, .tar.gz, .tgz or .zip file" in refused(files, capsys, "--from", files.annotations)


@pytest.mark.parametrize("name", ["down", "a.tar.gz", "a.zip"])
def test_a_killed_import_continues(name, files, monkeypatch):
    source = files.folder if name == "down" else pack(files.folder, files.folder.parent / name)
    written = []

    def write_three(self, qid, *rest, write=FeatureWriter.write_text):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(qid)
        write(self, qid, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(FeatureWriter, "write_text", write_three)
        assert run(files, "--from", source) == 130
    assert (files.folder.parent / "f.h5.partial").is_file()
    assert run(files, "--from", source) == 0
    store = FeatureStore(files.folder.parent / "f.h5")
    assert len(written) == 2
    for qid, expected in files.queries.items():
        np.testing.assert_array_equal(store.text(qid), expected.astype(np.float16))


def test_a_killed_import_is_not_continued_with_other_axes(files, capsys, monkeypatch):
    monkeypatch.setattr(
        FeatureWriter, "finish", lambda self, **found: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    assert run(files, "--from", files.folder) == 130
    printed = refused(files, capsys, "--from", files.folder, "--text-axes", "layers,tokens")
    assert "was started with other settings" in printed


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_an_archive_is_read_once(name, files, monkeypatch):
    archive = pack(files.folder, files.folder.parent / name)
    counts = []

    def readinto(self, buffer, old=packed._Parts.readinto):
        counts.append(old(self, buffer))
        return counts[-1]

    monkeypatch.setattr(packed._Parts, "readinto", readinto)
    assert run(files, "--from", archive) == 0
    assert sum(counts) <= archive.stat().st_size + 1024  # a look at its first bytes says what it is


def test_only_the_first_files_are_held_in_memory(files, monkeypatch):
    monkeypatch.setattr(intake, "MOST_HELD", 2)
    held = []
    monkeypatch.setattr(
        intake.Intake,
        "write_held",
        lambda self, old=intake.Intake.write_held: (held.append(len(self._held)), old(self)),
    )
    assert run(files, "--from", pack(files.folder, files.folder.parent / "a.tar")) == 0
    assert max(held) <= 2


def test_joined_features_of_other_lengths_are_refused(tmp_path, capsys):
    files = publish("moment-detr", tmp_path / "down")
    np.savez(files.folder / "clip_features" / "c.npz", features=np.ones((60, 512)))
    places = [option for name in files.video_folders for option in ("--videos", files.folder / name)]
    printed = refused(files, capsys, *places, "--queries", files.folder / files.query_folder)
    assert "c.npz: has 64 clips" in printed
    assert "has 60; features to be joined may differ by 2 clips" in printed


@needs_cases
@pytest.mark.parametrize("case", ["v1TD", "univtg", "token", "grad", "dict", "npinpt"])
def test_features_from_practice_are_imported(case, tmp_path):
    folder = CASES / case
    options = ["--annotations", folder / "a.jsonl", "--videos", folder / "v", "--queries", folder / "q"]
    out = tmp_path / "f.h5"
    assert main(["features", "import", *map(str, [*options, "--backbone", "x", "--out", out])]) == 0
    store = FeatureStore(out)
    for vid in store.vids():
        path = next((folder / "v").glob(f"{vid}.*"))
        if path.suffix == ".npz":
            expected = np.load(path)["features"]
            np.testing.assert_array_equal(
                store.video(vid), expected.reshape(1, *expected.shape[-2:]).astype(np.float16)
            )
        assert store.video(vid).shape[:2] == (1, 15 if case == "univtg" else 75)
    assert store.text(0).shape[:2] == (1, 12)


@needs_cases
def test_a_list_of_tensors_is_named(tmp_path, capsys):
    folder = CASES / "list"
    options = ["--annotations", folder / "a.jsonl", "--videos", folder / "v", "--queries", folder / "q"]
    assert (
        main(["features", "import", *map(str, [*options, "--backbone", "x", "--out", tmp_path / "f.h5"])])
        == 2
    )
    assert "v0.pt: holds a list of 75 Tensors; store one tensor" in capsys.readouterr().err


def test_a_qid_of_two_queries_is_refused(files, capsys):
    other = files.annotations.with_name("other.jsonl")
    other.write_text(files.annotations.read_text().replace("word", "other"))
    assert "stands for another query in another file" in refused(
        files, capsys, "--from", files.folder, "--annotations", files.annotations, other
    )
