"""Write small video files with known pixels."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

TICKS = 1000  # per second
GREYS = [10 + round(index * 17 % 60 * 3.6) for index in range(60)]
"""Grey values that tell 60 pictures apart after lossy coding."""


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


def write_with_sound(
    path: Path,
    num_pictures: int,
    *,
    rate: int = 10,
    picture_start: float = 0.0,
    sound: tuple[float, float] | None = None,
    codec: str = "libx264",
    sound_codec: str = "aac",
    between_keys: int = 5,
    **options: str,
) -> Path:
    """Write a 64 x 64 video with picture i in ``GREYS[i % 60]``, and a tone from ``sound[0]`` to ``sound[1]`` seconds.

    The tone gets louder every second. Packets are interleaved by time.
    """
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        stream.options = {
            "g": str(between_keys),
            **({"deadline": "realtime"} if codec.startswith("libvpx") else {}),
        }
        tone = container.add_stream(sound_codec, rate=48000, layout="mono") if sound else None
        packets = []
        for index in range(num_pictures):
            frame = av.VideoFrame.from_ndarray(
                np.full((64, 64, 3), GREYS[index % 60], np.uint8), format="rgb24"
            )
            frame.pts, frame.time_base = index + round(picture_start * rate), Fraction(1, rate)
            packets += stream.encode(frame)
        packets += stream.encode(None)
        if tone is not None and sound is not None:
            packets += _tone(tone, *sound)
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)
    return path


def _tone(stream: av.AudioStream, start: float, end: float) -> list[av.Packet]:
    size = stream.codec_context.frame_size or 1024
    resampler = av.AudioResampler(format=stream.codec_context.format.name, layout="mono", rate=48000)
    packets = []
    for block in range(int((end - start) * 48000 / size)):
        seconds = start + (np.arange(size) + block * size) / 48000
        samples = (np.sin(2 * np.pi * 440 * seconds) * 0.05 * (1 + np.floor(seconds))).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.rate = 48000
        for converted in resampler.resample(frame):
            converted.pts, converted.time_base = block * size + round(start * 48000), Fraction(1, 48000)
            packets += stream.encode(converted)
    return packets + stream.encode(None)


def remux(source: Path, target: Path, **options: str) -> Path:
    """Copy pictures and sound into another container, as ``ffmpeg -c copy`` does."""
    with av.open(str(source)) as old, av.open(str(target), "w", options=options) as new:
        streams = {stream.index: new.add_stream_from_template(stream) for stream in old.streams}
        for packet in old.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream_index]
                new.mux(packet)
    return target
