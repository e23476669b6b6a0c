"""One clock for a video file, the same in every container: where time 0 is, and where the file ends.

* Time 0 is the start of the earliest stream, picture or sound. If the picture begins within ``TOGETHER`` of it,
  time 0 is the first picture: so small a difference comes from how sound is encoded, not from the content.
* The file ends where its last stream ends, and the last picture stands until then. Sound that ends within
  ``TOGETHER`` after the picture does not count.
* Where timestamps jump back, as in transport streams joined end to end, the next part follows the end of what came
  before, as players show it. In the same formats, parts are also joined where the timestamps of all streams jump
  forward by more than ``LONG_GAP``, or ``LONGEST_STILL`` without sound. FFmpeg corrects timestamps that wrap around.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import av
from av.stream import Disposition

if TYPE_CHECKING:
    from collections.abc import Iterator

    from av.container import InputContainer
    from av.packet import Packet
    from av.stream import Stream
    from av.video.stream import VideoStream

TOGETHER = 0.1  # seconds
STEP_BACK = 0.1  # seconds; decoding timestamps that fall by more are a jump of the clock
LONG_GAP = 10.0  # seconds without any packet in a file with sound
LONGEST_STILL = 3600.0  # seconds that one picture may stand in a file without sound
SAME_PART = 1.0  # seconds by which the first packets of two streams may differ after a jump
JUMPING_FORMATS = frozenset({"mpegts", "mpeg", "flv"})
"""Formats whose clock may begin anew within a file; they store decoding timestamps, which otherwise never fall."""
PRIMING = {"aac": 1024, "mp2": 481, "mp3": 1105}
"""Samples that encoders put before the sound. MP4 says so, other formats seldom do."""


@dataclass(frozen=True)
class Length:
    """Length of a file in seconds, and how much of its picture, or of all its streams, is missing at the end.

    Attributes:
        seconds: Length of the file.
        read: How far it can be read.
        declared: How far it should go.
    """

    seconds: float
    read: float
    declared: float


class Clock:
    """The packets of one pass through a file, with timestamps that never jump back.

    Args:
        container: The opened file, at its start.
        picture: Its video stream.
        zero: Timestamp of time 0 if it is known from an earlier pass; else it is found by reading up to the first
            picture.

    Attributes:
        zero: Timestamp of time 0 in seconds; None if the file has no timestamps.
    """

    def __init__(self, container: InputContainer, picture: VideoStream, zero: float | None = None) -> None:
        self._container = container
        self._picture = picture
        self._sounds = list(container.streams.audio)
        self._read: list[Packet[Any] | None] = []  # picture packets read in search of time 0
        self._latest = float("-inf")
        self._latest_picture = float("-inf")
        self._first: dict[int, float] = {}  # stream -> its first timestamp
        self._last: dict[int, float] = {}  # stream -> its latest decoding timestamp
        self._part: dict[int, int] = {}  # stream -> index of its part
        self._offsets = [0.0]  # part -> seconds added to its timestamps
        self._packets = self._demux()
        self.zero = self._find_zero() if zero is None else zero

    @property
    def jumped(self) -> bool:
        """Whether the clock has jumped so far."""
        return len(self._offsets) > 1

    @property
    def can_seek(self) -> bool:
        """Whether one can seek by timestamps: they must be unique, and each picture must have one (not in MPEG-PS)."""
        return self.zero is not None and not self.jumped and self._container.format.name != "mpeg"

    @property
    def picture_start(self) -> float:
        """Time of the first picture packet, in seconds from time 0; 0 without timestamps."""
        return max(0.0, self._first.get(self._picture.index, 0.0) - (self.zero or 0.0))

    def seconds(self, frame: av.VideoFrame | av.AudioFrame) -> float | None:
        """Time of a decoded frame in seconds from time 0; None if the file has no timestamps."""
        return None if frame.time is None else frame.time - (self.zero or 0.0)

    def packets(self, stream: Stream) -> Iterator[Packet[Any] | None]:
        """The packets of a stream, the last one empty; None for what cannot be read."""
        if stream == self._picture:
            yield from self._read
        self._read = []
        for packet in self._packets:
            if packet is None or packet.stream == stream:
                yield packet

    def seek(self, seconds: float, stream: Stream) -> None:
        """Go to a place of a stream at or before a time, if the format can; else somewhere after it.

        Raises:
            av.FFmpegError: The format cannot seek.
        """
        assert stream.time_base is not None
        self._container.seek(int((seconds + (self.zero or 0.0)) / stream.time_base), stream=stream)
        self._read, self._last, self._part, self._offsets = [], {}, {}, [0.0]
        self._packets = self._demux()

    def measure(self, shown_until: float, damaged: bool) -> Length:
        """How long the file is, after all its packets were read.

        Args:
            shown_until: End of the last picture that decodes, in seconds.
            damaged: Whether some picture packets do not decode.
        """
        zero = self.zero or 0.0
        picture = None if self.jumped else declared_picture_end(self._container, self._picture)
        whole = None if self.jumped else declared_length(self._container)
        end = max(shown_until, self._latest - zero)
        pictures_read = shown_until if damaged else max(shown_until, self._latest_picture - zero)
        picture_end = max(shown_until, 0.0 if picture is None else picture - zero)
        # Some formats count their length from 0, others from the first timestamp.
        file_end = end if whole is None else max(end, min(whole, whole - zero))
        if file_end < end + TOGETHER:
            file_end = end
        seconds = file_end if file_end - picture_end >= TOGETHER else picture_end
        declared = max(picture_end, self._latest_picture - zero if damaged else 0.0)
        if declared - pictures_read < file_end - end:
            return Length(seconds, end, file_end)
        return Length(seconds, pictures_read, declared)

    def _demux(self) -> Iterator[Packet[Any] | None]:
        packets = self._container.demux(self._picture, *self._sounds)
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError:
                yield None
                continue
            if packet is None:
                return
            if packet.dts is not None or packet.pts is not None:
                self._place(packet)
                if packet.size == 0:
                    continue  # in AVI, an empty packet repeats the picture; a decoder would take it for the end
            yield packet

    def _find_zero(self) -> float | None:
        """Timestamp of time 0, from the first picture and from what the headers say about the sound."""
        picture = self._first_picture()
        if picture is None:
            return None
        earliest = min([picture, *(self._sound_start(stream, picture) for stream in self._sounds)])
        return picture if picture - earliest < TOGETHER else earliest

    def _first_picture(self) -> float | None:
        """Timestamp of the picture that is shown first; None if there is none."""
        first = None
        for packet in self._packets:
            if packet is not None and packet.stream != self._picture:
                continue
            self._read.append(packet)
            if packet is not None and not packet.is_discard:
                stamp = packet.dts if packet.pts is None else packet.pts
                first = None if stamp is None else float(stamp * packet.time_base)
                break
        declared = declared_start(self._picture)
        # The first picture shown may not be the first one in the file.
        return declared if declared is not None and (first is None or abs(declared - first) < 1) else first

    def _sound_start(self, stream: av.AudioStream, picture: float) -> float:
        """Timestamp of the first sample that is heard, or ``picture`` if that is not earlier."""
        start, codec = declared_start(stream), stream.codec_context
        if start is None or codec is None or start > picture - TOGETHER:
            return picture
        while stream.index not in self._first and self._latest_picture < picture + LONG_GAP:
            packet = next(self._packets, None)
            if packet is None:
                break
            if packet.stream == self._picture:
                self._read.append(packet)
        if start != self._first.get(stream.index):
            return start  # the header says that the first samples are not part of the sound
        return start + PRIMING.get(codec.name, 0) / codec.sample_rate

    def _place(self, packet: Packet[Any]) -> None:
        """Move a packet to its place on the clock, and note where it ends."""
        index, unit = packet.stream_index, packet.time_base
        stamp = float(((packet.dts or 0) if packet.pts is None else packet.pts) * unit)
        self._first.setdefault(index, stamp)
        if packet.dts is not None:
            decoded = float(packet.dts * unit)
            last = self._last.get(index)
            self._last[index] = decoded
            may_jump = self._container.format.name in JUMPING_FORMATS
            jumps = last is not None and (decoded < last - STEP_BACK or self._leaves_a_gap(index, stamp))
            if may_jump and jumps:
                self._part[index] = self._next_part(index, stamp)
        offset = self._offsets[self._part.get(index, 0)]
        if offset:
            ticks = round(offset / unit)
            packet.pts = None if packet.pts is None else packet.pts + ticks
            packet.dts = None if packet.dts is None else packet.dts + ticks
        end = stamp + offset + shown_seconds(packet)
        if packet.is_discard:
            return
        self._latest = max(self._latest, end)
        if packet.stream == self._picture and packet.size:
            self._latest_picture = max(self._latest_picture, end)

    def _leaves_a_gap(self, index: int, stamp: float) -> bool:
        """Whether there is a longer gap before a packet than a video can have."""
        begins = stamp + self._offsets[self._part.get(index, 0)]
        return begins > self._latest + (LONG_GAP if len(self._last) > 1 else LONGEST_STILL)

    def _next_part(self, index: int, stamp: float) -> int:
        """The part that a stream enters at a jump: one that another stream has begun, or a new one."""
        begun = range(self._part.get(index, 0) + 1, len(self._offsets))
        for part in reversed(begun):
            if abs(stamp + self._offsets[part] - self._latest) < SAME_PART:
                return part
        self._offsets.append(self._latest - stamp)
        return len(self._offsets) - 1


def shown_seconds(packet: Packet[Any]) -> float:
    """How long a packet's picture or sound lasts; by the stream's frame rate if the packet does not state it."""
    stream = packet.stream
    if packet.duration or not isinstance(stream, av.VideoStream):
        return float((packet.duration or 0) * packet.time_base)
    return frame_seconds(stream)


def frame_seconds(stream: VideoStream) -> float:
    """How long a picture is shown, by the stream's frame rate."""
    rate = stream.average_rate or stream.guessed_rate
    return float(1 / rate) if rate else 0.04


def picture_streams(container: InputContainer) -> list[VideoStream]:
    """The video streams of a file without cover art."""
    return [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]


def declared_start(stream: Stream) -> float | None:
    """Timestamp in seconds that the headers state for the start of a stream."""
    if stream.start_time is None or stream.time_base is None:
        return None
    return float(stream.start_time * stream.time_base)


def declared_picture_end(container: InputContainer, picture: VideoStream) -> float | None:
    """Timestamp in seconds that the headers state for the end of the picture.

    Only MP4 and Matroska say it; in other formats FFmpeg fills in the length of the file.
    """
    matroska = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", picture.metadata.get("DURATION", ""))
    if matroska is not None:
        hours, minutes, seconds = (float(part) for part in matroska.groups())
        return hours * 3600 + minutes * 60 + seconds
    if "mp4" in container.format.name and picture.duration and picture.duration > 0 and picture.time_base:
        return float(picture.duration * picture.time_base) + (declared_start(picture) or 0.0)
    return None


def declared_length(container: InputContainer) -> float | None:
    """Length of a file in seconds by its headers; some formats count it from 0, others from the first timestamp."""
    return container.duration / 1e6 if container.duration and container.duration > 0 else None
