"""Read video files as clips of frames, by the file's own timestamps (Sec. 4).

A video is cut into ``count_clips(duration, clip_seconds)`` clips. Each clip is split into ``num_frames``
equal parts, and the frame on screen at the centre of each part is taken: the last one whose timestamp is at
or before it. Only the frames taken are converted and resized, and only one clip is held at a time.

How unusual files are read:

* Variable frame rate, 1 fps, a single frame: a frame is shown until the next one, so it may be taken several
  times. 120 fps: most frames are decoded and not taken.
* Rotation metadata is applied, mirroring is not. Odd sizes and sizes that change within the video are read.
* The content decides about the format, not the file extension.
* Missing or unreadable end: if it is shorter than one clip, the last frame is repeated; otherwise the video is
  refused. The same holds for damage in the middle. In formats that state no length (MPEG-TS, AVI, raw streams) a
  missing end looks like a shorter video.
* Empty files, files without a video stream (cover art does not count) and files where no frame decodes are
  refused.

A refusal is a ``VideoError`` with a one-line message. It may come after some clips were yielded, so use the clips
of a video only after its iteration has ended.
"""

from __future__ import annotations

import contextlib
import re
from collections import deque
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch
from torch.nn import functional as F

from sdst.errors import UserError
from sdst.spans import count_clips

try:
    import av
    from av.stream import Disposition
except ImportError:
    raise UserError("reading videos needs PyAV; install it with pip install 'sdst[extract]'") from None

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from av.container import InputContainer
    from av.video.stream import VideoStream
    from numpy.typing import NDArray
    from torch import Tensor

Resize = Literal["stretch", "crop"]
RESIZES: tuple[Resize, ...] = get_args(Resize)


class VideoError(UserError):
    """A video that cannot be used; the message names the file, the reason and what to do, in one line."""


@dataclass(frozen=True)
class ClipSpec:
    """How a video becomes clips.

    The defaults are those of InternVideo2's stage-2 evaluation: bicubic resizing to a square, whatever the aspect
    ratio, without antialiasing (torchvision 0.14, which it used, had none for tensors).

    Attributes:
        clip_seconds: Length of a clip.
        num_frames: Number of frames taken from a clip.
        size: Side of the square frames in pixels.
        resize: ``stretch`` the frame to the square, or resize its shorter side to ``size`` and ``crop`` the centre.
        antialias: Whether to smooth frames before shrinking them.
    """

    clip_seconds: float = 2.0
    num_frames: int = 4
    size: int = 224
    resize: Resize = "stretch"
    antialias: bool = False


