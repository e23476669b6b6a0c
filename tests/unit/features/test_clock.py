"""One clock in every container: where time 0 is, where a file ends, and what happens when timestamps jump."""

from pathlib import Path

import numpy as np
import pytest

av = pytest.importorskip("av")

from helpers.video_files import GREYS, remux, write_with_sound
from sdst.features.clip_loader import load_clips
from sdst.features.video import ClipSpec, VideoError, VideoReader, upright
from sdst.inference.clips import cut, thumbnails

SPEC = ClipSpec(size=8)
CONTAINERS = {
    "mp4": ("mpeg2video", "aac"),
    "b_frames.mp4": ("libx264", "aac"),
    "mov": ("mpeg2video", "pcm_s16le"),
    "mkv": ("libx264", "aac"),
    "mp3.mkv": ("mpeg2video", "libmp3lame"),
    "webm": ("libvpx", "libopus"),
    "ts": ("libx264", "aac"),
    "mp2.ts": ("mpeg2video", "mp2"),
    "flv": ("libx264", "aac"),
    "avi": ("ffv1", "pcm_s16le"),
    "nut": ("mpeg2video", "aac"),
}
"""File ending -> codecs."""


def write(folder: Path, ending: str, num_pictures: int, **how) -> Path:
    codec, sound_codec = CONTAINERS[ending]
    return write_with_sound(folder / f"v.{ending}", num_pictures, codec=codec, sound_codec=sound_codec, **how)


def shown(path: Path) -> list[int]:
    """Index of the picture taken for each frame of each clip, found by its grey value."""
    greys = [frame.float().mean().item() for clip in VideoReader(path, SPEC) for frame in clip]
    return [picture_of(grey) for grey in greys]


def picture_of(grey: float) -> int:
    return int(np.abs(np.array(GREYS) - grey).argmin())


def expected(starts: float, num_pictures: int, num_clips: int, rate: int = 10) -> list[int]:
    centres = (np.arange(num_clips * 4) + 0.5) * 0.5
    return np.clip(np.floor((centres - starts) * rate + 1e-9), 0, num_pictures - 1).astype(int).tolist()


def picture_at(path: Path, time: float) -> int:
    (frame,) = VideoReader(path, SPEC).frames_at([time])
    return picture_of(upright(frame).mean())


@pytest.mark.parametrize("ending", CONTAINERS)
def test_a_picture_that_begins_after_the_sound(tmp_path, ending):
    path = write(tmp_path, ending, 50, picture_start=3.0, sound=(0.0, 8.0))
    reader = VideoReader(path, SPEC)
    assert shown(path) == expected(3.0, 50, 4)
    list(reader)
    assert reader.duration == pytest.approx(8.0, abs=0.05)
    assert [picture_at(path, time) for time in (0.0, 1.0, 3.05, 4.55, 7.95, 20.0)] == [0, 0, 0, 15, 49, 49]


@pytest.mark.parametrize(
    "ending", sorted(set(CONTAINERS) - {"avi"})
)  # AVI cannot say that sound begins later
def test_sound_that_begins_after_the_picture_changes_nothing(tmp_path, ending):
    path = write(tmp_path, ending, 60, sound=(2.0, 6.0))
    assert shown(path) == expected(0.0, 60, 3)


@pytest.mark.parametrize("ending", CONTAINERS)
def test_the_last_picture_stands_until_the_sound_ends(tmp_path, ending):
    path = write(tmp_path, ending, 40, sound=(0.0, 10.0))
    assert shown(path) == expected(0.0, 40, 5)
    assert picture_at(path, 9.0) == 39


@pytest.mark.parametrize("ending", ["mkv", "webm"])
def test_a_recording_whose_header_states_no_length(tmp_path, ending):
    path = write(tmp_path, ending, 40, sound=(0.0, 10.0), live="1")
    reader = VideoReader(path, SPEC)
    reader.check()
    assert reader.duration is None
    assert shown(path) == expected(0.0, 40, 5)


