"""Where a dataset is: a folder on disk or a URL of an object store, behind one interface.

A path or URL comes in and a ``Store`` goes out: a folder of named files, each whole or absent. A
name may have parts (``.imgprep/identity.json``); folders are created as needed. Every failure, of
a disk or of a network, is an ``OSError`` with a ``strerror``, which callers turn into their own
errors. Start reading at ``Store`` below, then ``local`` and ``remote``, which implement it.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Protocol

from imgprep.storage.urls import path_of

__all__ = ["Location", "Partial", "Store", "absolute", "open_store", "real_path"]


class Partial(Protocol):
    """A file being written; ``commit`` makes it appear, whole, under its name."""

    @property
    def file(self) -> IO[bytes]: ...
    def commit(self) -> None:
        """Flush the file (or upload and verify it), then give it its name."""

    def abandon(self) -> None:
        """Discard what was written; a file of that name stays as it was."""


class Store(Protocol):
    """A folder of named files. All methods raise ``OSError`` (``FileNotFoundError``, …)."""

    @property
    def location(self) -> str:
        """The folder as the user wrote it: ``open_store(location)`` opens it in any process."""

    @property
    def folder(self) -> Path | None:
        """The folder, if it is in this machine's file system; else None."""

    def where(self, name: str) -> str:
        """Path or URL of a file, for messages."""

    def entries(self, folder: str = "") -> dict[str, int | None]:
        """What is directly in ``folder``: the size of each file, None for each folder.

        Sorted by name; empty if ``folder`` does not exist.
        """

    def names(self, folder: str = "") -> list[str]:
        """Names of the files directly in ``folder``, sorted; empty if it does not exist."""

    def size_bytes(self, name: str) -> int:
        """Size of a file."""

    def read(self, name: str) -> bytes:
        """The content of a small file."""

    def write(self, name: str, data: bytes) -> None:
        """Write a small file, whole or not at all; on return it is on disk."""

    def partial(self, name: str) -> Partial:
        """Begin a large file; on a disk, the next ``write`` into its folder flushes its name."""

    def remove(self, *names: str) -> None:
        """Remove files; missing ones are no error."""

    def remove_folder(self, folder: str) -> None:
        """Remove a folder and its content, as far as possible."""

    def as_file(self, name: str) -> AbstractContextManager[Path]:
        """The file on a local disk, if necessary downloaded for the duration of the block.

        The path of a downloaded file is valid in this process only (``/proc/self/fd/…``).
        """

    def as_folder(self, folder: str) -> AbstractContextManager[Path]:
        """Like ``as_file``, for all files directly in a folder; memory maps outlive the block."""

    def new_folder(self, folder: str) -> AbstractContextManager[Path]:
        """A local folder to write files into; they are in ``folder`` when the block ends."""

    def sweep(self, folder: str = "") -> None:
        """Create ``folder`` if missing; remove half-written files that a killed process left."""

    def free_bytes(self) -> int | None:
        """Free space; None if there is no limit."""

    def hold(self, name: str) -> AbstractContextManager[str]:
        """Lock other builds out for the duration of the block, by the file ``name``.

        Yields a token for ``check_hold``. Raises ``BusyError`` if another build holds the store.
        """

    def check_hold(self, name: str, token: str) -> None:
        """Raise ``BusyError`` if another build took over the store since ``hold`` gave ``token``.

        A lock on a local disk cannot be taken over; a lease can.
        """


Location = str | Path | Store
"""A dataset's path, URL or open store."""


def open_store(location: Location) -> Store:
    """The store at a path or URL, which is not accessed yet; a store is returned as it is.

    Raises:
        UsageError: an unknown kind of URL, or the package that it needs is not installed.
    """
    if not isinstance(location, (str, Path)):
        return location
    path = path_of(location)
    if path is None:
        from imgprep.storage.remote import RemoteStore

        return RemoteStore(str(location))
    from imgprep.storage.local import LocalStore

    return LocalStore(path)


def absolute(store: Store) -> str:
    """The location of this store, valid in processes with another working directory, too."""
    return store.location if store.folder is None else str(real_path(store.folder))


def real_path(path: Path) -> Path:
    """The absolute path without links; of a loop of links, as far as it leads, without an error."""
    return Path(os.path.realpath(path))
