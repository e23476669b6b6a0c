"""Read video files as clips of frames, by the file's own timestamps (Sec. 4).

A video is cut into ``count_clips(duration, clip_seconds)`` clips. Each clip is split into ``num_frames``
equal parts, and the frame on screen at the centre of each part is taken: the last one whose timestamp is at
or before it. Only the frames taken are converted and resized, and only one clip is held at a time.
:mod:`sdst.features.clock` says where time 0 is and where a file ends.

How unusual files are read:

* Variable frame rate, 1 fps, a single frame: a frame is shown until the next one, so it may be taken several
  times. 120 fps: most frames are decoded and not taken. The first frame is also shown before its time, and the last
  one until the file ends, e.g. while its sound goes on.
* Rotation metadata is applied, mirroring is not. Odd sizes and sizes that change within the video are read.
* The content of a file decides its format, not the file extension.
* Missing or unreadable end: if it is shorter than one clip, the last frame is repeated; otherwise the video is
  refused. The same holds for damage in the middle. In formats that state no length (MPEG-TS, AVI, raw streams) a
  missing end looks like a shorter video.
* Empty files, files without a video stream (cover art does not count) and files where no frame decodes, e.g. because
  there is no decoder, are refused.

A refusal is a ``VideoError`` with a one-line message. It may come after some clips were yielded, so use the clips
of a video only after its iteration has ended.
"""

from __future__ import annotations

import contextlib
from collections import deque
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar, get_args

import numpy as np
import torch
from torch.nn import functional as F

from sdst.data.annotations import LONGEST_SECONDS
from sdst.errors import UserError
from sdst.spans import count_clips

try:
    import av
except ImportError:
    raise UserError("reading videos needs PyAV; install it with pip install 'sdst[extract]'") from None