@pytest.mark.parametrize("ending", ["mp4", "mkv", "ts", "flv", "mov"])
@pytest.mark.parametrize(
    ("picture_start", "sound"), [(3.0, (0.0, 8.0)), (0.0, (0.0, 12.0)), (0.5, (0.0, 6.0))]
)
def test_a_remuxed_file_gives_the_same_clips(tmp_path, ending, picture_start, sound):
    source = write(tmp_path, "b_frames.mp4", 55, picture_start=picture_start, sound=sound)
    copy = remux(source, tmp_path / f"copy.{ending}")
    ours, theirs = list(VideoReader(copy, SPEC)), list(VideoReader(source, SPEC))
    assert len(ours) == len(theirs)
    assert all(left.equal(right) for left, right in zip(ours, theirs, strict=True))


def test_a_late_picture_whose_first_half_second_is_damaged(tmp_path):
    path = write(tmp_path, "b_frames.mp4", 50, picture_start=3.0, sound=(0.0, 8.0))
    blank(path, slice(0, 5))
    first, *others = shown(path)
    assert first in range(5, 10)
    assert others == [max(first, index) for index in expected(3.0, 50, 4)[1:]]


def test_time_0_is_the_earliest_stream_wherever_the_timestamps_begin(tmp_path):
    path = write_with_sound(tmp_path / "v.mkv", 50, picture_start=503.0, sound=(500.0, 508.0))
    assert shown(path) == expected(3.0, 50, 4)


def test_an_edit_list_hides_the_pictures_before_time_0(tmp_path):
    path = write_with_sound(tmp_path / "v.mp4", 60, picture_start=-2.0, sound=(0.0, 4.0))
    assert shown(path) == [index + 20 for index in expected(0.0, 40, 2)]


def test_fragments_that_store_the_picture_before_the_sound(tmp_path):
    path = write(
        tmp_path, "mp4", 50, picture_start=3.0, sound=(0.0, 8.0), movflags="frag_keyframe+delay_moov"
    )
    assert shown(path) == expected(3.0, 50, 4)


@pytest.mark.parametrize("sound", [None, (0.0, 6.0)])
@pytest.mark.parametrize("starts", [(0.0, 0.0), (0.0, 2.0, 0.0), (500.0, 0.0)])
def test_joined_transport_streams_are_read_one_after_the_other(tmp_path, starts, sound):
    path = joined(tmp_path, starts, sound)
    pictures = list(range(60)) * len(starts)
    centres = (np.arange(12 * len(starts)) + 0.5) * 0.5
    assert shown(path) == [pictures[int(centre * 10 + 1e-9)] for centre in centres]
    assert [picture_at(path, time) for time in (1.05, 6.05, 9.05)] == [10, 0, 30]


def test_a_jump_forward_of_picture_and_sound_is_joined(tmp_path):
    assert len(shown(joined(tmp_path, (0.0, 500.0), (0.0, 6.0)))) == 24


def test_joined_streams_stay_in_step_with_their_sound(tmp_path):
    path = joined(tmp_path, (0.0, 0.0), (0.0, 6.0))
    times = [time for _, time in VideoReader(path, SPEC).sound_since(0.0)]
    assert np.diff(times).max() < 0.1
    assert times[-1] == pytest.approx(12.0, abs=0.1)


def joined(folder: Path, starts: tuple[float, ...], sound: tuple[float, float] | None) -> Path:
    parts = []
    for start in starts:
        moved = None if sound is None else (sound[0] + start, sound[1] + start)
        parts.append(
            write_with_sound(folder / "part.ts", 60, picture_start=start, sound=moved, codec="libx264")
        )
        parts[-1] = parts[-1].read_bytes()
    path = folder / "joined.ts"
    path.write_bytes(b"".join(parts))
    return path


def test_timestamps_that_wrap_around(tmp_path):
    start = 2**33 / 90000 - 2
    path = write_with_sound(tmp_path / "v.ts", 60, picture_start=start, sound=(start, start + 6))
    assert shown(path) == expected(0.0, 60, 3)


