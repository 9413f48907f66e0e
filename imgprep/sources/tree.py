"""A source as a tree of files that are read in place: a folder on disk, or a URL of a store.

Paths in a tree are relative to its root and separated by slashes; the root is the empty path. An
``OSError`` means that one file or folder cannot be read; an
:class:`~imgprep.errors.UnreachableError` means that the store refuses or does not answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

__all__ = ["FolderEntry", "ImageEntry", "RangeFile", "Tree", "child_path", "wrapped_ns"]

Kind = Literal["folder", "file", "broken-link", "other"]


class FolderEntry(NamedTuple):
    """One entry of a folder."""

    name: str
    kind: Kind


ImageEntry = tuple[bytes, int, int, str, str]
"""One entry of a folder of images: name, size in bytes, modification time in ns, problem, cause.

It is a regular file if the problem is empty; else the problem is a short slug (broken-link,
unreadable-file, nested-folder, not-a-file). A plain tuple, because a scan makes one per image.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class RangeFile:
    """An open file that is read by ranges; several threads may use it."""

    pread: Callable[[int, int], bytes]
    """``pread(size_bytes, offset)``: returns fewer bytes only at the end of the file."""
    size_bytes: int
    mtime_ns: int
    header_bytes: int
    """The smallest read that is worth a request: a tar header, and what often follows it."""
    ahead_bytes: int
    """How much to read at once where headers are close together."""


class Tree(Protocol):
    """The files of a source."""

    @property
    def location(self) -> str:
        """The root as the user wrote it; a path where a ``file://`` URL was given."""

    @property
    def root_names(self) -> frozenset[str]:
        """The names of the root folder: its own, and that of the folder a link leads to."""

    @property
    def threads(self) -> int | None:
        """The best number of threads to list containers; None: measure how fast they answer."""

    @property
    def processes(self) -> int:
        """The best number of processes to scan a large source."""

    def where(self, path: str = "") -> str:
        """Path or URL of a file or folder, for messages."""

    def check_folder(self) -> None:
        """Raise UsageError unless the root is a folder that can be listed."""

    def subtree(self, path: str) -> Tree:
        """The tree of a folder in this one."""

    def parents(self, levels: int) -> Sequence[Tree]:
        """The trees of the folders above the root, nearest first."""

    def is_file(self, path: str) -> bool: ...

    def is_folder(self, path: str) -> bool: ...

    def size_bytes(self, path: str) -> int:
        """Size of a file."""

    def identity(self, path: str) -> object:
        """Equal for two paths of the same folder."""

    def entries(self, path: str = "") -> Iterator[FolderEntry]:
        """The direct entries of a folder, in any order."""

    def images(self, path: str) -> Iterator[ImageEntry]:
        """The direct entries of a folder of images, by name."""

    def read(self, path: str, limit_bytes: int) -> bytes:
        """A small file, cut after ``limit_bytes``."""

    def chunks(self, path: str) -> Iterator[memoryview]:
        """A large file from its beginning; a chunk is valid until the next one is requested."""

    def open(self, path: str) -> AbstractContextManager[RangeFile]:
        """Open a file to read by ranges."""

    def stop(self) -> None:
        """Make the reads of other threads fail soon; nothing more is read."""


def wrapped_ns(time_ns: int) -> int:
    """A modification time as int64; times before 1677 and after 2262 wrap, and so still differ."""
    return (time_ns + 2**63) % 2**64 - 2**63


def child_path(folder: str, name: str) -> str:
    """Path of ``name`` in ``folder``; each may be empty."""
    return f"{folder}/{name}" if folder and name else folder or name
