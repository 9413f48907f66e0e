"""Scan folders of images: one folder per class, or one flat folder."""

from __future__ import annotations

import os
from collections.abc import Iterator

from imgprep.sources.challenges import DEVKIT_FOLDERS
from imgprep.sources.clutter import is_clutter
from imgprep.sources.containers import (
    CLUTTER_IGNORED,
    ContainerBuilder,
    ContainerImages,
    Findings,
    NameFault,
    NameTest,
)
from imgprep.sources.faults import is_denied, unreadable
from imgprep.sources.listing import is_image_name
from imgprep.sources.manifest import LOOSE_FILE
from imgprep.sources.scan_threads import ScanOptions, scan_each
from imgprep.sources.tree import Tree, child_path


def scan_class_folders(
    tree: Tree, parent: str, options: ScanOptions, findings: Findings
) -> Iterator[tuple[str, ContainerImages]]:
    """Scan the class folders in ``parent``, in lexicographic order of their classes.

    Faults of the other entries of ``parent`` go to ``findings``.

    Raises:
        SourceError: ``parent`` cannot be listed.
        UnreachableError: the store refuses, or does not answer.
    """
    folders = _class_folders_in(tree, parent, options, findings)
    names = options.chosen(folders, findings)
    images = scan_each(lambda name: scan_folder(tree, folders[name]), names, options)
    return zip(names, images, strict=True)


def _class_folders_in(
    tree: Tree, parent: str, options: ScanOptions, findings: Findings
) -> dict[str, str]:
    """The folder of each class in ``parent``; faults of other entries go to ``findings``."""
    found: dict[str, str] = {}
    try:
        entries = sorted(tree.entries(parent), key=lambda entry: os.fsencode(entry.name))
    except OSError as exc:
        raise unreadable(tree.where(parent), exc) from exc
    for name, kind in entries:
        path = child_path(parent, name)
        if is_clutter(os.fsencode(name)):
            findings.oddities[CLUTTER_IGNORED] += 1
        elif kind == "folder":
            if parent or not name.startswith(DEVKIT_FOLDERS):
                found[name] = path
        elif kind == "broken-link":
            if not is_image_name(name) and not options.selection.takes(name):
                continue
            cause = "the target of the link does not exist"
            findings.report("broken-link", path, cause)
            if not is_image_name(name):
                findings.doubt("broken-link", path, f"{cause}; it may be a class")
        elif is_image_name(name):
            findings.report("stray-file", path, "an image beside the class folders has no class")
        else:
            findings.oddities["files beside the class folders, ignored"] += 1
    return found


def scan_folder(
    tree: Tree, path: str, name_fault: NameFault | None = None, unused: NameTest | None = None
) -> ContainerImages:
    """Scan the files of one folder; sub-folders are reported, not entered.

    ``name_fault`` and ``unused`` are as in :class:`ContainerBuilder`.

    Raises:
        UnreachableError: the store refuses, or does not answer.
        SourceFaultError: the folder cannot be listed; one without permission is reported.
    """
    builder = ContainerBuilder(path, path, "/", name_fault, unused)
    try:
        entries = tree.images(path)
    except OSError as exc:
        if not is_denied(exc):
            raise unreadable(tree.where(path), exc) from exc
        builder.reject("unreadable-folder", b"", f"cannot be listed: {exc.strerror or exc}")
        return builder.finish()
    for name, size_bytes, mtime_ns, problem, cause in entries:
        if problem:
            builder.reject(problem, name, cause)
        else:
            builder.add(name, LOOSE_FILE, size_bytes, mtime_ns)
    return builder.finish()
