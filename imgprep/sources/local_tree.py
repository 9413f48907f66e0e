"""A source on a local or shared disk, through ``os.scandir`` and ``os.pread``."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from imgprep.errors import UsageError
from imgprep.sources.tree import Found, Kind, Named, Ranges

BLOCK_BYTES = 512
AHEAD_BYTES = 64 * 1024
CHUNK_BYTES = 4 * 1024 * 1024


class LocalTree:
    """A folder; see ``imgprep.sources.tree.Tree``."""

    threads = None
    processes = 1

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def location(self) -> str:
        """Its path, as it was given."""
        return str(self._root)

    @property
    def called(self) -> frozenset[str]:
        """Its name, and that of the folder that a link leads to."""
        return frozenset({self._root.absolute().name, self._root.resolve().name})

    def where(self, path: str = "") -> str:
        """Path of a file."""
        return str(self._root / path)

    def check(self) -> None:
        """Raise UsageError unless the root is a folder that can be listed."""
        root = self._root
        if root.is_file():
            raise UsageError(f"{root} is a file; give the folder that it lies in: {root.parent}")
        if not root.is_dir():
            raise UsageError(f"{root} is not a folder")
        try:
            os.listdir(root)  # noqa: PTH208
        except OSError as exc:
            raise UsageError(f"{root} cannot be read: {exc.strerror or exc}") from exc

    def at(self, path: str) -> LocalTree:
        """The tree of a folder in this one."""
        return LocalTree(self._root / path)

    def above(self, levels: int) -> list[LocalTree]:
        """The folders above."""
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

    def entries(self, path: str = "") -> Iterator[Named]:
        """What lies directly in a folder, as the system lists it."""
        with os.scandir(self._root / path) as listing:
            for entry in listing:
                yield Named(entry.name, _kind(entry))

    def files(self, path: str) -> Iterator[Found]:
        """What lies directly in a folder of images, by name."""
        with os.scandir(os.fsencode(self._root / path)) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
        return map(_found, entries)

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
    def open(self, path: str) -> Iterator[Ranges]:
        """A file to read by ranges."""
        fd = os.open(self._root / path, os.O_RDONLY)
        try:
            yield ranges_of(fd)
        finally:
            os.close(fd)

    def stop(self) -> None:
        """Nothing: a disk answers soon."""


def ranges_of(fd: int) -> Ranges:
    """An open file descriptor, whose position is neither used nor moved."""
    now = os.fstat(fd)
    return Ranges(
        pread=partial(os.pread, fd),
        size_bytes=now.st_size,
        mtime_ns=now.st_mtime_ns,
        header_bytes=BLOCK_BYTES,
        ahead_bytes=AHEAD_BYTES,
    )


def _kind(entry: os.DirEntry[str]) -> Kind:
    if entry.is_dir():
        return "folder"
    if entry.is_file():
        return "file"
    if entry.is_symlink() and not os.path.exists(entry.path):  # noqa: PTH110
        return "broken-link"
    return "other"


def _found(entry: os.DirEntry[bytes]) -> Found:
    name = entry.name
    try:
        now = entry.stat()
    except OSError as exc:
        if entry.is_symlink():
            cause = f"the link cannot be followed: {exc.strerror or exc}"
            return name, 0, 0, "broken-link", cause
        return name, 0, 0, "unreadable-file", f"{exc.strerror or exc}"
    mode = now.st_mode
    if stat.S_ISDIR(mode):
        return name, 0, 0, "nested-folder", "a folder inside a class folder is not read"
    if not stat.S_ISREG(mode):
        return name, 0, 0, "not-a-file", "a pipe, socket or device, not a file"
    # The system is asked only about files that not everyone may read: a call less for the rest.
    if not mode & stat.S_IROTH and not _may_read(entry.path):
        return name, 0, 0, "unreadable-file", "no permission to read it"
    return name, now.st_size, now.st_mtime_ns, "", ""


def _may_read(path: bytes) -> bool:
    # By default access() asks for the real user, open() for the effective one.
    return os.access(path, os.R_OK, effective_ids=os.access in os.supports_effective_ids)
