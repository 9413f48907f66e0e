"""Scan the class tars of a large remote source in several processes.

Signing a request and parsing its answer takes more than a millisecond of Python, and a scan makes
one request per image. One process would be busy for most of an hour with the 1.28 million images
of ImageNet, however many requests it has in flight.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from imgprep.runners.pool import Pool
from imgprep.runners.runner import Tick
from imgprep.sources.containers import ContainerImages
from imgprep.sources.open_tree import open_tree
from imgprep.sources.scan_threads import ScanOptions
from imgprep.sources.tars import TarPart, scan_class_tars
from imgprep.sources.tree import Tree

TARS_PER_CHUNK = 16
"""Class tars that a process scans at a time, in as many threads."""
LEAST_BYTES = 1 << 30
"""Below this size, starting processes takes longer than it saves."""


@dataclass(frozen=True, slots=True)
class _TarChunk:
    """Class tars for one process, by class, in order."""

    number: int
    parts: tuple[tuple[str, TarPart], ...]

    def __str__(self) -> str:
        return f"{self.parts[0][1].container} and the tars after it"


@dataclass(frozen=True, slots=True)
class _ScannedChunk:
    number: int
    images: tuple[ContainerImages, ...]


def scan_in_processes(
    tree: Tree, parts: dict[str, TarPart], options: ScanOptions, least_bytes: int = LEAST_BYTES
) -> Iterator[tuple[str, ContainerImages]]:
    """Do as ``scan_class_tars``, in several processes where the tree and the size justify it."""
    if tree.processes < 2 or len(parts) <= TARS_PER_CHUNK:
        return scan_class_tars(tree, parts, options)
    stored_bytes = sum(
        (tree.size_bytes(part.path) if part.end is None else part.end) - part.start
        for part in parts.values()
    )
    if stored_bytes < least_bytes:
        return scan_class_tars(tree, parts, options)
    return _scan_chunks(tree, parts, options)


def _scan_chunks(
    tree: Tree, parts: dict[str, TarPart], options: ScanOptions
) -> Iterator[tuple[str, ContainerImages]]:
    names = sorted(parts, key=os.fsencode)
    chunks = [
        _TarChunk(number, tuple((name, parts[name]) for name in names[at : at + TARS_PER_CHUNK]))
        for number, at in enumerate(range(0, len(names), TARS_PER_CHUNK))
    ]
    waiting: dict[int, _ScannedChunk] = {}
    images_found = yielded = 0
    with Pool(min(tree.processes, len(chunks)), _scan_chunk, tree.location) as pool:
        for event in pool.run(chunks):
            if not isinstance(event, _ScannedChunk):
                continue
            waiting[event.number] = event
            images_found += sum(len(images) for images in event.images)
            if options.progress:
                options.progress(images_found)
            while yielded in waiting:
                scanned = waiting.pop(yielded).images
                yield from zip([name for name, _ in chunks[yielded].parts], scanned, strict=True)
                yielded += 1


def _scan_chunk(task: _TarChunk, setup: str, tick: Tick) -> Callable[[], _ScannedChunk]:
    """The work of a process: scan some class tars of the source at the location ``setup``."""
    tree = open_tree(setup)
    options = ScanOptions(TARS_PER_CHUNK if tree.threads else None, None, tree.stop)
    scanned = []
    for _, images in scan_class_tars(tree, dict(task.parts), options):
        scanned.append(images)
        tick(None)
    return partial(_ScannedChunk, task.number, tuple(scanned))