class VideoReader:
    """Iterates over a video file's clips, each a uint8 tensor (num_frames, 3, size, size) in RGB.

    Attributes:
        duration: Seconds from the first frame to the end of the last one, as the file declares it. If it declares
            none, None until the iteration has ended.
        frames_decoded: Number of frames decoded so far.
        frame_rate: Mean number of frames per second, set by ``check``; 25 if the file declares none.

    Raises:
        VideoError: The video is refused while iterating; see the module's docstring.
    """

    def __init__(self, path: Path | str, spec: ClipSpec) -> None:
        self.path = Path(path)
        self.spec = spec
        self.duration: float | None = None
        self.frames_decoded = 0
        self.frame_rate = Fraction(25)

    def __iter__(self) -> Iterator[Tensor]:
        clip: list[Tensor] = []
        with self._open() as container:
            stream = self._video_stream(container)
            self.duration = _declared_duration(container, stream)
            for picture in self._pictures(container, stream):
                clip.append(picture)
                if len(clip) == self.spec.num_frames:
                    yield torch.stack(clip)
                    clip.clear()

    def check(self) -> None:
        """Open the file and set ``duration`` and ``frame_rate`` from its headers, without decoding.

        Raises:
            VideoError: The file cannot be opened or has no video stream.
        """
        with self._open() as container:
            stream = self._video_stream(container)
            self.duration = _declared_duration(container, stream)
            self.frame_rate = stream.average_rate or self.frame_rate

    def frames_at(self, times: Sequence[float]) -> Iterator[av.VideoFrame]:
        """Yield the frame on screen at each time, decoding only what is needed.

        Args:
            times: Times in seconds, increasing. Past the video's end, the last frame is yielded.

        Raises:
            VideoError: The file cannot be opened or no frame decodes.
        """
        with self._open() as container:
            stream = self._video_stream(container)
            left = deque(times)
            shown: av.VideoFrame | None = None
            for frame, time in self._frames_since(times[0], container, stream):
                while shown is not None and left and left[0] < time:
                    yield shown
                    left.popleft()
                if not left:
                    return
                shown = frame
            if shown is None:
                raise self._error("no frame decodes", "replace it")
            for _ in left:
                yield shown

    def _frames_since(
        self, since: float, container: InputContainer, stream: VideoStream
    ) -> Iterator[tuple[av.VideoFrame, float]]:
        """Frames with their times, from the last one at or before ``since`` (or from the first) to the end."""
        start = declared_start(stream)
        jumped = False
        if since > 0 and start is not None and stream.time_base is not None:
            with contextlib.suppress(av.FFmpegError):  # a format that cannot seek is read from the start
                container.seek(int((since + start) / stream.time_base), stream=stream)
                jumped = True
        end = 0.0
        for frame in decode_packets(container, stream):
            if frame is None:
                continue
            if start is None:
                start = frame.time or 0.0
            now = end if frame.time is None else frame.time - start
            if jumped and now > since:
                # Some formats seek to the next frame where decoding can start, not to the one before.
                container.seek(0)
                yield from self._frames_since(0.0, container, stream)
                return
            jumped = False
            end = now + _frame_seconds(frame, stream)
            yield frame, now

    def _pictures(self, container: InputContainer, stream: VideoStream) -> Iterator[Tensor]:
        """The pictures (3, size, size) of all clips, one after the other."""
        spec = self.spec
        wanted = None if self.duration is None else self._num_pictures(self.duration)
        taken = 0
        shown: av.VideoFrame | None = None
        picture: Tensor | None = None  # the shown frame's picture, made when first needed
        for frame, time in self._timed_frames(container, stream):
            while shown is not None and taken != wanted:
                if (taken + 0.5) * spec.clip_seconds / spec.num_frames >= time:
                    break
                picture = self._picture(shown) if picture is None else picture
                yield picture
                taken += 1
            shown, picture = frame, None
        if shown is None:
            raise self._error("no frame decodes", "replace it")
        picture = self._picture(shown) if picture is None else picture
        assert self.duration is not None  # _timed_frames has set it by now
        for _ in range(taken, self._num_pictures(self.duration)):
            yield picture

    def _timed_frames(
        self, container: InputContainer, stream: VideoStream
    ) -> Iterator[tuple[av.VideoFrame, float]]:
        """Every frame that decodes, with its time in seconds from the stream's start, strictly increasing."""
        too_long = self.spec.clip_seconds
        start = declared_start(stream)
        time, end, damaged = -1.0, 0.0, False
        for frame in decode_packets(container, stream):
            if frame is None:
                damaged = True
                continue
            self.frames_decoded += 1
            if start is None:
                start = frame.time or 0.0
            now = end if frame.time is None else frame.time - start
            if now <= time:
                continue  # a repeated or decreasing timestamp: never on screen
            if damaged and now - end >= too_long:
                raise self._error(f"damaged between {end:.1f} s and {now:.1f} s", "replace it")
            if self.duration is not None and now >= self.duration + too_long:
                says = f"has a frame at {now:.1f} s but declares {self.duration:.1f} s"
                raise self._error(says, "remux it with ffmpeg")
            time, end, damaged = now, now + _frame_seconds(frame, stream), False
            yield frame, now
        if self.duration is None:
            self.duration = end
        elif self.duration - end >= too_long:
            raise self._error(f"truncated: {end:.1f} s of {self.duration:.1f} s decode", "replace it")

    def _num_pictures(self, duration: float) -> int:
        return count_clips(duration, self.spec.clip_seconds) * self.spec.num_frames

    def _picture(self, frame: av.VideoFrame) -> Tensor:
        """A frame as the backbone's uint8 square (3, size, size), upright."""
        spec = self.spec
        image = torch.from_numpy(upright(frame).copy()).permute(2, 0, 1)[None].float()
        height, width = image.shape[-2:]
        scale = spec.size / min(height, width)
        shape = (spec.size, spec.size)
        if spec.resize == "crop":
            shape = (round(height * scale), round(width * scale))
        image = F.interpolate(image, shape, mode="bicubic", antialias=spec.antialias)
        top, left = (shape[0] - spec.size) // 2, (shape[1] - spec.size) // 2
        square = image[0, :, top : top + spec.size, left : left + spec.size]
        return square.round().clamp(0, 255).to(torch.uint8)

    def _open(self) -> InputContainer:
        if not self.path.is_file():  # a pipe would block, and opening a folder gives an unclear error
            raise self._error("is not a file", "check the path")
        if self.path.stat().st_size == 0:
            raise self._error("is empty", "replace it")
        try:
            return av.open(
                str(self.path.absolute())
            )  # absolute, because FFmpeg reads "a:b.mp4" as a protocol
        except (av.FFmpegError, OSError) as error:
            raise self._error(f"cannot be opened ({error.strerror})", "replace it") from None

    def _video_stream(self, container: InputContainer) -> VideoStream:
        streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        if not streams:
            raise self._error("has no video stream", "replace it")
        stream = streams[0]
        stream.codec_context.thread_count = 1  # workers decode videos in parallel, one thread each
        return stream

    def _error(self, reason: str, advice: str) -> VideoError:
        return VideoError(f"{self.path}: {reason}; {advice}")


def upright(frame: av.VideoFrame) -> NDArray[np.uint8]:
    """A frame as an RGB picture (height, width, 3), rotated as the file says."""
    quarter_turns = round(frame.rotation / 90)  # counter-clockwise, as in rot90
    # By default, FFmpeg starts a thread per core for each frame, which takes longer than converting a small frame.
    return np.rot90(frame.reformat(format="rgb24", threads=1).to_ndarray(), quarter_turns)


def decode_packets(container: InputContainer, stream: VideoStream) -> Iterator[av.VideoFrame | None]:
    """Every frame that decodes, in display order; None for each unreadable packet."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
            if packet is None:
                return
            yield from packet.decode()
        except av.FFmpegError:
            yield None


def _declared_duration(container: InputContainer, stream: VideoStream) -> float | None:
    """Duration in seconds that the headers state for the video stream, or else for the whole file."""
    if stream.duration and stream.duration > 0 and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    matroska = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    if matroska:
        hours, minutes, seconds = (float(part) for part in matroska.groups())
        return hours * 3600 + minutes * 60 + seconds
    return container.duration / 1e6 if container.duration and container.duration > 0 else None


def declared_start(stream: VideoStream) -> float | None:
    """Time in seconds that the headers state for the first frame; the first one that decodes may come later."""
    if stream.start_time is None or stream.time_base is None:
        return None
    return float(stream.start_time * stream.time_base)


def _frame_seconds(frame: av.VideoFrame, stream: VideoStream) -> float:
    """How long a frame is shown, in seconds; from the stream's frame rate if the frame does not state it."""
    if frame.duration and frame.time_base:
        return float(frame.duration * frame.time_base)
    rate = stream.average_rate or stream.guessed_rate
    return float(1 / rate) if rate else 0.04
