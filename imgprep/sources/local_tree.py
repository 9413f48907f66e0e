"""A source on a local or shared disk, through ``os.scandir`` and ``os.pread``."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from imgprep.errors import UsageError
from imgprep.sources.faults import is_denied, unreadable
from imgprep.sources.tree import FolderEntry, ImageEntry, Kind, RangeFile, wrapped_ns
from imgprep.storage import real_path

BLOCK_BYTES = 512
AHEAD_BYTES = 64 * 1024
_BROKEN_LINK = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
CHUNK_BYTES = 4 * 1024 * 1024


class LocalTree:
    """A folder; see ``imgprep.sources.tree.Tree``."""

    threads = None
    processes = 1

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def location(self) -> str:
        """The path, as it was given."""
        return str(self._root)

    @property
    def root_names(self) -> frozenset[str]:
        """The name of the folder, and that of the folder a link leads to."""
        return frozenset({self._root.absolute().name, real_path(self._root).name})

    def where(self, path: str = "") -> str:
        """Path of a file."""
        return str(self._root / path)

    def check_folder(self) -> None:
        """Raise UsageError unless the root is a folder that can be listed."""
        root = self._root
        try:
            if root.is_file():
                text = f"{root} is a file; give the folder that contains it: {root.parent}"
                raise UsageError(text)
            if not root.is_dir():
                what = "is not a folder" if root.exists() else "does not exist"
                raise UsageError(f"{root} {what}")
            os.listdir(root)  # noqa: PTH208
        except OSError as exc:
            raise UsageError(f"{root} cannot be read: {exc.strerror or exc}") from exc

    def subtree(self, path: str) -> LocalTree:
        """The tree of a folder in this one."""
        return LocalTree(self._root / path)

    def parents(self, levels: int) -> list[LocalTree]:
        """The folders above, nearest first."""
        return [LocalTree(path) for path in list(self._root.absolute().parents)[:levels]]

    def is_file(self, path: str) -> bool:
        """Whether it is a file, or a link to one."""
        return (self._root / path).is_file()

    def is_folder(self, path: str) -> bool:
        """Whether it is a folder, or a link to one."""
        return (self._root / path).is_dir()

    def size_bytes(self, path: str) -> int:
        """Size of a file."""
        return (self._root / path).stat().st_size

    def identity(self, path: str) -> object:
        """Equal for two paths of the same folder."""
        now = (self._root / path).stat()
        return now.st_dev, now.st_ino

    def entries(self, path: str = "") -> Iterator[FolderEntry]:
        """The direct entries of a folder, in the order of the system."""
        with os.scandir(self._root / path) as listing:
            for entry in listing:
                yield FolderEntry(entry.name, _kind(entry))

    def images(self, path: str) -> Iterator[ImageEntry]:
        """The direct entries of a folder of images, by name."""
        with os.scandir(os.fsencode(self._root / path)) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
        return map(_image_entry, entries)

    def read(self, path: str, limit_bytes: int) -> bytes:
        """A small file, cut after ``limit_bytes``."""
        with (self._root / path).open("rb") as file:
            return file.read(limit_bytes)

    def chunks(self, path: str) -> Iterator[memoryview]:
        """A large file from its beginning, through one buffer."""
        buffer = bytearray(CHUNK_BYTES)
        view = memoryview(buffer)
        with (self._root / path).open("rb", buffering=0) as file:
            while read_bytes := file.readinto(buffer):
                yield view[:read_bytes]

    @contextmanager
    def open(self, path: str) -> Iterator[RangeFile]:
        """Open a file to read by ranges."""
        fd = os.open(self._root / path, os.O_RDONLY)
        try:
            yield range_file_of(fd)
        finally:
            os.close(fd)

    def stop(self) -> None:
        """Do nothing: a disk answers soon."""


def range_file_of(fd: int) -> RangeFile:
    """The file of an open descriptor; the position of the descriptor is neither used nor moved."""
    now = os.fstat(fd)
    return RangeFile(
        pread=partial(os.pread, fd),
        size_bytes=now.st_size,
        mtime_ns=wrapped_ns(now.st_mtime_ns),
        header_bytes=BLOCK_BYTES,
        ahead_bytes=AHEAD_BYTES,
    )


def _kind(entry: os.DirEntry[str]) -> Kind:
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
        return "broken-link" if entry.is_symlink() and not _exists(entry.path) else "other"
    except OSError:  # for example links that form a loop
        return "broken-link" if entry.is_symlink() else "other"


def _exists(path: str) -> bool:
    return os.path.exists(path)  # noqa: PTH110


def _image_entry(entry: os.DirEntry[bytes]) -> ImageEntry:
    name = entry.name
    try:
        now = entry.stat()
    except OSError as exc:
        if entry.is_symlink() and (is_denied(exc) or exc.errno in _BROKEN_LINK):
            cause = f"the link cannot be followed: {exc.strerror or exc}"
            return name, 0, 0, "broken-link", cause
        if not is_denied(exc):
            raise unreadable(os.fsdecode(entry.path), exc) from exc
        return name, 0, 0, "unreadable-file", f"{exc.strerror or exc}"
    mode = now.st_mode
    if stat.S_ISDIR(mode):
        return name, 0, 0, "nested-folder", "a folder inside a class folder is not read"
    if not stat.S_ISREG(mode):
        return name, 0, 0, "not-a-file", "a pipe, socket or device, not a file"
    # Ask the system only about files that not everyone may read: it saves a call for the rest.
    if not mode & stat.S_IROTH and not _may_read(entry.path):
        return name, 0, 0, "unreadable-file", "no permission to read it"
    return name, now.st_size, wrapped_ns(now.st_mtime_ns), "", ""


def _may_read(path: bytes) -> bool:
    # Unlike open(), access() does not tell a lack of permission from a fault of the machine.
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    except OSError as exc:
        if is_denied(exc):
            return False
        raise unreadable(os.fsdecode(path), exc) from exc
    return True
