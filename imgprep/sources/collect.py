"""Gather what a scan meets: images as compact columns, problems counted, work in threads."""

from __future__ import annotations

import os
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from imgprep.sources.manifest import ROW_DTYPE, Problem, Rows, SplitManifest

PROBLEMS_KEPT = 1000
SUFFIXES_KEPT = 40
SCAN_THREADS = 8
SLOW_SECONDS_PER_IMAGE = 30e-6
CLUTTER = frozenset({b"thumbs.db", b"desktop.ini", b"__macosx"})
Progress = Callable[[int], None]
Accepts = Callable[[bytes], str]
Item = TypeVar("Item")
Result = TypeVar("Result")


def is_clutter(name: bytes) -> bool:
    """Whether a name is hidden, or left behind by a file manager."""
    return name.startswith(b".") or name.lower() in CLUTTER


def join(where: str, name: bytes, joint: str) -> str:
    """``where`` and ``name`` as one text; ``where`` alone for an empty name."""
    return f"{where}{joint}{os.fsdecode(name)}" if name else where


@dataclass(slots=True)
class Findings:
    """Problems and oddities; only the first thousand problems are kept in full."""

    problems: list[Problem] = field(default_factory=list)
    problem_counts: Counter[str] = field(default_factory=Counter)
    oddities: Counter[str] = field(default_factory=Counter)

    def report(self, kind: str, where: str, cause: str) -> None:
        """Add one problem."""
        self.problem_counts[kind] += 1
        if len(self.problems) < PROBLEMS_KEPT:
            self.problems.append(Problem(kind, where, cause))

    def merge(self, other: Findings) -> None:
        """Add what another part of the scan found, after what is here."""
        self.problem_counts += other.problem_counts
        self.oddities += other.oddities
        self.problems += other.problems[: PROBLEMS_KEPT - len(self.problems)]


@dataclass(frozen=True, slots=True)
class Block:
    """The images of one container by name (bytes), names without repeats."""

    container: str
    path: str
    rows: Rows
    """:data:`ROW_DTYPE` with container and label 0 and ``name_start`` from 0."""
    names: bytes
    rejected: tuple[bytes, ...]
    """Names that are there but cannot be used."""
    findings: Findings

    def __len__(self) -> int:
        return len(self.rows)

    def each_name(self) -> list[bytes]:
        """The names, by row."""
        starts = [*self.rows["name_start"].tolist(), len(self.names)]
        return [self.names[start:end] for start, end in pairwise(starts)]


