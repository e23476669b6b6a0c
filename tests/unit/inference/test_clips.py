"""Frames at given times, thumbnails and cuts of videos with known pixels."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

av = pytest.importorskip("av")

from helpers.shared_data import SHARED, needs_shared
from helpers.video_files import write_video
from sdst.errors import UserError
from sdst.features.video import ClipSpec, VideoReader, upright
from sdst.inference.clips import cut, cut_moments, file_words, thumbnails
from sdst.types import Prediction

FIFTHS = [fifth * 91 % 240 for fifth in range(60)]
"""Grey value of each fifth of a second; neighbours differ by a lot."""


def grey(picture: np.ndarray) -> float:
    return float(picture.mean())


def reader(path: Path) -> VideoReader:
    return VideoReader(path, ClipSpec())


def write_at_25(path: Path, codec: str, pix_fmt: str = "yuv420p", between_keys: int = 25) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 48, 32, pix_fmt
        stream.options = {"g": str(between_keys)}
        for index, value in enumerate(np.repeat(FIFTHS, 5)):
            frame = av.VideoFrame.from_ndarray(np.full((32, 48, 3), value, np.uint8), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def greys(tmp_path_factory):
    return write_at_25(tmp_path_factory.mktemp("clips") / "greys.mp4", "libx264")


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("png.mov", "png", "rgb24"),
        ("x264.mkv", "libx264", "yuv420p"),
        ("mpeg2.ts", "mpeg2video", "yuv420p"),
        ("mpeg4.avi", "mpeg4", "yuv420p"),
        ("no_times.h264", "libx264", "yuv420p"),
    ],
)
def test_the_frame_on_screen_is_found_in_every_format(tmp_path, name, codec, pix_fmt):
    path = write_at_25(tmp_path / name, codec, pix_fmt)
    times = [7.11, 7.19, 7.21, 9.1, 11.9, 50.0]
    found = [grey(upright(frame)) for frame in reader(path).frames_at(times)]
    expected = [FIFTHS[fifth] for fifth in (35, 35, 36, 45, 59, 59)]
    np.testing.assert_allclose(found, expected, atol=3)


def test_a_late_frame_is_reached_without_decoding_the_video(greys, monkeypatch):
    from sdst.features import video

    decoded = []
    decode = video.decode_packets
    monkeypatch.setattr(
        video, "decode_packets", lambda *of: (decoded.append(frame) or frame for frame in decode(*of))
    )
    (frame,) = reader(greys).frames_at([11.05])
    assert grey(upright(frame)) == pytest.approx(FIFTHS[55], abs=3)
    assert len(decoded) < 40


def test_thumbnails_show_the_video_at_their_times(greys):
    row = thumbnails(greys, 12.0, width=6.1)
    assert [time for time, _ in row] == [1.5, 4.5, 7.5, 10.5]  # four of 1.5 heights fit
    np.testing.assert_allclose(
        [grey(picture) for _, picture in row], [FIFTHS[n] for n in (7, 22, 37, 52)], atol=3
    )


def test_thumbnails_are_upright_small_and_at_least_one(tmp_path):
    picture = np.zeros((200, 400, 3), np.uint8)
    picture[:, :200] = 255  # the left half
    path = write_video(tmp_path / "turned.mov", [picture] * 2, [0, 0.5], rotation=90)
    ((time, small),) = thumbnails(path, 1.0, width=0.1)
    assert (time, small.shape) == (0.5, (96, 48, 3))
    assert small[:40].mean() < 5  # turned counter-clockwise the left half is below
    assert small[-40:].mean() > 250


@pytest.mark.parametrize(("start", "end"), [(0.0, 2.0), (3.6, 8.4), (9.48, 12.0)])
def test_a_cut_contains_exactly_its_part(greys, tmp_path, start, end):
    cut(greys, start, end, tmp_path / "cut.mp4")
    made = reader(tmp_path / "cut.mp4")
    made.check()
    assert made.duration == pytest.approx(end - start, abs=0.05)
    times = np.array([0.02, 1.02, end - start - 0.02])
    found = [grey(upright(frame)) for frame in made.frames_at(times.tolist())]
    expected = [FIFTHS[int((start + time) / 0.2)] for time in times]
    np.testing.assert_allclose(found, expected, atol=3)
    assert [path.name for path in tmp_path.iterdir()] == ["cut.mp4"]


def test_a_cut_of_an_odd_sized_turned_video_is_upright_and_playable(tmp_path):
    pictures = [np.full((31, 51, 3), 100, np.uint8)] * 10
    path = write_video(tmp_path / "odd.mov", pictures, [i / 5 for i in range(10)], rotation=90)
    cut(path, 0.5, 1.5, tmp_path / "cut.mp4")
    (frame,) = reader(tmp_path / "cut.mp4").frames_at([0.5])
    assert upright(frame).shape == (50, 30, 3)


@needs_shared
def test_a_cut_has_its_sound(tmp_path):
    source = SHARED / "videos" / "charades.mp4"
    cut(source, 10.0, 12.0, tmp_path / "cut.mp4")
    with av.open(str(tmp_path / "cut.mp4")) as made, av.open(str(source)) as original:
        lengths = {stream.type: float(stream.duration * stream.time_base) for stream in made.streams}
        assert lengths == {"video": pytest.approx(2, abs=0.07), "audio": pytest.approx(2, abs=0.07)}
        loudness = [np.abs(frame.to_ndarray()).mean() for frame in made.decode(audio=0)]
        expected = [
            np.abs(frame.to_ndarray()).mean() for frame in original.decode(audio=0) if 10 <= frame.time < 12
        ]
    assert np.mean(loudness) == pytest.approx(np.mean(expected), rel=0.2)


def test_file_names_never_contain_a_path(greys, tmp_path):
    queries = ["../../etc/passwd", "/", "..", "", "a\0b\nc", "-rf *", "猫" * 300, "CON", "x" * 5000]
    for qid, query in enumerate(queries):
        windows = np.array([[0.0, 1.0, 0.9], [2.0, 3.0, 0.5]])
        (path,) = cut_moments(Prediction(qid, "../v", query, windows), greys, tmp_path)
        assert path.parent == tmp_path
    assert len(list(tmp_path.iterdir())) == len(queries)
    assert (tmp_path / "000_v_etc-passwd_1_0.0-1.0s.mp4").is_file()
    assert file_words("A dog, jumps!") == "A-dog-jumps"


def test_the_requested_number_of_moments_is_cut(greys, tmp_path):
    windows = np.array([[1.0, 2.0, 0.9], [4.0, 6.0, 0.5], [7.0, 8.0, 0.1]])
    paths = cut_moments(Prediction(7, "v", "dog", windows), greys, tmp_path, count=2)
    assert [path.name for path in paths] == ["007_v_dog_1_1.0-2.0s.mp4", "007_v_dog_2_4.0-6.0s.mp4"]


def test_an_unwritable_path_is_refused(greys, tmp_path):
    with pytest.raises(UserError, match="cannot be written"):
        cut(greys, 0, 1, tmp_path / "absent" / "cut.mp4")
