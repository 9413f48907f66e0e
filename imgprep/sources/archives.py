"""Scan the official archives in place: a tar of class tars for train, a flat tar for val."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from imgprep.errors import SourceError
from imgprep.sources.collect import (
    Accepts,
    Block,
    BlockBuilder,
    Findings,
    Progress,
    is_clutter,
    join,
    scan_each,
)
from imgprep.sources.tarwalk import walk


@dataclass(frozen=True, slots=True)
class _TarPart:
    """A tar that lies in bytes ``start`` to ``end`` of a file."""

    file: Path
    path: str
    """``file`` relative to the source."""
    container: str
    start: int
    end: int
    mtime_ns: int


def class_tars_in(root: Path, outer: Path, findings: Findings) -> dict[str, _TarPart]:
    """Where each class tar lies in the tar of tars, by class; faults go to ``findings``.

    Raises:
        SourceError: the file cannot be opened.
    """
    parts: dict[str, _TarPart] = {}
    path = os.path.relpath(outer, root)
    with _opened(outer) as fd:
        stat = os.fstat(fd)
        for entry in walk(fd, 0, stat.st_size):
            base = entry.name.rpartition(b"/")[2]
            where = join(path, entry.name, ":")
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
                end = min(entry.offset + entry.size_bytes, stat.st_size)
                parts[name] = _TarPart(outer, path, where, entry.offset, end, stat.st_mtime_ns)
    return parts


def class_tars_beside(root: Path, files: tuple[Path, ...]) -> dict[str, _TarPart]:
    """The class tars of an unpacked outer tar, by class."""
    return {file.name.removesuffix(".tar"): _whole(root, file) for file in files}


def scan_class_tars(
    parts: dict[str, _TarPart], threads: int | None, progress: Progress | None
) -> Iterator[tuple[str, Block]]:
    """Scan class tars, in lexicographic order of their classes."""
    names = sorted(parts, key=os.fsencode)
    with ExitStack() as stack:
        # One descriptor for the outer tar; class tars in files of their own open one by one.
        files = {part.file for part in parts.values()}
        if len(files) == 1:
            fd = stack.enter_context(_opened(files.pop()))
            blocks = scan_each(lambda name: _scan_part(fd, parts[name]), names, threads, progress)
        else:
            blocks = scan_each(lambda name: _scan_alone(parts[name]), names, threads, progress)
        yield from zip(names, blocks, strict=True)


def val_part(root: Path, file: Path) -> _TarPart:
    """The flat validation tar as a whole."""
    return _whole(root, file)


def scan_tar(part: _TarPart, accepts: Accepts | None = None) -> Block:
    """Scan one tar of images; ``accepts`` as in :class:`BlockBuilder`.

    Raises:
        SourceError: the file cannot be opened.
    """
    with _opened(part.file) as fd:
        return _scan_part(fd, part, accepts)


def _scan_alone(part: _TarPart) -> Block:
    """One class tar of an unpacked outer tar; if it cannot be read, the others still can."""
    try:
        return scan_tar(part)
    except SourceError as exc:
        builder = BlockBuilder(part.container, part.path, ":")
        builder.reject("unreadable-file", b"", str(exc.__cause__ or exc))
        return builder.finish()


def _whole(root: Path, file: Path) -> _TarPart:
    path = os.path.relpath(file, root)
    stat = file.stat()
    return _TarPart(file, path, path, 0, stat.st_size, stat.st_mtime_ns)


def _scan_part(fd: int, part: _TarPart, accepts: Accepts | None = None) -> Block:
    builder = BlockBuilder(part.container, part.path, ":", accepts)
    for entry in walk(fd, part.start, part.end):
        if not entry.problem:
            builder.add(entry.name, entry.offset, entry.size_bytes, part.mtime_ns)
        elif entry.problem == "directory":
            builder.findings.oddities["directory entries in tars, ignored"] += 1
        else:
            builder.reject(entry.problem, entry.name, entry.cause)
    return builder.finish()


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError as exc:
        raise SourceError(f"{path} cannot be read: {exc.strerror or exc}") from exc
    try:
        yield fd
    except OSError as exc:
        raise SourceError(f"{path} cannot be read: {exc.strerror or exc}") from exc
    finally:
        os.close(fd)
