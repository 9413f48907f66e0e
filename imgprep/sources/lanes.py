"""Walk one large tar over a network in several places at once, with the result of one walk.

The members of a tar form a chain: only a header tells where the next one is, so a walk waits for
one answer after another. Here the tar is cut into lanes, and each lane is walked on trial from the
first block that looks like a header. A trial counts only where the walk from the left arrives
exactly at one of its headers. Where it does not (for example, the trial began inside an image that
looks like a tar), the lane is walked again from where the walk from the left ended.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from threading import Event

from imgprep.sources.tarheader import BLOCK_BYTES, is_header, padded
from imgprep.sources.tarwalk import TarMember, walk
from imgprep.sources.tree import RangeFile

LANE_BYTES = 2 * 1024 * 1024
"""Below this size a lane costs more than it saves."""
SEARCH_BYTES = 64 * 1024
SEARCH_LIMIT_BYTES = 4 * 1024 * 1024


@dataclass(slots=True)
class _Trial:
    """The members found by a walk from one header."""

    members: list[TarMember] = field(default_factory=list)
    members_before: dict[int, int] = field(default_factory=dict)
    """Headers that do not depend on those before them, with the number of members before each."""
    next_header: int | None = None
    """Where the walk would continue; None: the tar ended."""

    def members_from(self, position: int) -> list[TarMember] | None:
        """The members from a header on; None if the walk did not visit it."""
        number = self.members_before.get(position)
        return None if number is None else self.members[number:]


@dataclass(frozen=True, slots=True)
class _LaneWalker:
    file: RangeFile
    start: int
    end: int
    stopped: Event = field(default_factory=Event)

    def try_lane(self, lane: tuple[int, int]) -> _Trial | None:
        """Walk from the first header of a lane; None where there is none."""
        begin, until = lane
        first = begin if begin == self.start else _find_header(self.file, begin, until)
        return None if first is None else self.walk(first, until)

    def walk(self, first: int, until: int) -> _Trial:
        """Walk from a header to the first one at ``until`` or later, or to the end."""
        trial = _Trial()

        def stop_at(position: int) -> bool:
            trial.members_before[position] = len(trial.members)
            return self.stopped.is_set() or (until <= position and until < self.end)

        steps = walk(self.file, self.start, self.end, first=first, stop_at=stop_at)
        while True:
            try:
                trial.members.append(next(steps))
            except StopIteration as done:
                trial.next_header = done.value
                return trial


def walk_in_lanes(
    file: RangeFile, start: int, end: int, lanes: int, lane_bytes: int = LANE_BYTES
) -> Iterator[TarMember]:
    """Yield what ``walk(file, start, end)`` yields, read in up to ``lanes`` threads."""
    count = max(1, min(lanes, (end - start) // lane_bytes))
    step = padded((end - start) // count + 1)
    cuts = [*range(start, end, step), end] if end > start else [start, end]
    pairs = list(pairwise(cuts))
    walker = _LaneWalker(file, start, end)
    pool = ThreadPoolExecutor(len(pairs), "imgprep-lane")
    try:
        position = start
        for (_, until), trial in zip(pairs, pool.map(walker.try_lane, pairs), strict=True):
            if position >= until and until != end:
                continue  # One member covers the whole lane.
            members = trial.members_from(position) if trial else None
            if trial is None or members is None:
                trial = walker.walk(position, until)
                members = trial.members
            yield from members
            if trial.next_header is None:
                return
            position = trial.next_header
    finally:
        walker.stopped.set()
        pool.shutdown(cancel_futures=True)


def _find_header(file: RangeFile, begin: int, until: int) -> int | None:
    """Position of the first block in a lane that looks like a header."""
    limit = min(until, begin + SEARCH_LIMIT_BYTES)
    for position in range(begin, limit, SEARCH_BYTES):
        window = file.pread(min(SEARCH_BYTES, limit - position), position)
        at = window.find(b"ustar")
        while at >= 0:
            block = at - 257
            aligned = block >= 0 and block % BLOCK_BYTES == 0
            if aligned and is_header(window[block : block + BLOCK_BYTES]):
                return position + block
            at = window.find(b"ustar", at + 1)
    return None
