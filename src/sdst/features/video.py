"""Video files to clips of frames, by the file's own timestamps (Sec. 4).

A video is cut into ``count_clips(duration, clip_seconds)`` clips. Each clip is split into ``num_frames``
equal parts, and the frame on screen at the centre of each part is taken: the last one whose timestamp is at
or before it. Only the frames taken are converted and resized, and only one clip is held at a time.

What odd files give:

* variable frame rate, 1 fps, a single frame: a frame is shown until the next one comes, so it may be taken
  several times; 120 fps: most frames are decoded and not taken.
* rotation metadata is applied (not mirroring); odd sizes and sizes that change midway need no care.
* a wrong file extension does not matter; the content decides.
* an end that is missing or unreadable: the last frame stands in for it if it is shorter than one clip,
  otherwise the video is refused. The same holds for damage in the middle. Formats that state no length
  (MPEG-TS, AVI, raw streams) cannot tell a missing end from a shorter video.
* empty files, files without a video stream (cover art is none), files where no frame decodes: refused.

A refusal is a ``VideoError`` whose message is one line. It may come after clips were yielded: a video counts
only once its iteration has ended.
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
    """A video that cannot be used: the file, the reason, and what to do, in one line."""


@dataclass(frozen=True)
class ClipSpec:
    """How a video becomes clips.

    The defaults are InternVideo2's stage-2 evaluation: bicubic, straight to a square whatever the aspect
    ratio, without antialiasing (its torchvision 0.14 had none for tensors).

    Attributes:
        clip_seconds: Length of a clip.
        num_frames: Frames taken from a clip.
        size: Side of the square frames in pixels.
        resize: ``stretch`` to the square, or ``crop``: the shorter side to ``size``, then the centre.
        antialias: Low-pass before shrinking.
    """

    clip_seconds: float = 2.0
    num_frames: int = 4
    size: int = 224
    resize: Resize = "stretch"
    antialias: bool = False


class VideoReader:
    """Iterates over a video file's clips, each a uint8 tensor (num_frames, 3, size, size) in RGB.

    Attributes:
        duration: Seconds from the first frame to the end of the last, as the file declares it. Where it
            declares none it is None until the iteration has ended.
        frames_decoded: How many frames were decoded so far.
        frame_rate: Mean number per second after ``check``; 25 where the file declares none.

    Raises:
        VideoError: While iterating; see the module's docstring.
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
        """Open the file and set ``duration`` and ``frame_rate`` from its headers; nothing is decoded."""
        with self._open() as container:
            stream = self._video_stream(container)
            self.duration = _declared_duration(container, stream)
            self.frame_rate = stream.average_rate or self.frame_rate

    def frames_at(self, times: Sequence[float]) -> Iterator[av.VideoFrame]:
        """The frame on screen at each of these times, in increasing seconds, decoding only what lies around them.

        Past the video's end it is the last frame.
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
        """Frames with their times from one at or before ``since``, or from the first, to the last."""
        start = declared_start(stream)
        jumped = False
        if since > 0 and start is not None and stream.time_base is not None:
            with contextlib.suppress(
                av.FFmpegError
            ):  # a format that cannot be searched is read from the start
                container.seek(int((since + start) / stream.time_base), stream=stream)
                jumped = True
        end = 0.0
        for frame in decode_packets(container, stream):
            if frame is None:
                continue
            if start is None:
                start = frame.time or 0.0
            now = end if frame.time is None else frame.time - start
            if (
                jumped and now > since
            ):  # some formats find the next place where decoding can begin, not the last
                container.seek(0)
                yield from self._frames_since(0.0, container, stream)
                return
            jumped = False
            end = now + _frame_seconds(frame, stream)
            yield frame, now

    def _pictures(self, container: InputContainer, stream: VideoStream) -> Iterator[Tensor]:
        """The pictures (3, size, size) of all clips in a row, held from frame to frame."""
        spec = self.spec
        wanted = None if self.duration is None else self._num_pictures(self.duration)
        taken = 0
        shown: av.VideoFrame | None = None
        picture: Tensor | None = None  # of the frame shown, made when first needed
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
        assert self.duration is not None  # the end of the last frame at the latest
        for _ in range(taken, self._num_pictures(self.duration)):
            yield picture

    def _timed_frames(
        self, container: InputContainer, stream: VideoStream
    ) -> Iterator[tuple[av.VideoFrame, float]]:
        """Every frame that decodes with its time in seconds since the stream's start, strictly increasing."""
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
                continue  # a repeated or backward timestamp: never on screen
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
        if not self.path.is_file():  # a pipe would block, a folder says nothing useful
            raise self._error("is not a file", "check the path")
        if self.path.stat().st_size == 0:
            raise self._error("is empty", "replace it")
        try:
            return av.open(str(self.path.absolute()))  # absolute: "a:b.mp4" alone would be a protocol
        except (av.FFmpegError, OSError) as error:
            raise self._error(f"cannot be opened ({error.strerror})", "replace it") from None

    def _video_stream(self, container: InputContainer) -> VideoStream:
        streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        if not streams:
            raise self._error("has no video stream", "replace it")
        stream = streams[0]
        stream.codec_context.thread_count = 1  # videos are decoded side by side, one process each
        return stream

    def _error(self, reason: str, advice: str) -> VideoError:
        return VideoError(f"{self.path}: {reason}; {advice}")


def upright(frame: av.VideoFrame) -> NDArray[np.uint8]:
    """A frame as an RGB picture (height, width, 3), turned as the file says."""
    quarter_turns = round(frame.rotation / 90)  # counter-clockwise, as rot90's
    return np.rot90(frame.to_ndarray(format="rgb24"), quarter_turns)


def decode_packets(container: InputContainer, stream: VideoStream) -> Iterator[av.VideoFrame | None]:
    """Every frame that decodes, in order of display; None for each unreadable packet."""
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
    """Seconds of the video stream by the file's headers; of the longest stream where only that is known."""
    if stream.duration and stream.duration > 0 and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    matroska = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    if matroska:
        hours, minutes, seconds = (float(part) for part in matroska.groups())
        return hours * 3600 + minutes * 60 + seconds
    return container.duration / 1e6 if container.duration and container.duration > 0 else None


def declared_start(stream: VideoStream) -> float | None:
    """Time of the first frame by the file's headers; the first to decode may come later."""
    if stream.start_time is None or stream.time_base is None:
        return None
    return float(stream.start_time * stream.time_base)


def _frame_seconds(frame: av.VideoFrame, stream: VideoStream) -> float:
    """How long a frame is shown; by the stream's frame rate where the frame does not say."""
    if frame.duration and frame.time_base:
        return float(frame.duration * frame.time_base)
    rate = stream.average_rate or stream.guessed_rate
    return float(1 / rate) if rate else 0.04
