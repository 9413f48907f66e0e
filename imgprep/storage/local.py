"""A store that is a folder on a local or shared disk."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from imgprep.errors import BusyError
from imgprep.storage.atomic import (
    PartialFile,
    is_partial,
    read_regular,
    remove_partials,
    write_bytes,
)

LOCK_SECONDS = 3.0
"""How long to wait for a lock: workers of a killed build hold it a moment longer."""


class LocalStore:
    """A folder; files appear by rename, after they are on disk. See ``imgprep.storage.Store``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def folder(self) -> Path:
        """The folder."""
        return self._folder

    @property
    def location(self) -> str:
        """Its path, as the user wrote it."""
        return str(self.folder)

    def __str__(self) -> str:
        return str(self.folder)

    def where(self, name: str) -> str:
        """Path of a file."""
        return str(self.folder / name)

    def entries(self, folder: str = "") -> dict[str, int | None]:
        """Size of each file, None for each folder; half-written files are left out."""
        try:
            with os.scandir(self.folder / folder) as listing:
                found = sorted(listing, key=lambda entry: entry.name)
        except FileNotFoundError:
            return {}
        return {
            entry.name: entry.stat().st_size if entry.is_file() else None
            for entry in found
            if entry.is_dir() or (entry.is_file() and not is_partial(entry.name))
        }

    def names(self, folder: str = "") -> list[str]:
        """Names of the files directly in ``folder``, sorted."""
        return [name for name, size in self.entries(folder).items() if size is not None]

    def size_bytes(self, name: str) -> int:
        """Size of a file."""
        return (self.folder / name).stat().st_size

    def read(self, name: str) -> bytes:
        """The content of a file."""
        return read_regular(self.folder / name)

    def write(self, name: str, data: bytes) -> None:
        """Write a file; flush it and its folder's entries."""
        write_bytes(self._made(name), data)

    def partial(self, name: str) -> PartialFile:
        """Begin a file under a temporary name in its folder."""
        return PartialFile(self._made(name))

    def remove(self, *names: str) -> None:
        """Remove files."""
        for name in names:
            (self.folder / name).unlink(missing_ok=True)

    def remove_folder(self, folder: str) -> None:
        """Remove a folder and its content, as far as possible."""
        shutil.rmtree(self.folder / folder, ignore_errors=True)

    @contextmanager
    def as_file(self, name: str) -> Iterator[Path]:
        """The file itself."""
        yield self.folder / name

    @contextmanager
    def as_folder(self, folder: str) -> Iterator[Path]:
        """The folder itself."""
        yield self.folder / folder

    @contextmanager
    def new_folder(self, folder: str) -> Iterator[Path]:
        """The folder itself, created if missing."""
        path = self.folder / folder
        path.mkdir(parents=True, exist_ok=True)
        yield path

    def sweep(self, folder: str = "") -> None:
        """Remove partial files."""
        path = self.folder / folder
        path.mkdir(parents=True, exist_ok=True)
        remove_partials(path)

    def free_bytes(self) -> int:
        """Free space of the file system that will hold the folder, which need not exist yet."""
        whole = self.folder.absolute()
        existing = next(path for path in (whole, *whole.parents) if path.exists())
        return shutil.disk_usage(existing).free

    @contextmanager
    def hold(self, name: str) -> Iterator[str]:
        """Lock the file; the system unlocks it when this process and its workers have ended.

        Raises:
            BusyError: another build holds it.
        """
        fd = os.open(self._made(name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            self._lock(fd)
            yield ""
        finally:
            os.close(fd)

    def check_hold(self, name: str, token: str) -> None:
        """Do nothing: the lock cannot be lost."""

    def _lock(self, fd: int) -> None:
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as exc:
                if time.monotonic() > deadline:
                    raise BusyError(
                        f"{self.folder}: another build is writing here: wait for it"
                    ) from exc
                time.sleep(0.05)

    def _made(self, name: str) -> Path:
        """Path of a file, whose folder is created if missing."""
        path = self.folder / name
        if "/" in name:
            path.parent.mkdir(parents=True, exist_ok=True)
        return path
