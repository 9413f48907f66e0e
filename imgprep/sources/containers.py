"""The images of one container as compact columns, and the problems found with them."""

from __future__ import annotations

import os
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from imgprep.sources.clutter import is_clutter_path
from imgprep.sources.manifest import ROW_DTYPE, Problem, Rows, SplitManifest, pick_rows

PROBLEMS_KEPT = 1000
SUFFIXES_KEPT = 40
CLUTTER_IGNORED = "hidden or clutter files, ignored"
NameFault = Callable[[bytes], str]
"""Says why a file of this name cannot be used, or returns an empty text."""
NameTest = Callable[[bytes], bool]


def member_path(container: str, name: bytes, separator: str) -> str:
    """Where a file or member is, for messages; ``container`` alone for an empty name.

    An empty container is the root of the source.
    """
    if not container:
        return os.fsdecode(name) or "."
    return f"{container}{separator}{os.fsdecode(name)}" if name else container


@dataclass(slots=True)
class Findings:
    """Problems and oddities; only the first thousand problems are kept in full."""

    problems: list[Problem] = field(default_factory=list)
    problem_counts: Counter[str] = field(default_factory=Counter)
    oddities: Counter[str] = field(default_factory=Counter)
    class_doubts: list[Problem] = field(default_factory=list)
    """Reasons why the list of classes, and with it the labels, may be wrong."""
    notes: list[str] = field(default_factory=list)
    """Sentences about the source that a user should know."""
    class_names: set[str] = field(default_factory=set)
    """The classes that were seen, also those that are not used."""

    def report(self, kind: str, where: str, cause: str) -> None:
        """Add one problem."""
        self.problem_counts[kind] += 1
        if len(self.problems) < PROBLEMS_KEPT:
            self.problems.append(Problem(kind, where, cause))

    def doubt(self, kind: str, where: str, cause: str) -> None:
        """Add a reason why the list of classes may be wrong."""
        if len(self.class_doubts) < PROBLEMS_KEPT:
            self.class_doubts.append(Problem(kind, where, cause))

    def merge(self, other: Findings) -> None:
        """Append the findings of another part of the scan."""
        self.problem_counts += other.problem_counts
        self.oddities += other.oddities
        self.problems += other.problems[: PROBLEMS_KEPT - len(self.problems)]
        self.class_doubts += other.class_doubts[: PROBLEMS_KEPT - len(self.class_doubts)]
        self.notes += other.notes
        self.class_names |= other.class_names


@dataclass(frozen=True, slots=True)
class ContainerImages:
    """The images of one container, sorted by name (bytes); no name occurs twice."""

    container: str
    """The container, for messages."""
    path: str
    """The file or folder to open, relative to the source."""
    rows: Rows
    """:data:`ROW_DTYPE` with container and label 0 and ``name_start`` from 0."""
    names: bytes
    rejected: tuple[bytes, ...]
    """Names of entries that cannot be used."""
    findings: Findings

    def __len__(self) -> int:
        return len(self.rows)

    def name_at(self, row: int) -> bytes:
        """The name of one row."""
        starts = self.rows["name_start"]
        end = int(starts[row + 1]) if row + 1 < len(starts) else len(self.names)
        return self.names[int(starts[row]) : end]

    def each_name(self) -> list[bytes]:
        """The names, by row."""
        starts = [*self.rows["name_start"].tolist(), len(self.names)]
        return [self.names[start:end] for start, end in pairwise(starts)]

    def pick(self, rows: NDArray[np.int64]) -> ContainerImages:
        """Some of the images, by rows in ascending order; the findings stay as they are."""
        if len(rows) == len(self):
            return self
        picked, names = pick_rows(self.rows, self.names, rows)
        return replace(self, rows=picked, names=names)


class ContainerBuilder:
    """Collects the images of one container, in any order."""

    def __init__(
        self,
        container: str,
        path: str,
        separator: str,
        name_fault: NameFault | None = None,
        unused: NameTest | None = None,
    ) -> None:
        """Start with no images.

        Args:
            container: the container, for messages.
            path: the file or folder to open, relative to the source.
            separator: between container and name in messages: a slash or a colon.
            name_fault: says why a name cannot be used.
            unused: tells names of images that will not be used: their faults are not reported.
        """
        self._name_fault, self._unused = name_fault, unused
        self.findings = Findings()
        self._container, self._path, self._separator = container, path, separator
        self._names: list[bytes] = []
        self._offset, self._size_bytes, self._mtime_ns = array("q"), array("q"), array("q")
        self._rejected: list[bytes] = []

    def add(self, name: bytes, offset: int, size_bytes: int, mtime_ns: int) -> None:
        """Add a regular file; clutter is counted and empty files are reported instead."""
        if is_clutter_path(name):
            self.findings.oddities[CLUTTER_IGNORED] += 1
            return
        fault = self._name_fault(name) if self._name_fault else ""
        if fault:
            self.reject("not-a-val-image", name, fault)
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
        if is_clutter_path(name):
            self.findings.oddities[CLUTTER_IGNORED] += 1
            return
        if name:
            self._rejected.append(name)
            if self._unused is not None and self._unused(name):
                return
        self.findings.report(kind, member_path(self._container, name, self._separator), cause)

    def finish(self) -> ContainerImages:
        """Sort by name; of entries with the same name keep the first and report the others."""
        names = self._names
        order = sorted(range(len(names)), key=names.__getitem__)
        repeats = {right for left, right in pairwise(order) if names[left] == names[right]}
        for at in sorted(repeats):
            self.reject(
                "duplicate-name", names[at], "an earlier entry has this name; the first is used"
            )
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
        return ContainerImages(
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
            shown = f"names ending .{os.fsdecode(suffix)}" if suffix else "names without an ending"
            self.findings.oddities[shown] += count


def _starts(lengths: Iterable[int]) -> NDArray[np.int64]:
    ends = np.cumsum(np.fromiter(lengths, np.int64))
    return np.concatenate([np.zeros(1, np.int64), ends])[:-1]


def assemble(
    split: str, labelled: Sequence[tuple[ContainerImages, NDArray[np.int32] | int]]
) -> SplitManifest:
    """Join containers, in the order given, into one manifest; each has one label or one per row."""
    rows = np.zeros(sum(len(images) for images, _ in labelled), ROW_DTYPE)
    at = name_at = 0
    for number, (images, labels) in enumerate(labelled):
        part = rows[at : at + len(images)]
        part[:] = images.rows
        part["container"] = number
        part["label"] = labels
        part["name_start"] += name_at
        at += len(images)
        name_at += len(images.names)
    return SplitManifest(
        split=split,
        containers=tuple(images.container for images, _ in labelled),
        container_paths=tuple(images.path for images, _ in labelled),
        rows=rows,
        names=b"".join(images.names for images, _ in labelled),
    )
