"""Videos as clips: which frames are taken, how they are resized, and which files are refused."""

import itertools
import os
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.shared_data import SHARED, needs_shared
from helpers.video_files import write_grey_video, write_sound, write_video
from sdst.features.video import ClipSpec, VideoError, VideoReader
from sdst.spans import count_clips

SMALL = ClipSpec(size=8)


def greys(path: Path, spec: ClipSpec = SMALL) -> list[list[int]]:
    """The grey value of each frame of each clip."""
    clips = list(VideoReader(path, spec))
    for clip in clips:
        assert clip.dtype == torch.uint8
        assert clip.shape == (spec.num_frames, 3, spec.size, spec.size)
    return [clip[:, 0, 0, 0].tolist() for clip in clips]


def expected_greys(times: list[float], duration: float, spec: ClipSpec) -> list[list[int]]:
    result = []
    for clip in range(count_clips(duration, spec.clip_seconds)):
        shown = []
        for part in range(spec.num_frames):
            centre = (clip + (part + 0.5) / spec.num_frames) * spec.clip_seconds
            shown.append(max([i for i, time in enumerate(times) if time - times[0] <= centre], default=0))
        result.append(shown)
    return result


@settings(max_examples=30, deadline=None)
@given(
    gaps=st.lists(st.integers(1, 1500), max_size=12),
    start=st.integers(0, 700),
    clip_seconds=st.sampled_from([0.5, 1.0, 2.0]),
    num_frames=st.integers(1, 5),
)
def test_frames_follow_the_timestamps(tmp_path_factory, gaps, start, clip_seconds, num_frames):
    times = [ticks / 1000 for ticks in itertools.accumulate(gaps, initial=start)]
    path = write_grey_video(tmp_path_factory.mktemp("vfr") / "v.mov", times)
    spec = ClipSpec(clip_seconds, num_frames, size=8)
    reader = VideoReader(path, spec)
    shown = [clip[:, 0, 0, 0].tolist() for clip in reader]
    assert reader.duration >= times[-1] - times[0]
    assert reader.frames_decoded == len(times)
    assert shown == expected_greys(times, reader.duration, spec)


@pytest.mark.parametrize(("fps", "seconds"), [(1, 10), (120, 2), (29.97, 4)])
def test_frame_rates(tmp_path, fps, seconds):
    times = [i / fps for i in range(round(fps * seconds))]
    path = write_grey_video(tmp_path / "v.mov", times)
    ticks = [round(time * 1000) / 1000 for time in times]
    assert greys(path) == expected_greys(ticks, seconds, SMALL)


def test_a_single_frame_is_one_clip(tmp_path):
    assert greys(write_grey_video(tmp_path / "v.mov", [0.0])) == [[0, 0, 0, 0]]


def test_stretch_is_bicubic_without_antialiasing(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (23, 41, 3), dtype=np.uint8)
    path = write_video(tmp_path / "v.mov", [picture], [0.0])
    clip = next(iter(VideoReader(path, ClipSpec(num_frames=1, size=12))))
    assert difference(clip[0], bicubic(picture, 12, 12)) <= 0.51


@pytest.mark.parametrize("shape", [(23, 41), (41, 23)])
def test_crop_keeps_the_aspect_ratio_and_the_centre(tmp_path, shape):
    picture = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    path = write_video(tmp_path / "v.mov", [picture], [0.0])
    clip = next(iter(VideoReader(path, ClipSpec(num_frames=1, size=12, resize="crop"))))
    long = round(12 * 41 / 23)
    whole = bicubic(picture, *(12 if side == 23 else long for side in shape))
    first = (long - 12) // 2
    centre = whole[first : first + 12] if shape[0] == 41 else whole[:, first : first + 12]
    assert difference(clip[0], centre) <= 0.51


