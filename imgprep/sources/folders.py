"""Scan folders of images: one folder for each class, or one flat folder."""

from __future__ import annotations

import os
from collections.abc import Iterator

from imgprep.errors import SourceError
from imgprep.sources.collect import (
    Accepts,
    Block,
    BlockBuilder,
    Findings,
    Pace,
    is_clutter,
    scan_each,
)
from imgprep.sources.detect import IMAGE_SUFFIXES
from imgprep.sources.manifest import LOOSE_FILE
from imgprep.sources.tree import Tree, under
from imgprep.sources.truth import DEVKIT_NAME


def class_folders_in(tree: Tree, parent: str, findings: Findings) -> dict[str, str]:
    """The folder of each class in ``parent``; other entries go to ``findings``.

    Raises:
        SourceError: ``parent`` cannot be listed.
    """
    found: dict[str, str] = {}
    try:
        entries = sorted(tree.entries(parent), key=lambda entry: os.fsencode(entry.name))
    except OSError as exc:
        raise SourceError(f"{tree.where(parent)} cannot be read: {exc.strerror or exc}") from exc
    for name, kind in entries:
        path = under(parent, name)
        if is_clutter(os.fsencode(name)):
            findings.oddities["hidden or clutter files, ignored"] += 1
        elif kind == "folder":
            if parent or not name.startswith(DEVKIT_NAME):
                found[name] = path
        elif kind == "broken-link":
            findings.report("broken-link", path, "the link leads nowhere")
        elif os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES:  # noqa: PTH122
            findings.report("stray-file", path, "an image beside the class folders has no class")
        else:
            findings.oddities["files beside the class folders, ignored"] += 1
    return found


def scan_class_folders(
    tree: Tree, folders: dict[str, str], pace: Pace
) -> Iterator[tuple[str, Block]]:
    """Scan class folders, in lexicographic order of their classes."""
    names = sorted(folders, key=os.fsencode)
    blocks = scan_each(lambda name: scan_folder(tree, folders[name]), names, pace)
    return zip(names, blocks, strict=True)


def scan_folder(tree: Tree, path: str, accepts: Accepts | None = None) -> Block:
    """Scan the files of one folder; sub-folders are reported, not entered.

    ``accepts`` is as in :class:`BlockBuilder`.

    Raises:
        UnreachableError: the store refuses, or does not answer; no fault of the folder raises.
    """
    builder = BlockBuilder(path, path, "/", accepts)
    try:
        entries = tree.files(path)
    except OSError as exc:
        builder.reject("unreadable-folder", b"", f"cannot be listed: {exc.strerror or exc}")
        return builder.finish()
    for name, size_bytes, mtime_ns, problem, cause in entries:
        if problem:
            builder.reject(problem, name, cause)
        else:
            builder.add(name, LOOSE_FILE, size_bytes, mtime_ns)
    return builder.finish()