class BlockBuilder:
    """Takes in the images of one container in any order."""

    def __init__(
        self, container: str, path: str, joint: str, accepts: Accepts | None = None
    ) -> None:
        """Begin empty.

        Args:
            container: the container for people.
            path: the file or folder to open, relative to the source.
            joint: stands between container and name in messages: a slash or a colon.
            accepts: says why a name cannot be used, or an empty text.
        """
        self._accepts = accepts
        self.findings = Findings()
        self._container, self._path, self._joint = container, path, joint
        self._names: list[bytes] = []
        self._offset, self._size_bytes, self._mtime_ns = array("q"), array("q"), array("q")
        self._rejected: list[bytes] = []

    def add(self, name: bytes, offset: int, size_bytes: int, mtime_ns: int) -> None:
        """Take in a regular file; clutter is counted and empty files are reported instead."""
        if is_clutter(name.rpartition(b"/")[2]):
            self.findings.oddities["hidden or clutter files, ignored"] += 1
            return
        refusal = self._accepts(name) if self._accepts else ""
        if refusal:
            self.reject("not-a-val-image", name, refusal)
            return
        if size_bytes == 0:
            self.reject("empty-file", name, "the file has no bytes")
            return
        self._names.append(name)
        self._offset.append(offset)
        self._size_bytes.append(size_bytes)
        self._mtime_ns.append(mtime_ns)

    def reject(self, kind: str, name: bytes, cause: str) -> None:
        """Report an entry that cannot be used; an empty name stands for the container."""
        if is_clutter(name.rpartition(b"/")[2]):
            self.findings.oddities["hidden or clutter files, ignored"] += 1
            return
        self.findings.report(kind, join(self._container, name, self._joint), cause)
        if name:
            self._rejected.append(name)

    def finish(self) -> Block:
        """Sort by name; of entries with one name the first stays, the others are reported."""
        names = self._names
        order = sorted(range(len(names)), key=names.__getitem__)
        repeats = {right for left, right in pairwise(order) if names[left] == names[right]}
        for at in sorted(repeats):
            self.reject("duplicate-name", names[at], "the name was there before; the first is used")
        order = [at for at in order if at not in repeats] if repeats else order
        rows = np.zeros(len(order), ROW_DTYPE)
        picked = np.array(order, np.int64)
        for column, values in (
            ("offset", self._offset),
            ("size_bytes", self._size_bytes),
            ("mtime_ns", self._mtime_ns),
        ):
            rows[column] = np.frombuffer(values, np.int64)[picked] if order else 0
        ordered = [names[at] for at in order]
        rows["name_start"] = _starts([len(name) for name in ordered])
        self._count_suffixes(ordered)
        return Block(
            self._container,
            self._path,
            rows,
            b"".join(ordered),
            tuple(self._rejected),
            self.findings,
        )

    def _count_suffixes(self, names: Sequence[bytes]) -> None:
        counts = Counter(name.rpartition(b".")[2] if b"." in name else b"" for name in names)
        for suffix, count in counts.most_common(SUFFIXES_KEPT):
            shown = f"names ending .{os.fsdecode(suffix)}" if suffix else "names without ending"
            self.findings.oddities[shown] += count


def _starts(lengths: Iterable[int]) -> NDArray[np.int64]:
    ends = np.cumsum(np.fromiter(lengths, np.int64))
    return np.concatenate([np.zeros(1, np.int64), ends])[:-1]


def assemble(
    split: str, labelled: Sequence[tuple[Block, NDArray[np.int32] | int]]
) -> SplitManifest:
    """Put blocks, in the order given, into one manifest, with a label each or one per row."""
    rows = np.zeros(sum(len(block) for block, _ in labelled), ROW_DTYPE)
    at = name_at = 0
    for number, (block, labels) in enumerate(labelled):
        part = rows[at : at + len(block)]
        part[:] = block.rows
        part["container"] = number
        part["label"] = labels
        part["name_start"] += name_at
        at += len(block)
        name_at += len(block.names)
    return SplitManifest(
        split=split,
        containers=tuple(block.container for block, _ in labelled),
        container_paths=tuple(block.path for block, _ in labelled),
        rows=rows,
        names=b"".join(block.names for block, _ in labelled),
    )


@dataclass(frozen=True, slots=True)
class Pace:
    """How containers are scanned; the result does not depend on it."""

    threads: int | None
    """None: the first containers are timed to tell whether threads would wait or compute."""
    progress: Progress | None
    stop: Callable[[], None]
    """Makes what still runs in other threads fail soon, once one of them has failed."""


def scan_each(scan: Callable[[Item], Block], items: Sequence[Item], pace: Pace) -> Iterator[Block]:
    """Scan containers and yield their blocks in the order of ``items``.

    A scan of cached headers is bound by Python and faster in one thread; on a cold disk or over
    a network it waits, and many can wait at once.
    """
    total = 0
    threads = pace.threads
    began = time.perf_counter()
    alone = len(items) if threads == 1 else 2 if threads is None else 0
    pool = ThreadPoolExecutor(threads or SCAN_THREADS, "imgprep-scan")
    try:
        pending: Iterator[Block] = map(scan, items[:alone])
        for number in range(len(items)):
            if number == alone:
                slow = time.perf_counter() - began > SLOW_SECONDS_PER_IMAGE * total
                threaded = threads is not None or slow
                rest = items[alone:]
                pending = pool.map(scan, rest) if threaded else map(scan, rest)
            block = next(pending)
            total += len(block)
            if pace.progress:
                pace.progress(total)
            yield block
    except BaseException:
        pace.stop()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
