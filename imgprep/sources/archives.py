"""Scan the official archives in place: a tar of class tars for train, a flat tar for val."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from imgprep.errors import SourceError, UnreachableError
from imgprep.sources.collect import (
    Accepts,
    Block,
    BlockBuilder,
    Findings,
    Pace,
    is_clutter,
    join,
    scan_each,
)
from imgprep.sources.lanes import walk_in_lanes
from imgprep.sources.tarwalk import Entry, walk
from imgprep.sources.tree import Ranges, Tree


@dataclass(frozen=True, slots=True)
class TarPart:
    """A tar that lies in bytes ``start`` to ``end`` of a file; ``end`` is None for its end."""

    path: str
    container: str
    start: int = 0
    end: int | None = None


def class_tars_in(tree: Tree, outer: str, findings: Findings) -> dict[str, TarPart]:
    """Where each class tar lies in the tar of tars, by class; faults go to ``findings``.

    Raises:
        SourceError: the file cannot be opened.
    """
    parts: dict[str, TarPart] = {}
    with _opened(tree, outer) as file:
        for entry in walk(file, 0, file.size_bytes):
            base = entry.name.rpartition(b"/")[2]
            where = join(outer, entry.name, ":")
            # A class tar that is cut still holds whole images; its own walk reports the cut.
            cut = entry.problem == "cut-short" and base.endswith(b".tar")
            name = os.fsdecode(base.removesuffix(b".tar"))
            if entry.problem == "directory":
                findings.oddities["directory entries in tars, ignored"] += 1
            elif entry.name and is_clutter(base):
                findings.oddities["hidden or clutter files, ignored"] += 1
            elif entry.problem and not cut:
                findings.report(entry.problem, where, entry.cause)
            elif not base.endswith(b".tar") or not name:
                findings.report("not-a-class-tar", where, "train holds one tar for each class")
            elif name in parts:
                cause = "the class was there before; the first tar is used"
                findings.report("duplicate-name", where, cause)
            else:
                end = min(entry.offset + entry.size_bytes, file.size_bytes)
                parts[name] = TarPart(outer, where, entry.offset, end)
    return parts


def class_tars_beside(files: tuple[str, ...]) -> dict[str, TarPart]:
    """The class tars of an unpacked outer tar, by class."""
    return {path.rpartition("/")[2].removesuffix(".tar"): whole(path) for path in files}


def whole(path: str) -> TarPart:
    """A tar in a file of its own."""
    return TarPart(path, path)


def scan_class_tars(
    tree: Tree, parts: dict[str, TarPart], pace: Pace
) -> Iterator[tuple[str, Block]]:
    """Scan class tars, in lexicographic order of their classes."""
    names = sorted(parts, key=os.fsencode)
    lanes = (tree.threads or 1) // max(1, len(parts))
    with ExitStack() as stack:
        # The outer tar is opened once; class tars in files of their own are, one by one.
        paths = {part.path for part in parts.values()}
        if len(paths) == 1:
            file = stack.enter_context(_opened(tree, paths.pop()))
            blocks = scan_each(lambda name: _scan_part(file, parts[name], lanes), names, pace)
        else:
            blocks = scan_each(lambda name: _scan_alone(tree, parts[name], lanes), names, pace)
        yield from zip(names, blocks, strict=True)


def scan_tar(
    tree: Tree, part: TarPart, accepts: Accepts | None = None, lanes: int | None = None
) -> Block:
    """Scan one tar of images; ``accepts`` as in :class:`BlockBuilder`.

    Raises:
        SourceError: the file cannot be opened.
    """
    with _opened(tree, part.path) as file:
        return _scan_part(file, part, tree.threads or 1 if lanes is None else lanes, accepts)


def _scan_alone(tree: Tree, part: TarPart, lanes: int) -> Block:
    """One class tar of an unpacked outer tar; if it cannot be read, the others still can."""
    try:
        return scan_tar(tree, part, lanes=lanes)
    except UnreachableError:
        raise
    except SourceError as exc:
        builder = BlockBuilder(part.container, part.path, ":")
        builder.reject("unreadable-file", b"", str(exc.__cause__ or exc))
        return builder.finish()


def _scan_part(file: Ranges, part: TarPart, lanes: int, accepts: Accepts | None = None) -> Block:
    builder = BlockBuilder(part.container, part.path, ":", accepts)
    end = file.size_bytes if part.end is None else part.end
    entries: Iterable[Entry] = (
        walk_in_lanes(file, part.start, end, lanes) if lanes > 1 else walk(file, part.start, end)
    )
    for entry in entries:
        if not entry.problem:
            builder.add(entry.name, entry.offset, entry.size_bytes, file.mtime_ns)
        elif entry.problem == "directory":
            builder.findings.oddities["directory entries in tars, ignored"] += 1
        else:
            builder.reject(entry.problem, entry.name, entry.cause)
    return builder.finish()


@contextmanager
def _opened(tree: Tree, path: str) -> Iterator[Ranges]:
    try:
        with tree.open(path) as file:
            yield file
    except OSError as exc:
        raise SourceError(f"{tree.where(path)} cannot be read: {exc.strerror or exc}") from exc
