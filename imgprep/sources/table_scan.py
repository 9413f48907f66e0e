"""Scan a folder whose images have their labels in a table."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from imgprep.dataset.labels import LabelMap
from imgprep.errors import SourceError
from imgprep.sources.classes import note_numeric_names
from imgprep.sources.clutter import is_clutter, is_clutter_path
from imgprep.sources.containers import ContainerBuilder, ContainerImages, Findings
from imgprep.sources.faults import is_denied, unreadable
from imgprep.sources.label_table import TableRows, read_table
from imgprep.sources.layout import Candidate, LabelledImages
from imgprep.sources.listing import is_image_name
from imgprep.sources.manifest import LOOSE_FILE
from imgprep.sources.scan_threads import ScanOptions, scan_each
from imgprep.sources.take import LabelTable
from imgprep.sources.tree import FolderEntry, Tree, child_path
from imgprep.spec import SplitChoice
from imgprep.wording import counted

LAYOUT_NAME = "label-table"
MAX_FOLDERS = 1_000_000
Parts = dict[str, list[tuple[ContainerImages, NDArray[np.int32]]]]


def table_candidate(tree: Tree, table: LabelTable, options: ScanOptions) -> Candidate:
    """The source as the table describes it; reads the table.

    Raises:
        UsageError: the root is not a folder, or there is no such table or column.
        SourceError: the table is malformed, or cannot be read.
    """
    tree.check_folder()
    rows = read_table(table)
    classes = counted(len(rows.classes), "class", "classes")
    images = counted(len(rows.numbers), "image")

    def scan(split: SplitChoice, findings: Findings) -> LabelledImages:
        return _TableScan(tree, rows, options, split).scan(findings)

    return Candidate(
        layout=LAYOUT_NAME,
        evidence=(f"{table.location} lists {images} of {classes}",),
        labelled=scan,
    )


@dataclass(slots=True)
class _TableScan:
    tree: Tree
    rows: TableRows
    options: ScanOptions
    split: SplitChoice
    seen: bytearray = field(init=False)
    """For each row whether there is a file."""
    used: NDArray[np.bool_] = field(init=False)
    """For each row whether its class and split are asked for."""

    def __post_init__(self) -> None:
        self.seen = bytearray(len(self.rows.numbers))
        takes = np.array([*map(self.options.selection.takes, self.rows.classes)], bool)
        self.used = takes[np.frombuffer(self.rows.labels, np.int32)]
        if self.split != "all":
            code = self.rows.split_names.index(self.split)
            self.used &= np.frombuffer(self.rows.splits, np.int8) == code

    def scan(self, findings: Findings) -> LabelledImages:
        """Find the listed images; report those that are missing, repeated or not listed."""
        self._report_table(findings)
        labels = LabelMap.from_names(self.rows.classes)
        note_numeric_names(labels.only(self.options.selection.takes), findings)
        index = labels.index_by_name()
        label_of = np.array([index[name] for name in self.rows.classes], np.int32)
        parts: Parts = {}
        folders = list(_folders(self.tree, findings))
        for images in scan_each(self._scan_folder, folders, self.options):
            findings.merge(images.findings)
            plain = replace(images, findings=Findings())
            paths = (child_path(images.path, os.fsdecode(name)) for name in images.each_name())
            numbers = np.array([self.rows.numbers[path] for path in paths], np.int64)
            codes = np.frombuffer(self.rows.splits, np.int8)[numbers]
            coded = label_of[np.frombuffer(self.rows.labels, np.int32)[numbers]]
            for code in np.unique(codes):
                here = np.flatnonzero(codes == code)
                split = self.rows.split_names[code]
                parts.setdefault(split, []).append((plain.pick(here), coded[here]))
        self._report_missing(findings)
        self._report_untrained(parts, labels, findings)
        ordered = {name: parts[name] for name in self.rows.split_names if name in parts}
        return LabelledImages(labels=labels, splits=ordered)

    def _scan_folder(self, path: str) -> ContainerImages:
        builder = ContainerBuilder(path, path, "/")
        prefix = f"{path}/" if path else ""
        numbers = self.rows.numbers
        try:
            for name, size_bytes, mtime_ns, problem, cause in self.tree.images(path):
                text = os.fsdecode(name)
                number = numbers.get(prefix + text)
                if number is None:
                    if problem != "nested-folder" and is_image_name(text):
                        builder.reject("unlisted-image", name, f"{self.rows.where} lacks it")
                    continue
                self.seen[number] = not is_clutter(name)
                if self.used[number]:
                    if problem:
                        builder.reject(problem, name, cause)
                    else:
                        builder.add(name, LOOSE_FILE, size_bytes, mtime_ns)
        except OSError as exc:
            if not is_denied(exc):
                raise unreadable(self.tree.where(path), exc) from exc
            builder.reject("unreadable-folder", b"", f"cannot be listed: {exc.strerror or exc}")
        return builder.finish()

    def _report_table(self, findings: Findings) -> None:
        rows = self.rows
        _report_rows(
            findings,
            "listed-twice",
            rows.repeats,
            (
                (path, f"{rows.where} lists it in line {line}, too; line {first} is used")
                for path, line, first in rows.repeated
            ),
        )
        _report_rows(
            findings,
            "unsafe-name",
            rows.outsides,
            (
                (path, f"{rows.where}, line {line}: the path leads out of the source")
                for path, line in rows.outside
            ),
        )

    def _report_missing(self, findings: Findings) -> None:
        """Report the listed images that were not found."""
        absent = self.used & (np.frombuffer(self.seen, np.uint8) == 0)
        if not absent.any():
            return
        for path, number in self.rows.numbers.items():
            if absent[number]:
                hidden = is_clutter_path(path.encode())
                cause = "its name is hidden or clutter" if hidden else "there is no such file"
                line = self.rows.lines[number]
                findings.report("missing-image", path, f"{self.rows.where}, line {line}: {cause}")

    def _report_untrained(self, parts: Parts, labels: LabelMap, findings: Findings) -> None:
        """Report classes that only other splits than train have."""
        if "train" not in parts or self.split not in ("all", "train"):
            return
        trained = {int(label) for _, coded in parts["train"] for label in np.unique(coded)}
        for entry in labels.classes:
            if entry.index not in trained and self.options.selection.takes(entry.name):
                cause = "train has no image of it; it keeps its label"
                findings.report("missing-class", entry.name, cause)


def _report_rows(
    findings: Findings, kind: str, count: int, shown: Iterable[tuple[str, str]]
) -> None:
    """Report some problems of a kind in full, and count the rest of them."""
    for path, cause in shown:
        findings.report(kind, path, cause)
        count -= 1
    if count:
        findings.problem_counts[kind] += count


def _folders(tree: Tree, findings: Findings) -> Iterator[str]:
    """Every folder under the root, level by level, in order; no link is followed in a circle.

    Raises:
        SourceError: a folder cannot be listed, or there are too many.
    """
    found = 0
    level: list[tuple[str, frozenset[object]]] = [("", frozenset({tree.identity("")}))]
    pool = ThreadPoolExecutor(tree.threads or 1, "imgprep-list")
    try:
        while level:
            found += len(level)
            if found > MAX_FOLDERS:
                raise SourceError(
                    f"{tree.where()} has more than {MAX_FOLDERS:,} folders: do links of folders "
                    "lead back to it?"
                )
            yield from (path for path, _ in level)
            listed = pool.map(lambda place: _sub_folders(tree, place[0]), level)
            below = []
            for (path, above), entries in zip(level, listed, strict=True):
                for name, identity in entries:
                    if identity in above:
                        findings.oddities["links to a folder above, not followed"] += 1
                    else:
                        below.append((child_path(path, name), above | {identity}))
            level = below
    finally:
        pool.shutdown(cancel_futures=True)


def _sub_folders(tree: Tree, path: str) -> list[tuple[str, object]]:
    try:
        names = [entry.name for entry in tree.entries(path) if _is_folder(entry)]
        names.sort(key=os.fsencode)
        return [(name, tree.identity(child_path(path, name))) for name in names]
    except PermissionError:
        return []  # the scan of its images reports it
    except OSError as exc:
        raise unreadable(tree.where(path), exc) from exc


def _is_folder(entry: FolderEntry) -> bool:
    return entry.kind == "folder" and not is_clutter(os.fsencode(entry.name))
