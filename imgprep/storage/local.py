"""A store that is a folder on a local or shared disk."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from imgprep.errors import BusyError
from imgprep.storage import locks
from imgprep.storage.atomic import (
    PartialFile,
    is_partial,
    read_regular,
    remove_partials,
    write_bytes,
)
from imgprep.storage.lease import ANOTHER_BUILD, Lease

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
        sizes: dict[str, int | None] = {}
        for entry in found:
            with suppress(FileNotFoundError):  # removed since it was listed
                if entry.is_dir():
                    sizes[entry.name] = None
                elif entry.is_file() and not is_partial(entry.name):
                    sizes[entry.name] = entry.stat().st_size
        return sizes

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
            self._inside(name).unlink(missing_ok=True)

    def remove_folder(self, folder: str) -> None:
        """Remove a folder and its content, as far as possible."""
        with suppress(OSError):
            shutil.rmtree(self._inside(folder, is_folder=True), ignore_errors=True)

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
        path = self._inside(folder, is_folder=True)
        path.mkdir(parents=True, exist_ok=True)
        yield path

    def sweep(self, folder: str = "") -> None:
        """Remove partial files."""
        path = self._inside(folder, is_folder=True)
        path.mkdir(parents=True, exist_ok=True)
        remove_partials(path)

    def free_bytes(self) -> int:
        """Free space of the file system that will hold the folder, which need not exist yet."""
        whole = self.folder.absolute()
        existing = next(path for path in (whole, *whole.parents) if os.path.exists(path))  # noqa: PTH110
        return shutil.disk_usage(existing).free

    def create(self, name: str, data: bytes) -> None:
        """Write a file that must not exist yet.

        Raises:
            FileExistsError: it exists.
        """
        path = self._made(name)
        partial = PartialFile(path)
        try:
            partial.file.write(data)
            partial.commit_new()
        finally:
            partial.abandon()

    @contextmanager
    def hold(self, name: str, busy: str = ANOTHER_BUILD) -> Iterator[str]:
        """Lock the file; the system unlocks it when this process and its workers have ended.

        If the file system has no file locks, a lease beside the file takes their place, as in an
        object store. ``busy`` says what another holder does.

        Raises:
            BusyError: another build holds it.
        """
        fd = locks.open_lock(self._made(name))
        try:
            has_locks = self._lock(fd, busy)
            with nullcontext() if has_locks else Lease(self, _lease_of(name), busy=busy) as lease:
                yield lease.token if lease is not None else ""
        finally:
            os.close(fd)

    def check_hold(self, name: str, token: str) -> None:
        """Raise ``BusyError`` if the lease is no longer ours; a lock cannot be lost."""
        if token:
            Lease(self, _lease_of(name), token=token).check()

    def _lock(self, fd: int, busy: str) -> bool:
        """Whether the file system has locks, of which this one is now ours."""
        deadline = time.monotonic() + LOCK_SECONDS
        try:
            while not locks.lock(fd, wait=False):
                if time.monotonic() > deadline:
                    holder = locks.in_words(locks.read_holder(fd))
                    raise BusyError(f"{self.folder}: {busy}{holder}: wait for it to finish")
                time.sleep(0.05)
        except locks.NoLocksError:
            return False
        locks.write_holder(fd)
        return True

    def _made(self, name: str) -> Path:
        """Path of a file, whose folder is created if missing."""
        path = self._inside(name)
        if "/" in name:
            path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _inside(self, name: str, *, is_folder: bool = False) -> Path:
        """Path of a file or folder to change, whose folders in the store are not links.

        Through links in a dataset from someone else, we would change files anywhere.
        """
        parts = Path(name).parts
        for depth in range(1, len(parts) + is_folder):
            folder = self.folder.joinpath(*parts[:depth])
            if folder.is_symlink():
                raise OSError(errno.ELOOP, f"{folder} is a symbolic link", str(folder))
        return self.folder / name


def _lease_of(name: str) -> str:
    return f"{name}.lease"
