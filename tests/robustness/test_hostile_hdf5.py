"""Feature files from strangers: nothing outside the file is read, and no more memory is used than it accounts for."""

import os
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from sdst.cli import main
from sdst.data.fingerprint import fingerprint
from sdst.data.info import read_info
from sdst.data.store import FeatureStore
from sdst.errors import UserError
from sdst.features.writer import FeatureWriter

VIDEO, TEXT = "video/adaptive/v", "text/q"
Spoil = Callable[[h5py.File, Path], None]


def write(path: Path) -> Path:
    with FeatureWriter(path, backbone="net", video_layers=[1], text_layers=[1], clip_seconds=2.0) as writer:
        writer.write_video("adaptive", "v", np.ones((3, 1, 4)))
        writer.write_text("q", np.ones((2, 1, 4)))
        writer.finish()
    return path


def replaced(**how: object) -> Spoil:
    """Create the video's features again, with the given data or only declared."""

    def apply(file: h5py.File, folder: Path) -> None:
        del file[VIDEO]
        file.create_dataset(VIDEO, dtype=np.float16, **how)

    return apply


def linked(link: Callable[[Path], object], key: str = VIDEO) -> Spoil:
    def apply(file: h5py.File, folder: Path) -> None:
        del file[key]
        file[key] = link(folder)

    return apply


def external_values(file: h5py.File, folder: Path) -> None:
    del file[VIDEO]
    (folder / "secret").write_bytes(bytes(24))
    file.create_dataset(VIDEO, (3, 1, 4), np.float16, external=[(folder / "secret", 0, 24)])


def virtual_values(file: h5py.File, folder: Path) -> None:
    del file[VIDEO]
    layout = h5py.VirtualLayout((3, 1, 4), np.float16)
    layout[:] = h5py.VirtualSource(folder / "other.h5", VIDEO, shape=(3, 1, 4))
    file.create_virtual_dataset(VIDEO, layout)


def wide_chunk(file: h5py.File, folder: Path) -> None:
    del file[VIDEO]
    how = {"maxshape": (None, 1, 4), "chunks": (2**26, 1, 4), "compression": "gzip"}
    file.create_dataset(VIDEO, (3, 1, 4), np.float16, **how)


HUGE = (10**9, 1, 4)
HOSTILE: dict[str, tuple[Spoil, str]] = {
    "an external link to an array": (linked(lambda f: h5py.ExternalLink(f / "other.h5", VIDEO)), "link"),
    "an external link to a group": (
        linked(lambda f: h5py.ExternalLink(f / "other.h5", "/video/adaptive"), "video/adaptive"),
        "link",
    ),
    "an external link to all videos": (
        linked(lambda f: h5py.ExternalLink(f / "other.h5", "/video"), "video"),
        "link",
    ),
    "a soft link": (linked(lambda f: h5py.SoftLink(f"/{TEXT}")), "link"),
    "a soft link to itself": (linked(lambda f: h5py.SoftLink(f"/{VIDEO}")), "link"),
    "values in another file": (external_values, "another file"),
    "virtual values": (virtual_values, "another file"),
    "huge, in no bytes": (replaced(shape=HUGE), "declares 8000000000 bytes"),
    "huge, in chunks, in no bytes": (replaced(shape=HUGE, chunks=(10, 1, 4)), "declares"),
    "huge, compressed, in no bytes": (replaced(shape=HUGE, chunks=True, compression="gzip"), "declares"),
    "a compression bomb": (
        replaced(data=np.ones((2**23, 1, 8), np.float16), chunks=(2**16, 1, 8), compression="gzip"),
        "declares",
    ),
    "one huge compressed chunk": (wide_chunk, "declares 536870912 bytes"),
    "beyond any count": (replaced(shape=(2**40, 2**40, 2**40), chunks=(1, 1, 4)), "layers x width|declares"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_every_reader_refuses_before_any_value_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path = write(tmp_path / "f.h5")
    write(tmp_path / "other.h5")
    spoil, message = HOSTILE[kind]
    with h5py.File(path, "r+") as file:
        spoil(file, tmp_path)

    def forbidden(*_: object) -> None:
        raise AssertionError("values were read")

    monkeypatch.setattr(h5py.Dataset, "__getitem__", forbidden)
    readers: tuple[Callable[[], object], ...] = (
        lambda: FeatureStore(path).video("v"),
        lambda: FeatureStore(path).num_clips("v"),
        lambda: fingerprint(path, "adaptive"),
    )
    for read in readers:
        with pytest.raises(UserError, match=message) as caught:
            read()
        assert str(caught.value).count(str(path)) == 1
    assert main(["features", "merge", str(path), "--out", str(tmp_path / "out.h5")]) == 2
    assert not (tmp_path / "out.h5").exists()


def test_compressed_and_chunked_features_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "f.h5")
    values = np.random.default_rng(0).normal(size=(50, 1, 4)).astype(np.float16)
    for how in ({"chunks": (7, 1, 3)}, {"compression": "gzip", "shuffle": True}, {"compression": "lzf"}):
        with h5py.File(path, "r+") as file:
            del file[VIDEO]
            file.create_dataset(VIDEO, data=values, **how)
        np.testing.assert_array_equal(FeatureStore(path).video("v")[0], values[:, 0])


def test_attributes_other_than_plain_values_are_refused(tmp_path: Path) -> None:
    for value in (np.zeros(5000), h5py.Empty("f"), np.void(b"opaque"), [[1, 2], [3, 4]]):
        path = write(tmp_path / "f.h5")
        with h5py.File(path, "r+") as file:
            file.attrs["more"] = value
        with pytest.raises(UserError, match="attribute 'more'"):
            read_info(path)
        path.unlink()


@pytest.mark.parametrize("seconds", [0.0, -2.0, np.nan, np.inf, "two"])
def test_an_impossible_clip_length_is_refused(tmp_path: Path, seconds: object) -> None:
    path = write(tmp_path / "f.h5")
    with h5py.File(path, "r+") as file:
        file.attrs["clip_seconds"] = seconds
    with pytest.raises(UserError, match="'clip_seconds'"):
        read_info(path)


def test_a_pipe_is_refused_as_a_feature_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "f.h5")  # opening it would wait for a writer
    with pytest.raises(UserError, match="no such file"):
        read_info(tmp_path / "f.h5")
