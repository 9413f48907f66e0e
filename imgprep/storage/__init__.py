"""Where a dataset lies: a folder on disk, or a URL of an object store. One interface to both.

A store is a folder of named files. A name may have parts (``.imgprep/plan.json``); folders are
made as they are needed. Every file is whole or absent. What goes wrong is an ``OSError`` with its
``strerror``, from a disk and from a network alike: callers turn it into their own errors.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Protocol

from imgprep.storage.urls import is_url, local_path

__all__ = ["Partial", "Store", "open_store"]


class Partial(Protocol):
    """A file being written; it appears under its name, whole, by ``commit``."""

    @property
    def file(self) -> IO[bytes]: ...
    def commit(self) -> None:
        """Flush (or upload and verify), then give the name."""

    def abandon(self) -> None:
        """Drop what was written; the name stays as it was."""


class Store(Protocol):
    """A folder of named files. All methods raise ``OSError`` (``FileNotFoundError``, …)."""

    @property
    def location(self) -> str:
        """The folder as the user wrote it: ``open_store(location)`` opens it in any process."""

    def where(self, name: str) -> str:
        """Path or URL of a file, for messages."""

    def names(self, folder: str = "") -> list[str]:
        """Names of the files directly in ``folder``, sorted; none where it does not exist."""

    def size_bytes(self, name: str) -> int:
        """Size of a file."""

    def read(self, name: str) -> bytes:
        """The whole of a small file."""

    def write(self, name: str, data: bytes) -> None:
        """Write a small file, whole or not at all; on return it is safe."""

    def partial(self, name: str) -> Partial:
        """Begin a large file; a local one is safe after the next ``write`` into its folder."""

    def remove(self, name: str) -> None:
        """Remove a file; one that is not there is fine."""

    def as_file(self, name: str) -> AbstractContextManager[Path]:
        """The file on a local disk, downloaded for the time of the block where it is not."""

    def free_bytes(self) -> int | None:
        """Space that is left; None where there is no such limit."""


def open_store(location: str | Path) -> Store:
    """The store at a path or URL; nothing is made or looked at yet.

    Raises:
        UsageError: no such kind of URL, or what it needs is not installed.
    """
    text = str(location)
    if is_url(text) and (path := local_path(text)) is None:
        from imgprep.storage.remote import RemoteStore

        return RemoteStore(text)
    from imgprep.storage.local import LocalStore

    return LocalStore(path if is_url(text) and path is not None else Path(location))
