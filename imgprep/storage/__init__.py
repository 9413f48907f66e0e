"""Where a dataset lies: a folder on disk, or a URL of an object store. One interface to both.

A store is a folder of named files. A name may have parts (``.imgprep/identity.json``); folders are
made as they are needed. Every file is whole or absent. What goes wrong is an ``OSError`` with its
``strerror``, from a disk and from a network alike: callers turn it into their own errors.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Protocol

from imgprep.storage.urls import path_of

__all__ = ["Location", "Partial", "Store", "absolute", "open_store"]


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

    @property
    def folder(self) -> Path | None:
        """The folder, if it is one of this machine's file system."""

    def where(self, name: str) -> str:
        """Path or URL of a file, for messages."""

    def entries(self, folder: str = "") -> dict[str, int | None]:
        """What lies directly in ``folder``: size by name of files, None for folders.

        In order of names; nothing where ``folder`` does not exist.
        """

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

    def remove(self, *names: str) -> None:
        """Remove files; one that is not there is fine."""

    def remove_folder(self, folder: str) -> None:
        """Remove a folder and all in it, as far as that is possible."""

    def as_file(self, name: str) -> AbstractContextManager[Path]:
        """The file on a local disk, downloaded for the time of the block where it is not.

        A downloaded file has a path of this process only (``/proc/self/fd/…``).
        """

    def as_folder(self, folder: str) -> AbstractContextManager[Path]:
        """As ``as_file``, with all files directly in a folder; what is mapped stays mapped."""

    def new_folder(self, folder: str) -> AbstractContextManager[Path]:
        """A local folder for files of any names: they are in ``folder`` when the block ends."""

    def sweep(self, folder: str = "") -> None:
        """Remove what a killed process left half-written in ``folder``, which is made."""

    def free_bytes(self) -> int | None:
        """Space that is left; None where there is no such limit."""

    def hold(self, name: str) -> AbstractContextManager[str]:
        """Keep other builds out for the time of the block, by the file ``name``; gives a token.

        Raises ``BusyError`` where another build holds the store.
        """

    def check_hold(self, name: str, token: str) -> None:
        """Raise ``BusyError`` if another build took the store over since ``hold`` gave ``token``.

        Nothing that is held on a local disk can be taken over.
        """


Location = str | Path | Store
"""What names a dataset: a path, a URL, or a store that is open."""


def open_store(location: Location) -> Store:
    """The store at a path or URL; nothing is made or looked at yet. A store is given back.

    Raises:
        UsageError: no such kind of URL, or what it needs is not installed.
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
    """A location that means this store in a process with another working directory, too."""
    return store.location if store.folder is None else str(store.folder.resolve())
