"""A source as a tree of files that are read in place: a folder on disk, or a URL of a store.

Paths in a tree are relative to its root, parted by slashes; the root is the empty path. Two kinds
of failure are told apart: an ``OSError`` means that this file or folder cannot be read, an
:class:`~imgprep.errors.UnreachableError` that the store refuses or does not answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

__all__ = ["Found", "Named", "Ranges", "Tree", "under"]

Kind = Literal["folder", "file", "broken-link", "other"]


class Named(NamedTuple):
    """One entry of a folder."""

    name: str
    kind: Kind


Found = tuple[bytes, int, int, str, str]
"""One entry of a folder of images: name, size in bytes, time of change in ns, problem, cause.

It is a regular file if the problem is empty; else that is a short slug (broken-link,
unreadable-file, nested-folder, not-a-file). A plain tuple: a scan makes one for each image.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranges:
    """An open file, read by ranges; usable from several threads."""

    pread: Callable[[int, int], bytes]
    """``pread(size_bytes, offset)``: fewer bytes only at the end of the file."""
    size_bytes: int
    mtime_ns: int
    header_bytes: int
    """The least that is worth a request of its own: a tar header, and what often follows it."""
    ahead_bytes: int
    """What to read at once where headers lie close together."""


class Tree(Protocol):
    """The files of a source."""

    @property
    def location(self) -> str:
        """The root as the user wrote it; a path where a ``file://`` URL was given."""

    @property
    def called(self) -> frozenset[str]:
        """The names that the root folder goes by."""

    @property
    def threads(self) -> int | None:
        """Threads that list containers best; None: measure how fast they answer."""

    @property
    def processes(self) -> int:
        """Processes that scan a large source best."""

    def where(self, path: str = "") -> str:
        """Path or URL of a file or folder, for messages."""

    def check(self) -> None:
        """Raise UsageError unless the root is a folder that can be listed."""

    def at(self, path: str) -> Tree:
        """The tree of a folder in this one."""

    def above(self, levels: int) -> Sequence[Tree]:
        """The trees of the folders above the root, nearest first."""

    def is_file(self, path: str) -> bool: ...

    def is_folder(self, path: str) -> bool: ...

    def size_bytes(self, path: str) -> int:
        """Size of a file."""

    def entries(self, path: str = "") -> Iterator[Named]:
        """What lies directly in a folder, in any order."""

    def files(self, path: str) -> Iterator[Found]:
        """What lies directly in a folder of images, by name."""

    def read(self, path: str, limit_bytes: int) -> bytes:
        """A small file, cut after ``limit_bytes``."""

    def chunks(self, path: str) -> Iterator[memoryview]:
        """A large file from its beginning; a chunk is good until the next one is asked for."""

    def open(self, path: str) -> AbstractContextManager[Ranges]:
        """A file to read by ranges."""

    def stop(self) -> None:
        """Reads under way in other threads fail soon; nothing more is read."""


def under(path: str, name: str) -> str:
    """``name`` in the folder ``path``, which may be the root."""
    return f"{path}/{name}" if path else name
