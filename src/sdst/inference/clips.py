"""Thumbnails of a video, and its predicted moments cut out as video files."""

from __future__ import annotations

import heapq
import re
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch.nn import functional as F

from sdst.errors import UserError
from sdst.features.video import ClipSpec, VideoReader, upright
from sdst.files.atomic import atomic_path

# isort: split
import av  # after sdst.features.video, which reports a missing PyAV in one line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from av.container import OutputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream
    from numpy.typing import NDArray

    from sdst.types import Prediction

THUMBNAIL_HEIGHT = 96  # pixels
FRAME_RATES = (10, 60)  # lowest and highest frame rate of a cut, per second
AUDIO_RATE = 48000
NAME_BYTES = 60  # limit for each text in a file name, so that the whole name stays below 255 bytes


def thumbnails(path: Path, duration: float, width: float) -> list[tuple[float, NDArray[np.uint8]]]:
    """Thumbnails of a video, as many as fit in a row.

    Args:
        path: The video file.
        duration: Length of the video in seconds.
        width: Width of the row, in thumbnail heights.

    Returns:
        (time in seconds, RGB picture) pairs, taken in the middle of equal parts of the video.
    """
    reader = VideoReader(path, ClipSpec())
    first = _shrink(upright(next(reader.frames_at([0.0]))))
    count = max(1, int(width * first.shape[0] / first.shape[1]))
    times = [(index + 0.5) * duration / count for index in range(count)]
    return [(time, _shrink(upright(next(reader.frames_at([time]))))) for time in times]


def cut_moments(prediction: Prediction, source: Path, folder: Path, count: int = 1) -> list[Path]:
    """Write a query's best moments as video files and return their paths.

    Args:
        prediction: Prediction whose moments are cut out, best first.
        source: The video file.
        folder: Folder for the new files.
        count: Largest number of moments.

    Raises:
        UserError: The video cannot be read or a file cannot be written.
    """
    paths = []
    for rank, (start, end, _) in enumerate(prediction.windows[:count].tolist(), start=1):
        parts = (f"{prediction.qid:03}", file_words(prediction.vid), file_words(prediction.query), rank)
        paths.append(folder / f"{'_'.join(map(str, parts))}_{start:.1f}-{end:.1f}s.mp4")
        cut(source, start, end, paths[-1])
    return paths


def cut(source: Path, start: float, end: float, out: Path) -> None:
    """Write the part of a video from ``start`` to ``end`` seconds, with its sound, as an mp4 file.

    Video and sound are re-encoded, so that the cut is exact and not at the nearest key frame. The frame rate is
    constant and the picture is upright. The file gets its name only when it is complete.

    Raises:
        UserError: The video cannot be read or the file cannot be written.
    """
    try:
        with atomic_path(out) as temporary, av.open(str(temporary), "w", format="mp4") as target:
            reader = VideoReader(source, ClipSpec())
            tracks = [_video_packets(reader, start, end, target), _audio_packets(reader, start, end, target)]
            for packet in heapq.merge(*tracks, key=_seconds):
                target.mux(packet)
    except av.FFmpegError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}); choose another path") from error


def file_words(text: str) -> str:
    """A text as part of a file name: its letters and digits, joined by hyphens, cut to ``NAME_BYTES``."""
    words = re.sub(r"[\W_]+", "-", text).strip("-")
    return words.encode()[:NAME_BYTES].decode(errors="ignore").strip("-")


def _video_packets(
    reader: VideoReader, start: float, end: float, target: OutputContainer
) -> Iterator[Packet[Any]]:
    reader.check()
    slowest, fastest = FRAME_RATES
    rate = min(max(reader.frame_rate, Fraction(slowest)), Fraction(fastest)).limit_denominator(1001)
    count = max(1, round((end - start) * rate))
    # Sampled half a frame late, so that a timestamp rounded down does not pick the frame before.
    times = [start + float((index + 0.5) / rate) for index in range(count)]
    stream = None
    for index, shown in enumerate(reader.frames_at(times)):
        picture = upright(shown)
        height, width = (max(2, size // 2 * 2) for size in picture.shape[:2])  # the codec wants even sizes
        if stream is None:
            codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
            stream = cast("VideoStream", target.add_stream(codec, rate=rate))
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[:height, :width]), format="rgb24")
        frame.pts, frame.time_base = index, 1 / rate
        yield from stream.encode(frame)
    assert stream is not None  # frames_at gave one frame per time
    yield from stream.encode(None)


def _audio_packets(
    reader: VideoReader, start: float, end: float, target: OutputContainer
) -> Iterator[Packet[Any]]:
    """Audio packets, cut to whole frames of about 1/50 s; none if the video is silent."""
    stream = None
    for frame, time in reader.sound_since(max(0.0, start - 1)):  # a decoder needs what came before
        if time < start:
            continue
        if time >= end:
            break
        if stream is None:
            stream = target.add_stream("aac", rate=AUDIO_RATE)
        assert frame.time_base is not None  # it has a time
        frame.pts = round((time - start) / frame.time_base)
        yield from stream.encode(frame)
    if stream is not None:
        yield from stream.encode(None)


def _seconds(packet: Packet[Any]) -> float:
    assert packet.dts is not None  # encoders set it
    assert packet.time_base is not None
    return float(packet.dts * packet.time_base)


def _shrink(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Resize a picture to the height of a thumbnail; smaller pictures stay as they are."""
    height, width = picture.shape[:2]
    if height <= THUMBNAIL_HEIGHT:
        return picture
    shape = (THUMBNAIL_HEIGHT, max(1, round(width * THUMBNAIL_HEIGHT / height)))
    pixels = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float()
    small = F.interpolate(pixels, shape, mode="area")[0].permute(1, 2, 0)
    return np.asarray(small.round().to(torch.uint8).numpy())