def test_antialiasing_averages_what_shrinking_would_skip(tmp_path):
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    path = write_video(tmp_path / "v.mov", [stripes], [0.0])
    clip = next(iter(VideoReader(path, ClipSpec(num_frames=1, size=8, antialias=True))))
    assert (clip[..., 2:-2].float() - 127.5).abs().max() < 16


@pytest.mark.parametrize(
    ("rotation", "corner"), [(0, (0, 0)), (90, (-1, 0)), (180, (-1, -1)), (-90, (0, -1))]
)
def test_rotation_turns_the_picture_upright(tmp_path, rotation, corner):
    picture = np.zeros((16, 24, 3), np.uint8)
    picture[:8, :12] = (
        255  # the top left quarter; turned counter-clockwise by 90 degrees it is at the bottom left
    )
    path = write_video(tmp_path / "v.mov", [picture], [0.0], rotation=rotation)
    clip = next(iter(VideoReader(path, SMALL)))
    white = [position for position in itertools.product((0, -1), repeat=2) if clip[0, 0][position] > 200]
    assert white == [corner]


def test_only_one_clip_is_decoded_ahead(tmp_path):
    reader = VideoReader(write_grey_video(tmp_path / "v.mov", [i / 10 for i in range(200)]), SMALL)
    next(iter(reader))
    assert reader.frames_decoded <= 2 * 10 + 1


@pytest.mark.parametrize(
    ("suffix", "codec", "pix_fmt", "size"),
    [
        ("mp4", "libx264", "yuv444p", (33, 47)),
        ("mkv", "ffv1", "bgr0", (33, 47)),
        ("avi", "ffv1", "bgr0", (33, 47)),
        ("webm", "libvpx", "yuv420p", (34, 46)),
    ],
)
def test_common_containers_and_odd_sizes(tmp_path, suffix, codec, pix_fmt, size):
    times = [i / 10 for i in range(60)]
    path = write_grey_video(tmp_path / f"v.{suffix}", times, size, codec=codec, pix_fmt=pix_fmt)
    expected = expected_greys(times, 6.0, SMALL)
    assert np.abs(np.array(greys(path)) - expected).max() <= 3  # two of these codecs are lossy


def test_a_file_without_a_declared_length_is_as_long_as_its_frames(tmp_path):
    times = [i / 25 for i in range(75)]
    path = write_grey_video(tmp_path / "v.h264", times, codec="libx264", pix_fmt="yuv444p")
    reader = VideoReader(path, ClipSpec(clip_seconds=1.0, size=8))
    assert reader.duration is None
    num_clips = sum(1 for _ in reader)
    assert num_clips == count_clips(reader.duration, 1.0)
    assert reader.frames_decoded == 75


def test_the_content_decides_the_format_not_the_extension(tmp_path):
    path = write_grey_video(tmp_path / "v.mov", [i / 10 for i in range(40)])
    assert len(greys(path.rename(tmp_path / "v.avi"))) == 2


def truncated(tmp_path: Path, share: float) -> Path:
    """A six-second file cut after a share of its bytes; its index is at the front, so it still opens."""
    times = [i / 20 for i in range(120)]
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (16, 16, 3), dtype=np.uint8) for _ in times]  # equally hard to compress
    path = write_video(tmp_path / "v.mov", pictures, times, movflags="faststart")
    os.truncate(path, round(path.stat().st_size * share))
    return path


def test_a_missing_end_shorter_than_a_clip_repeats_the_last_frame(tmp_path):
    clips = list(VideoReader(truncated(tmp_path, 0.85), SMALL))
    assert len(clips) == 3
    assert clips[2][2].equal(clips[2][3])


def test_a_file_cut_by_more_than_a_clip_is_refused(tmp_path):
    reader = VideoReader(truncated(tmp_path, 0.5), SMALL)
    with pytest.raises(VideoError, match=r"v\.mov: truncated: [23]\.\d s of 6\.0 s decode"):
        list(reader)


