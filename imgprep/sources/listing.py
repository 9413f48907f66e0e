"""Look at the folders of a source for evidence of its layout; clutter is left out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import PurePosixPath

from imgprep.sources.challenges import DEVKIT_FOLDERS
from imgprep.sources.clutter import is_clutter
from imgprep.sources.faults import unreadable
from imgprep.sources.tree import FolderEntry, Tree

IMAGE_SUFFIXES = frozenset(
    {
        *(".jpeg", ".jpg", ".jpe", ".jfif", ".pjpeg", ".jp2", ".j2k", ".jxl", ".png", ".apng"),
        *(".gif", ".bmp", ".dib", ".webp", ".avif", ".heic", ".heif", ".tif", ".tiff", ".tga"),
        *(".ppm", ".pgm", ".pbm", ".pnm", ".ico", ".psd"),
    }
)
ENTRIES_CHECKED = 50


def is_image_name(name: str) -> bool:
    """Whether a file name ends like that of an image."""
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES


def class_folder_names(tree: Tree, folder: str) -> list[str]:
    """Names of the sub-folders that may be classes, sorted."""
    return sorted(
        name
        for name, kind in _entries(tree, folder)
        if kind == "folder" and not name.startswith(DEVKIT_FOLDERS)
    )


def exists(tree: Tree, folder: str, name: str) -> bool:
    """Whether a folder has an entry of this name, also if it is a broken link."""
    return any(entry.name == name for entry in _entries(tree, folder))


def file_names(tree: Tree, folder: str) -> list[str]:
    """Names of the files in a folder, sorted."""
    return sorted(name for name, kind in _entries(tree, folder) if kind == "file")


def holds_images(tree: Tree, folder: str) -> bool:
    """Whether one of the first entries of a folder is named like an image."""
    for number, (name, kind) in enumerate(_entries(tree, folder)):
        if kind != "folder" and is_image_name(name):
            return True
        if number >= ENTRIES_CHECKED:
            break
    return False


def _entries(tree: Tree, folder: str) -> Iterator[FolderEntry]:
    try:
        yield from (one for one in tree.entries(folder) if not is_clutter(os.fsencode(one.name)))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return  # A folder that cannot be listed is no evidence; the scan itself reports it.
    except OSError as exc:
        raise unreadable(tree.where(folder), exc) from exc
