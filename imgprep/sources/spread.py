"""Scan the class tars of a large remote source in several processes.

To sign a request and to parse its answer takes more than a millisecond of Python, and a scan makes
a request for each image: one process would be busy for most of an hour with the 1.28 million of
ImageNet, however many of them it has on their way.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from imgprep.runners.pool import Pool
from imgprep.runners.runner import Tick
from imgprep.sources.archives import TarPart, scan_class_tars
from imgprep.sources.collect import Block, Pace
from imgprep.sources.open_tree import open_tree
from imgprep.sources.tree import Tree

TARS_AT_ONCE = 16
"""Class tars that a process scans at a time, in as many threads."""
LEAST_BYTES = 1 << 30
"""Below this, starting processes takes longer than it saves."""


@dataclass(frozen=True, slots=True)
class _Some:
    """Some of the class tars, by class, in order."""

    number: int
    parts: tuple[tuple[str, TarPart], ...]

    def __str__(self) -> str:
        return f"{self.parts[0][1].container} and what follows it"


@dataclass(frozen=True, slots=True)
class _Scanned:
    number: int
    blocks: tuple[Block, ...]


def scan_spread(
    tree: Tree, parts: dict[str, TarPart], pace: Pace, least_bytes: int = LEAST_BYTES
) -> Iterator[tuple[str, Block]]:
    """As ``scan_class_tars``, in several processes where the tree and the size make it worth it."""
    if tree.processes < 2 or len(parts) <= TARS_AT_ONCE:
        return scan_class_tars(tree, parts, pace)
    stored_bytes = sum(
        (tree.size_bytes(part.path) if part.end is None else part.end) - part.start
        for part in parts.values()
    )
    if stored_bytes < least_bytes:
        return scan_class_tars(tree, parts, pace)
    return _in_processes(tree, parts, pace)


def _in_processes(tree: Tree, parts: dict[str, TarPart], pace: Pace) -> Iterator[tuple[str, Block]]:
    names = sorted(parts, key=os.fsencode)
    tasks = [
        _Some(number, tuple((name, parts[name]) for name in names[at : at + TARS_AT_ONCE]))
        for number, at in enumerate(range(0, len(names), TARS_AT_ONCE))
    ]
    waiting: dict[int, _Scanned] = {}
    images = given = 0
    with Pool(min(tree.processes, len(tasks)), _scan_some, tree.location) as pool:
        for event in pool.run(tasks):
            if not isinstance(event, _Scanned):
                continue
            waiting[event.number] = event
            images += sum(len(block) for block in event.blocks)
            if pace.progress:
                pace.progress(images)
            while given in waiting:
                blocks = waiting.pop(given).blocks
                yield from zip([name for name, _ in tasks[given].parts], blocks, strict=True)
                given += 1


def _scan_some(task: _Some, setup: str, tick: Tick) -> Callable[[], _Scanned]:
    """The work of a process: scan some class tars of the source at ``setup``."""
    tree = open_tree(setup)
    pace = Pace(TARS_AT_ONCE if tree.threads else None, None, tree.stop)
    blocks = []
    for _, block in scan_class_tars(tree, dict(task.parts), pace):
        blocks.append(block)
        tick(None)
    return partial(_Scanned, task.number, tuple(blocks))
