"""Scan tars of images in place: class tars inside one tar or in files of their own, a flat tar."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from imgprep.errors import SourceError, SourceFaultError
from imgprep.sources.clutter import is_clutter_path
from imgprep.sources.containers import (
    CLUTTER_IGNORED,
    ContainerBuilder,
    ContainerImages,
    Findings,
    NameFault,
    NameTest,
    member_path,
)
from imgprep.sources.faults import is_denied, unreadable
from imgprep.sources.lanes import walk_in_lanes
from imgprep.sources.scan_threads import ScanOptions, scan_each
from imgprep.sources.tarwalk import TarMember, walk
from imgprep.sources.tree import RangeFile, Tree

IGNORED = {
    "directory": "directory entries in tars, ignored",
    "metadata": "volume labels and other metadata in tars, ignored",
}
"""Problems of members that are harmless, and how a scan counts them."""


@dataclass(frozen=True, slots=True)
class TarPart:
    """A tar that takes up bytes ``start`` to ``end`` of a file; None stands for the file's end."""

    path: str
    container: str
    """The tar, for messages."""
    start: int = 0
    end: int | None = None


def whole_tar(path: str) -> TarPart:
    """A tar in a file of its own."""
    return TarPart(path, path)


def class_tars_in(tree: Tree, outer: str, findings: Findings) -> dict[str, TarPart]:
    """Where each class tar is in the tar of tars, by class; faults go to ``findings``.

    Raises:
        SourceError: the file cannot be opened, is not a tar, or contains other files instead.
    """
    parts: dict[str, TarPart] = {}
    with _opened(tree, outer) as file:
        for member in walk(file, 0, file.size_bytes):
            base = member.name.rpartition(b"/")[2]
            where = member_path(outer, member.name, ":")
            # A class tar that is cut still has whole images; its own walk reports the cut.
            cut = member.problem == "cut-short" and base.endswith(b".tar")
            name = os.fsdecode(base.removesuffix(b".tar"))
            if member.problem in IGNORED:
                findings.oddities[IGNORED[member.problem]] += 1
            elif member.problem == "not-a-tar":
                raise SourceError(f"{tree.where(outer)}: {member.cause}")
            elif member.name and is_clutter_path(member.name):
                findings.oddities[CLUTTER_IGNORED] += 1
            elif member.problem and not cut:
                findings.report(member.problem, where, member.cause)
                if not member.name or b".tar" in base:
                    findings.doubt(member.problem, where, f"{member.cause}; a class may be lost")
            elif not base.endswith(b".tar") or not name:
                cause = "not a tar; the train tar contains one tar per class"
                findings.report("not-a-class-tar", where, cause)
                if b".tar" in base:
                    findings.doubt("not-a-class-tar", where, f"{cause}; a class may be lost")
            elif name in parts:
                cause = "an earlier tar has this class; the first is used"
                findings.report("duplicate-name", where, cause)
            else:
                if cut:
                    cause = f"{member.cause}; classes after it may be lost"
                    findings.doubt("cut-short", where, cause)
                end = min(member.offset + member.size_bytes, file.size_bytes)
                parts[name] = TarPart(outer, where, member.offset, end)
    if not parts and findings.problem_counts["not-a-class-tar"]:
        first = next(one.where for one in findings.problems if one.kind == "not-a-class-tar")
        raise SourceError(
            f"{tree.where(outer)} contains no class tars, but {first.partition(':')[2]}: it is "
            "not the official archive, which contains one tar per class. Unpack it, and use the "
            "folder of class folders as SOURCE"
        )
    if not parts and not findings.problems:
        findings.report("empty-archive", outer, "it contains no class tars")
    return parts


def class_tars_beside(paths: Iterable[str]) -> dict[str, TarPart]:
    """The class tars of an unpacked train tar, by class."""
    return {path.rpartition("/")[2].removesuffix(".tar"): whole_tar(path) for path in paths}


def scan_class_tars(
    tree: Tree, parts: dict[str, TarPart], options: ScanOptions
) -> Iterator[tuple[str, ContainerImages]]:
    """Scan class tars, in lexicographic order of their classes."""
    names = sorted(parts, key=os.fsencode)
    lanes = (tree.threads or 1) // max(1, len(parts))
    with ExitStack() as stack:
        # The outer tar is opened once; class tars in files of their own are opened one by one.
        paths = {part.path for part in parts.values()}
        if len(paths) == 1:
            file = stack.enter_context(_opened(tree, paths.pop()))
            images = scan_each(lambda name: _scan_part(file, parts[name], lanes), names, options)
        else:
            images = scan_each(lambda name: _scan_file(tree, parts[name], lanes), names, options)
        yield from zip(names, images, strict=True)


def scan_flat_tar(
    tree: Tree, path: str, name_fault: NameFault, unused: NameTest | None = None
) -> ContainerImages:
    """Scan a tar of images that are not sorted by class.

    ``name_fault`` and ``unused`` are as in :class:`ContainerBuilder`.

    Raises:
        SourceError: the file cannot be opened, or is not a tar.
    """
    builder = ContainerBuilder(path, path, ":", name_fault, unused)
    with _opened(tree, path) as file:
        images = _scan_part(file, whole_tar(path), tree.threads or 1, builder)
    for problem in images.findings.problems:
        if problem.kind == "not-a-tar":
            raise SourceError(f"{tree.where(path)}: {problem.cause}")
    return images


def scan_tar(tree: Tree, part: TarPart, lanes: int | None = None) -> ContainerImages:
    """Scan one tar of images.

    Raises:
        SourceError: the file cannot be opened.
    """
    with _opened(tree, part.path) as file:
        return _scan_part(file, part, tree.threads or 1 if lanes is None else lanes)


def _scan_file(tree: Tree, part: TarPart, lanes: int) -> ContainerImages:
    """Scan one class tar of an unpacked train tar; one without permission is reported."""
    try:
        return scan_tar(tree, part, lanes=lanes)
    except SourceFaultError as exc:
        if not isinstance(exc.__cause__, OSError) or not is_denied(exc.__cause__):
            raise
        builder = ContainerBuilder(part.container, part.path, ":")
        builder.reject("unreadable-file", b"", str(exc.__cause__))
        return builder.finish()


def _scan_part(
    file: RangeFile, part: TarPart, lanes: int, builder: ContainerBuilder | None = None
) -> ContainerImages:
    builder = builder or ContainerBuilder(part.container, part.path, ":")
    end = file.size_bytes if part.end is None else part.end
    members: Iterable[TarMember] = (
        walk_in_lanes(file, part.start, end, lanes) if lanes > 1 else walk(file, part.start, end)
    )
    for member in members:
        if not member.problem:
            builder.add(member.name, member.offset, member.size_bytes, file.mtime_ns)
        elif member.problem in IGNORED:
            builder.findings.oddities[IGNORED[member.problem]] += 1
        else:
            builder.reject(member.problem, member.name, member.cause)
    return builder.finish()


@contextmanager
def _opened(tree: Tree, path: str) -> Iterator[RangeFile]:
    try:
        with tree.open(path) as file:
            yield file
    except OSError as exc:
        raise unreadable(tree.where(path), exc) from exc