from sdst.features.clock import (
    JUMPING_FORMATS,
    Clock,
    declared_length,
    frame_seconds,
    picture_streams,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from av.container import InputContainer
    from av.frame import Frame
    from av.stream import Stream
    from av.video.stream import VideoStream
    from numpy.typing import NDArray
    from torch import Tensor

    AnyFrame = TypeVar("AnyFrame", av.VideoFrame, av.AudioFrame)

Resize = Literal["stretch", "crop"]
RESIZES: tuple[Resize, ...] = get_args(Resize)
BEFORE = -1.0  # a time before the first frame
ROUNDING = 2e-5  # seconds; transport streams round to 1/90000 s


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
        duration: Length in seconds: as the file declares it until the iteration has ended, then as measured. None if
            the file declares none.
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
        self._seeking: tuple[float | None, bool] | None = None  # time 0, and whether one can seek

    def __iter__(self) -> Iterator[Tensor]:
        clip: list[Tensor] = []
        with self._open() as container:
            stream = self._video_stream(container)
            for picture in self._pictures(container, stream):
                clip.append(picture)
                if len(clip) == self.spec.num_frames:
                    yield torch.stack(clip)
                    clip.clear()

    def check(self) -> None:
        """Open the file and set ``duration`` and ``frame_rate`` from its headers, without decoding.

        Raises:
            VideoError: The file cannot be opened, has no video stream, or there is no decoder for it.
        """
        with self._open() as container:
            stream = self._video_stream(container)
            self.duration = declared_length(container)
            self.frame_rate = stream.average_rate or self.frame_rate

    def frames_at(self, times: Sequence[float]) -> Iterator[av.VideoFrame]:
        """Yield the frame on screen at each time, decoding only what is needed.

        Args:
            times: Increasing times in seconds. One before the first frame yields the first, one past the last the last.

        Raises:
            VideoError: The file cannot be opened or no frame decodes.
        """
        left = deque(times)
        shown: av.VideoFrame | None = None
        for frame, time in self._frames_since(times[0], av.VideoFrame):
            while shown is not None and left and left[0] < time - ROUNDING:
                yield shown
                left.popleft()
            if not left:
                return
            shown = frame
        if shown is None:
            raise self._error("no frame decodes", "replace it")
        for _ in left:
            yield shown

    def sound_since(self, since: float) -> Iterator[tuple[av.AudioFrame, float]]:
        """Frames of the first sound stream with their times in seconds; the first may begin before ``since``.

        Raises:
            VideoError: The file cannot be opened.
        """
        return self._frames_since(since, av.AudioFrame)

    def _frames_since(self, since: float, kind: type[AnyFrame]) -> Iterator[tuple[AnyFrame, float]]:
        """Frames with their times, from the last one at or before ``since`` (or from the first) to the end."""
        if self._seeking is None:
            self._seeking = self._survey()
        zero, can_seek = self._seeking
        jumped = None
        with self._open() as container:
            picture = self._video_stream(container)
            stream = picture if kind is av.VideoFrame else next(iter(container.streams.audio), None)
            if stream is None or stream.codec_context is None:
                return
            clock = Clock(container, picture, zero)
            if since > 0 and can_seek:
                with contextlib.suppress(av.FFmpegError):  # a format that cannot seek is read from the start
                    clock.seek(since, stream)
                    jumped = True
            end = 0.0
            for frame in decode_packets(clock, stream):
                if not isinstance(frame, kind):
                    continue
                now = clock.seconds(frame)
                now = end if now is None else now
                if jumped and now > since + ROUNDING:
                    break  # some formats seek to the next frame where decoding can start, not to the one before
                jumped = False
                end = now + _frame_seconds(frame, picture)
                yield frame, now
        if jumped:
            yield from self._frames_since(0.0, kind)

    def _survey(self) -> tuple[float | None, bool]:
        """Timestamp of time 0, and whether one can seek by timestamps."""
        with self._open() as container:
            picture = self._video_stream(container)
            clock = Clock(container, picture)
            if container.format.name in JUMPING_FORMATS:
                deque(clock.packets(picture), maxlen=0)
            return clock.zero, clock.can_seek

    def _pictures(self, container: InputContainer, stream: VideoStream) -> Iterator[Tensor]:
        """The pictures (3, size, size) of all clips, one after the other."""
        spec = self.spec
        taken = 0
        shown: av.VideoFrame | None = None
        picture: Tensor | None = None  # the shown frame's picture, made when first needed
        for frame, time in self._timed_frames(container, stream):
            while shown is not None and (taken + 0.5) * spec.clip_seconds / spec.num_frames < time - ROUNDING:
                picture = self._picture(shown) if picture is None else picture
                yield picture
                taken += 1
            shown, picture = frame, None
        if shown is None:
            raise self._error("no frame decodes", "replace it")
        picture = self._picture(shown) if picture is None else picture
        assert self.duration is not None  # _timed_frames has set it by now
        for _ in range(taken, count_clips(self.duration, spec.clip_seconds) * spec.num_frames):
            yield picture

    def _timed_frames(
        self, container: InputContainer, stream: VideoStream
    ) -> Iterator[tuple[av.VideoFrame, float]]:
        """Every frame that decodes, with its time in seconds on the file's clock, strictly increasing.

        Afterwards ``duration`` is the measured one.
        """
        too_long = self.spec.clip_seconds
        declared = self.duration = declared_length(container)
        clock = Clock(container, stream)
        time, end, damaged, ever_damaged = BEFORE, clock.picture_start, False, False
        for frame in decode_packets(clock, stream):
            if not isinstance(frame, av.VideoFrame):
                damaged = ever_damaged = True
                continue
            self.frames_decoded += 1
            now = clock.seconds(frame)
            now = end if now is None else now
            if now <= time:
                if time > BEFORE and time - now >= too_long:
                    raise self._error(
                        f"its clock jumps back from {time:.1f} s to {now:.1f} s", "remux it with ffmpeg"
                    )
                continue  # a repeated or decreasing timestamp: never on screen
            if damaged and now - end >= too_long:
                raise self._error(f"damaged between {end:.1f} s and {now:.1f} s", "replace it")
            self._check_time(clock, declared, now)
            time, end, damaged = now, now + _frame_seconds(frame, stream), False
            yield frame, now
        if time > BEFORE:  # at least one frame has decoded
            length = clock.measure(end, ever_damaged)
            if length.declared - length.read >= too_long:
                says = f"truncated: {length.read:.1f} s of {length.declared:.1f} s decode"
                raise self._error(says, "replace it")
            self._check_time(clock, None, length.seconds)
            self.duration = length.seconds

    def _check_time(self, clock: Clock, declared: float | None, now: float) -> None:
        """Refuse a picture that comes a clip or more after the declared end, or later than any video lasts."""
        if declared is not None and not clock.jumped:
            declared = max(declared, declared - (clock.zero or 0.0))
            if now >= declared + self.spec.clip_seconds:
                says = f"has a frame at {now:.1f} s but declares {declared:.1f} s"
                raise self._error(says, "remux it with ffmpeg")
        if now > LONGEST_SECONDS:
            raise self._error(f"has a frame at {now:.0f} s, after more than a day", "remux it with ffmpeg")

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
        streams = picture_streams(container)
        if not streams:
            raise self._error("has no video stream", "replace it")
        stream = streams[0]
        if stream.codec_context is None:
            raise self._error("there is no decoder for its pictures", "convert it with ffmpeg, e.g. to H.264")
        stream.codec_context.thread_count = 1  # workers decode videos in parallel, one thread each
        return stream

    def _error(self, reason: str, advice: str) -> VideoError:
        return VideoError(f"{self.path}: {reason}; {advice}")


def upright(frame: av.VideoFrame) -> NDArray[np.uint8]:
    """A frame as an RGB picture (height, width, 3), rotated as the file says."""
    quarter_turns = round(frame.rotation / 90)  # counter-clockwise, as in rot90
    # By default, FFmpeg starts a thread per core for each frame, which takes longer than converting a small frame.
    return np.rot90(frame.reformat(format="rgb24", threads=1).to_ndarray(), quarter_turns)


def decode_packets(clock: Clock, stream: Stream) -> Iterator[Frame | None]:
    """Every frame of a stream that decodes, in display order; None for each unreadable packet."""
    for packet in clock.packets(stream):
        try:
            if packet is None:
                yield None
            else:
                yield from packet.decode()
        except av.FFmpegError:
            yield None


def _frame_seconds(frame: av.VideoFrame | av.AudioFrame, stream: VideoStream) -> float:
    """How long a frame is shown, in seconds; from the stream's frame rate if the frame does not state it."""
    if frame.duration and frame.time_base:
        return float(frame.duration * frame.time_base)
    return frame_seconds(stream)
