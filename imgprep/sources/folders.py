"""Scan folders of images: one folder for each class, or one flat folder."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from imgprep.errors import SourceError
from imgprep.manifest import LOOSE_FILE
from imgprep.sources.collect import (
    Accepts,
    Block,
    BlockBuilder,
    Findings,
    Progress,
    is_clutter,
    scan_each,
)
from imgprep.sources.detect import IMAGE_SUFFIXES
from imgprep.sources.truth import DEVKIT_NAME


@dataclass(frozen=True, slots=True)
class ImageFolder:
    """One folder that holds images."""

    folder: Path
    path: str
    """``folder`` relative to the source."""


def class_folders_in(root: Path, parent: Path, findings: Findings) -> dict[str, ImageFolder]:
    """The folder of each class in ``parent``; other entries go to ``findings``.

    Raises:
        SourceError: ``parent`` cannot be listed.
    """
    found: dict[str, ImageFolder] = {}
    base = os.path.relpath(parent, root)
    try:
        with os.scandir(parent) as listing:
            entries = sorted(listing, key=lambda entry: os.fsencode(entry.name))
    except OSError as exc:
        raise SourceError(f"{parent} cannot be read: {exc.strerror or exc}") from exc
    for entry in entries:
        path = os.path.normpath(os.path.join(base, entry.name))  # noqa: PTH118
        if is_clutter(os.fsencode(entry.name)):
            findings.oddities["hidden or clutter files, ignored"] += 1
        elif entry.is_dir():
            if not (parent == root and entry.name.startswith(DEVKIT_NAME)):
                found[entry.name] = ImageFolder(Path(entry.path), path)
        elif entry.is_symlink() and not os.path.exists(entry.path):  # noqa: PTH110
            findings.report("broken-link", path, "the link leads nowhere")
        elif os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES:  # noqa: PTH122
            findings.report("stray-file", path, "an image beside the class folders has no class")
        else:
            findings.oddities["files beside the class folders, ignored"] += 1
    return found


def scan_class_folders(
    folders: dict[str, ImageFolder], threads: int | None, progress: Progress | None
) -> Iterator[tuple[str, Block]]:
    """Scan class folders, in lexicographic order of their classes."""
    names = sorted(folders, key=os.fsencode)
    blocks = scan_each(lambda name: scan_folder(folders[name]), names, threads, progress)
    return zip(names, blocks, strict=True)


def image_folder(root: Path, folder: Path) -> ImageFolder:
    """A folder of images below ``root``."""
    return ImageFolder(folder, os.path.relpath(folder, root))


def scan_folder(place: ImageFolder, accepts: Accepts | None = None) -> Block:
    """Scan the files of one folder; sub-folders are reported, not entered. Never raises.

    ``accepts`` is as in :class:`BlockBuilder`.
    """
    builder = BlockBuilder(place.path, place.path, "/", accepts)
    try:
        with os.scandir(os.fsencode(place.folder)) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError as exc:
        builder.reject("unreadable-folder", b"", f"cannot be listed: {exc.strerror or exc}")
        return builder.finish()
    for entry in entries:
        _take(builder, entry)
    return builder.finish()


def _take(builder: BlockBuilder, entry: os.DirEntry[bytes]) -> None:
    try:
        found = entry.stat()
    except OSError as exc:
        if entry.is_symlink():
            cause = f"the link cannot be followed: {exc.strerror or exc}"
            builder.reject("broken-link", entry.name, cause)
        else:
            builder.reject("unreadable-file", entry.name, f"{exc.strerror or exc}")
        return
    mode = found.st_mode
    if stat.S_ISDIR(mode):
        builder.reject("nested-folder", entry.name, "a folder inside a class folder is not read")
    elif not stat.S_ISREG(mode):
        builder.reject("not-a-file", entry.name, "a pipe, socket or device, not a file")
    # The system is asked only about files that not everyone may read: a call less for the rest.
    elif not mode & stat.S_IROTH and not _may_read(entry.path):
        builder.reject("unreadable-file", entry.name, "no permission to read it")
    else:
        builder.add(entry.name, LOOSE_FILE, found.st_size, found.st_mtime_ns)


def _may_read(path: bytes) -> bool:
    # By default access() asks for the real user, open() for the effective one.
    return os.access(path, os.R_OK, effective_ids=os.access in os.supports_effective_ids)
