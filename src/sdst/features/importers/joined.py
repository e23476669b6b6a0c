"""Bring together the files of one video from several folders or archives, e.g. its SlowFast and CLIP features."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from sdst.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sdst.features.importers.arrays import Content
    from sdst.features.importers.members import Member
    from sdst.features.importers.sources import Match
    from sdst.types import Qid

MOST_WAITING = 512 * 2**20
"""Most bytes of files of one archive that wait for those of another."""


def joined(
    sources: Sequence[Iterator[Match]], streamed: Sequence[bool]
) -> Iterator[tuple[str, Qid, tuple[Member, ...]]]:
    """The (kind, key, files) of every video that all sources have, in step through all sources.

    Args:
        sources: The files of each source.
        streamed: Whether a source is a tar archive, whose files can only be read in their order in the archive.

    Raises:
        UserError: Tar archives hold the videos in such different order that memory would not suffice.
    """
    waiting: dict[Qid, dict[int, Member]] = {}
    num_bytes = 0
    running = dict(enumerate(sources))
    while running:
        for place, source in list(running.items()):
            if (match := next(source, None)) is None:
                del running[place]
                continue
            kind, key, member = match
            if streamed[place]:
                content = member.read()
                num_bytes += len(content)
                member = replace(member, read=_given(content))
            files = waiting.setdefault(key, {})
            files[place] = member
            if len(files) == len(sources):
                del waiting[key]
                members = tuple(files[place] for place in range(len(sources)))
                num_bytes -= sum(len(m.read()) for m, is_tar in zip(members, streamed, strict=True) if is_tar)
                yield kind, key, members
            elif num_bytes > MOST_WAITING:
                raise UserError(
                    f"{member.source}: holds the videos in another order than the others; unpack it first"
                )


def _given(content: Content) -> Callable[[], Content]:
    return lambda: content
