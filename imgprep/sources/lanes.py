"""Walk one large tar over a network in several places at once, with the result of one walk.

The members of a tar are a chain: only a header tells where the next one lies, so that a walk waits
for one answer after the other. Here the tar is cut into lanes; in each one a header is looked for
and walked from, on trial. A trial counts only where the walk from the left arrives exactly at one
of its headers; where it does not (the trial began inside an image that looks like a tar, say), the
lane is walked again from where the walk from the left has come to.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from threading import Event

from imgprep.sources.tarwalk import BLOCK_BYTES, Entry, is_header, padded, walk
from imgprep.sources.tree import Ranges

LANE_BYTES = 2 * 1024 * 1024
"""Below this a lane costs more than it saves."""
SEARCH_BYTES = 64 * 1024
SEARCH_LIMIT_BYTES = 4 * 1024 * 1024


@dataclass(slots=True)
class _Trial:
    """What a walk from one header found."""

    entries: list[Entry] = field(default_factory=list)
    marks: dict[int, int] = field(default_factory=dict)
    """Headers that do not depend on those before them, with the number of entries so far."""
    onward: int | None = None
    """Where the walk would go on; None: the tar ended."""

    def after(self, position: int) -> list[Entry] | None:
        """The entries from a header on; None if the walk did not come by it."""
        number = self.marks.get(position)
        return None if number is None else self.entries[number:]


@dataclass(frozen=True, slots=True)
class _Tar:
    file: Ranges
    start: int
    end: int
    stopped: Event = field(default_factory=Event)

    def attempt(self, lane: tuple[int, int]) -> _Trial | None:
        """Walk from the first header of a lane; None where there is none."""
        begin, until = lane
        first = begin if begin == self.start else _find_header(self.file, begin, until)
        return None if first is None else self.walk(first, until)

    def walk(self, first: int, until: int) -> _Trial:
        """Walk from a header to the first one at ``until`` or beyond, or to the end."""
        trial = _Trial()

        def pause(position: int) -> bool:
            trial.marks[position] = len(trial.entries)
            return self.stopped.is_set() or (until <= position and until < self.end)

        steps = walk(self.file, self.start, self.end, first=first, pause=pause)
        while True:
            try:
                trial.entries.append(next(steps))
            except StopIteration as done:
                trial.onward = done.value
                return trial


def walk_in_lanes(
    file: Ranges, start: int, end: int, lanes: int, lane_bytes: int = LANE_BYTES
) -> Iterator[Entry]:
    """What ``walk(file, start, end)`` yields, read in up to ``lanes`` threads."""
    count = max(1, min(lanes, (end - start) // lane_bytes))
    step = padded((end - start) // count + 1)
    cuts = [*range(start, end, step), end] if end > start else [start, end]
    pairs = list(pairwise(cuts))
    tar = _Tar(file, start, end)
    pool = ThreadPoolExecutor(len(pairs), "imgprep-lane")
    try:
        position = start
        for (_, until), trial in zip(pairs, pool.map(tar.attempt, pairs), strict=True):
            if position >= until and until != end:
                continue  # a member reaches across the whole lane
            entries = trial.after(position) if trial else None
            if trial is None or entries is None:
                trial = tar.walk(position, until)
                entries = trial.entries
            yield from entries
            if trial.onward is None:
                return
            position = trial.onward
    finally:
        tar.stopped.set()
        pool.shutdown(cancel_futures=True)


def _find_header(file: Ranges, begin: int, until: int) -> int | None:
    """The first block in a lane that looks like a header."""
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