def test_a_clock_that_jumps_back_elsewhere_is_refused(tmp_path):
    path = write(tmp_path, "mkv", 60, sound=(0.0, 6.0), live="1")
    path.write_bytes(path.read_bytes() * 2)
    with pytest.raises(VideoError, match=r"v\.mkv: its clock jumps back from 5\.9 s to 0\.0 s; remux it"):
        list(VideoReader(path, SPEC))


@pytest.mark.parametrize("ending", ["mp4", "mkv", "flv"])
def test_a_file_that_is_cut_off_is_still_refused(tmp_path, ending):
    how = {"movflags": "faststart"} if ending == "mp4" else {}
    path = write(tmp_path, ending, 200, sound=(0.0, 30.0), **how)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 3])
    with pytest.raises(VideoError, match="truncated"):
        list(VideoReader(path, SPEC))


def test_a_damaged_end_is_refused_although_the_sound_goes_on(tmp_path):
    path = write(tmp_path, "b_frames.mp4", 100, sound=(0.0, 10.0), between_keys=1000)
    blank(path, slice(50, None))
    with pytest.raises(VideoError, match=r"truncated: [45]\.\d s of \d+\.\d s decode"):
        list(VideoReader(path, SPEC))


def blank(path: Path, which: slice) -> None:
    """Overwrite some picture packets with zeros."""
    content = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        pictures = [packet for packet in container.demux(video=0) if packet.size]
    for packet in pictures[which]:
        content[packet.pos : packet.pos + packet.size] = bytes(packet.size)
    path.write_bytes(content)


def test_thumbnails_and_cuts_follow_the_clock(tmp_path):
    path = write(tmp_path, "b_frames.mp4", 50, picture_start=3.0, sound=(0.0, 8.0))
    row = thumbnails(path, 8.0, width=4.1)
    assert [(time, picture_of(picture.mean())) for time, picture in row] == [(1, 0), (3, 0), (5, 20), (7, 40)]
    cut(path, 5.0, 7.0, tmp_path / "cut.mp4")
    assert picture_at(tmp_path / "cut.mp4", 0.05) == 20
    assert picture_at(tmp_path / "cut.mp4", 1.55) == 35
    with av.open(str(tmp_path / "cut.mp4")) as made:
        samples = np.concatenate([frame.to_ndarray()[0] for frame in made.decode(audio=0)])
    loudness = [np.abs(samples[round(48000 * at) :][:4800]).max() for at in (0.5, 1.5)]
    assert loudness[1] / loudness[0] == pytest.approx(7 / 6, rel=0.03)  # seconds 5 and 6


def svg(path: Path) -> Path:
    path.write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="5" height="5"/></svg>'
    )
    return path


def unknown_codec(path: Path) -> Path:
    write_with_sound(path, 20, codec="libx264")
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzz1"))
    return path


@pytest.mark.parametrize("make", [svg, unknown_codec])
def test_a_file_without_a_decoder_is_refused_in_one_line(tmp_path, make):
    path = make(tmp_path / "v.mp4")
    for use in (VideoReader.check, list, lambda reader: list(reader.frames_at([0.0]))):
        with pytest.raises(VideoError, match=r"v\.mp4: there is no decoder for its pictures; convert it"):
            use(VideoReader(path, SPEC))


def test_any_error_of_one_video_leaves_the_others(tmp_path, monkeypatch):
    paths = [write_with_sound(tmp_path / f"{vid}.mp4", 20) for vid in "ab"]
    original = VideoReader._picture

    def picture(reader, frame):
        if reader.path == paths[0]:
            raise ValueError("an unforeseen\nformat")
        return original(reader, frame)

    monkeypatch.setattr(VideoReader, "_picture", picture)
    failed, read = load_clips([(path.stem, path) for path in paths], SPEC, 4, num_workers=0)
    assert (
        failed.failure
        == f"{paths[0]}: cannot be read (ValueError: an unforeseen format); convert it with ffmpeg"
    )
    assert (read.vid, len(read.clips)) == ("b", 1)