@pytest.mark.parametrize(
    ("first", "last", "reason"),
    [(0.35, 0.7, r"between [12]\.\d s and [34]\.\d s"), (0.0, 0.5, "between 0.0 s and [23]")],
)
def test_damage_longer_than_a_clip_is_refused(tmp_path, first, last, reason):
    path = truncated(tmp_path, 1.0)
    content = bytearray(path.read_bytes())
    frames = content.index(b"mdat") + 4
    start, stop = (frames + round(share * (len(content) - frames)) for share in (first, last))
    content[start:stop] = bytes(stop - start)
    path.write_bytes(content)
    with pytest.raises(VideoError, match=f"damaged {reason}"):
        list(VideoReader(path, ClipSpec(clip_seconds=1.0, size=8)))


def empty(path: Path) -> Path:
    path.touch()
    return path


def text(path: Path) -> Path:
    path.write_text("not a video " * 100)
    return path


def headless(path: Path) -> Path:
    """A file without its index, which stood at the cut end."""
    os.truncate(write_grey_video(path.with_suffix(".mov"), [i / 10 for i in range(40)]), 2000)
    return path.with_suffix(".mov").rename(path)


def pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (empty, "is empty"),
        (text, "cannot be opened"),
        (headless, "cannot be opened"),
        (write_sound, "has no video stream"),
        (lambda path: path, "is not a file"),
        (lambda path: path.parent, "is not a file"),
        (pipe, "is not a file"),
    ],
)
def test_unusable_files_are_refused_in_one_line(tmp_path, make, reason):
    path = make(tmp_path / "v.mp4")
    with pytest.raises(VideoError) as error:
        list(VideoReader(path, SMALL))
    assert str(error.value).startswith(f"{path}: {reason}")
    assert "\n" not in str(error.value)


def test_a_playlist_does_not_use_the_network(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        path = tmp_path / "v.m3u8"
        url = f"http://127.0.0.1:{server.getsockname()[1]}/a.ts"
        path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9.0,\n{url}\n#EXT-X-ENDLIST\n")
        with pytest.raises(VideoError):
            list(VideoReader(path, SMALL))
        with pytest.raises(BlockingIOError):  # nothing has connected
            server.accept()


@needs_shared
@pytest.mark.parametrize(
    ("name", "num_frames", "num_clips"),
    [  # data/README.md: duration / 2, and how many frames decode
        ("charades", 460, 15),
        ("internvideo2_example1", 40, 4),
        ("mmaction_part_0", 32, 1),
        ("mmaction_test", 300, 5),
        ("sam2_coffee", 287, 5),
    ],
)
def test_real_videos(name, num_frames, num_clips):
    reader = VideoReader(SHARED / "videos" / f"{name}.mp4", ClipSpec(size=16))
    assert sum(1 for _ in reader) == num_clips
    assert reader.frames_decoded == num_frames


def difference(clip: torch.Tensor, expected: np.ndarray) -> float:
    """Largest difference of a (3, H, W) frame from an (H, W, 3) picture."""
    return float(np.abs(clip.permute(1, 2, 0).numpy().astype(float) - expected).max())


def bicubic(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Keys' kernel with a = -0.75 over four neighbours, pixel centres aligned, borders repeated."""

    def kernel(x: float) -> float:
        x, a = abs(x), -0.75
        if x <= 1:
            return (a + 2) * x**3 - (a + 3) * x**2 + 1
        return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0

    def matrix(n_in: int, n_out: int) -> np.ndarray:
        weights = np.zeros((n_out, n_in))
        for row in range(n_out):
            centre = (row + 0.5) * n_in / n_out - 0.5
            for tap in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
                weights[row, min(max(tap, 0), n_in - 1)] += kernel(centre - tap)
        return weights

    rows, columns = matrix(picture.shape[0], height), matrix(picture.shape[1], width)
    return np.einsum("ah,hwc,bw->abc", rows, picture.astype(float), columns).clip(0, 255)
