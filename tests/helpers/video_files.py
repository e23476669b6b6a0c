"""Write small video files with known pixels."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

TICKS = 1000  # per second


def write_video(
    path: Path,
    pictures: list[np.ndarray],
    times: list[float],
    *,
    codec: str = "png",
    pix_fmt: str = "rgb24",
    rotation: int = 0,
    **options: str,
) -> Path:
    """Write RGB pictures (H, W, 3) at times in seconds; the default codec, in .mov or .mkv, is lossless."""
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=TICKS)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pix_fmt
        stream.codec_context.time_base = Fraction(1, TICKS)
        if rotation:
            stream.set_display_rotation(rotation)
        for picture, time in zip(pictures, times, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = round(time * TICKS), Fraction(1, TICKS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_grey_video(path: Path, times: list[float], size: tuple[int, int] = (16, 16), **how: str) -> Path:
    """Write a video whose frame i is uniformly grey i (modulo 256)."""
    return write_video(
        path, [np.full((*size, 3), i % 256, np.uint8) for i in range(len(times))], times, **how
    )


def write_sound(path: Path) -> Path:
    """Write one second of silence without pictures."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        frame.rate, frame.pts, frame.time_base = 8000, 0, Fraction(1, 8000)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
