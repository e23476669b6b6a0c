"""Full disks: a file is complete or absent, and the error is one line."""

import os
import random
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from sdst.data.store import FeatureStore
from sdst.errors import UserError
from sdst.features.writer import FeatureWriter
from sdst.files.atomic import write_atomically
from sdst.plotting.predictions import plot_predictions
from sdst.types import Prediction, Record


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """Let no file grow beyond ``size`` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def write_features(path: Path) -> None:
    """Write 60 videos and queries, except those already written."""
    with FeatureWriter(path, backbone="b", video_layers=[1], text_layers=[1], clip_seconds=2.0) as writer:
        for number in range(60):
            if not writer.has_video(f"v{number}", "avg"):
                writer.write_video("avg", f"v{number}", np.full((9, 1, 16), number))
            if not writer.has_text(number):
                writer.write_text(number, np.full((5, 1, 8), number))
        writer.finish()


def test_writing_features_continues_after_a_disk_that_was_full_at_any_byte(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_features(tmp_path / "whole.h5")
    size = (tmp_path / "whole.h5").stat().st_size
    draw = random.Random(0)
    for number, limit in enumerate([1, size - 1, *(draw.randrange(size) for _ in range(40))]):
        path = tmp_path / f"{number}.h5"
        with pytest.raises(UserError, match=r"File too large.*; free some space"), room_for(limit):
            write_features(path)
        assert not path.exists()
        write_features(path)
        store = FeatureStore(path, pooling="avg")
        for n in range(60):
            assert (store.video(f"v{n}") == n).all()
            assert (store.text(n) == n).all()
    assert capfd.readouterr().err == ""  # HDF5 would print its own errors


def test_a_file_that_cannot_be_replaced_stays_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    write_atomically(path, "before")
    with pytest.raises(UserError, match=r"metrics\.json: cannot be written \(File too large\)"), room_for(4):
        write_atomically(path, "longer than four bytes")
    with pytest.raises(UnicodeEncodeError):  # half of a character, after much that can be written
        write_atomically(path, "x" * 100_000 + "\ud800")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_content_is_on_disk_before_the_file_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []

    def note(descriptor: int) -> None:
        assert not (tmp_path / "f").exists()
        synced.append(os.fstat(descriptor).st_size)

    monkeypatch.setattr(os, "fsync", note)
    write_atomically(tmp_path / "f", "12345")
    assert synced == [5]


def test_a_plot_that_does_not_fit_on_the_disk_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    prediction = Prediction(1, "v", "query", np.array([[0, 2, 0.5]]), np.zeros(2))
    plot_predictions([prediction], [Record(1, "v", "query", 4.0)], tmp_path / "whole.png", 2.0)
    with pytest.raises(UserError) as caught, room_for(100):
        plot_predictions([prediction], [Record(1, "v", "query", 4.0)], tmp_path / "p.png", 2.0)
    path = tmp_path / "p.png"
    assert str(caught.value) == f"{path}: cannot be written (File too large); free some space and go on"
    assert not path.exists()
