"""A cache of whole shards of remote datasets, on a local disk, within a size limit.

A shard is a file named by its SHA-256 from the index, so a shard at two URLs is one file. It is
downloaded in byte ranges under a temporary name, hashed meanwhile, and renamed. The least recently
used shards are evicted *before* its first byte is written, so the folder never exceeds its limit.

All processes of a machine may share the folder. Space is reserved under one lock (the file
``lock``). A process that downloads a shard holds a lock on its temporary file; the others wait for
it instead of downloading it too. Both locks end with the process, however it ends; the next process
that reserves space removes its incomplete files. A shard may be evicted while it is read, because
an open file stays complete.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from imgprep.dataset.index import ShardInfo
from imgprep.storage import Store
from imgprep.storage.locks import NoLocksError, lock
from train.errors import DataError
from train.feed.remote.download import DownloadStoppedError, download
from train.feed.shard_files import checked_descriptor

CACHE_VARIABLE = "IMGPREP_CACHE"
POLL_SECONDS = 0.05
SPARE_SHARE = 0.02
"""Share of the disk that the cache leaves free, whatever its limit."""
_SHARD, _PARTIAL = ".tar", ".partial"
_CACHE_NAME = re.compile(r"[0-9a-f]{64}\.(tar|partial)")
"""Other files in the folder are neither counted nor removed."""


def default_folder() -> Path:
    """Return ``$IMGPREP_CACHE``, or ``imgprep`` in ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "imgprep"


def touch(descriptor: int) -> None:
    """Record that a shard is used now; the clock of the file system alone would be too coarse."""
    now = time.time_ns()
    with suppress(OSError):
        os.utime(descriptor, ns=(now, now))


@dataclass(frozen=True, slots=True)
class _Entry:
    path: Path
    bytes: int
    """Size; the full size already when the download starts."""
    unwritten_bytes: int
    used_at_ns: int


class ShardCache:
    """The cache folder. Threads and processes may share it."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        """Remember the folder; ``create`` makes it."""
        self.folder, self.limit_bytes = folder, limit_bytes
        self._verified: set[tuple[str, int]] = set()
        """Hashes and inodes of the files that this process has verified."""

    def create(self) -> None:
        """Create the folder if it is missing.

        Raises:
            DataError: it cannot be created or written.
        """
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._locked():
                pass
        except OSError as exc:
            raise self._error(exc) from exc

    def room_bytes(self) -> int:
        """Bytes that the shards may take now: the limit, or less if the disk is full."""
        entries = self._entries()
        return self._allowed(sum(entry.bytes for entry in entries), entries)

    def open(self, shard: ShardInfo) -> int | None:
        """Open a cached shard and mark it as used; None if it is not cached."""
        try:
            descriptor = checked_descriptor(self._path(shard), shard)
        except (OSError, ValueError):
            return None
        touch(descriptor)
        return descriptor

    def fetch(self, store: Store, shard: ShardInfo, stopped: Callable[[], bool]) -> None:
        """Download a shard unless it is cached; returns when it is complete.

        Raises:
            DataError: the store fails, the disk is full, or the download is not the shard.
            DownloadStoppedError: ``stopped`` returned true.
        """
        while not self._is_cached(shard):
            with self._claim(shard, stopped) as descriptor:
                if descriptor is None:
                    continue
                try:
                    self._reserve(descriptor, shard, stopped)
                    download(store, shard, descriptor, stopped)
                    self._verified.add((shard.sha256, os.fstat(descriptor).st_ino))
                    os.fsync(descriptor)
                    # Under the lock: while a file changes its name, a count could miss it.
                    with self._locked():
                        self._partial(shard).rename(self._path(shard))
                except OSError as exc:
                    raise self._error(exc) from exc

    def _path(self, shard: ShardInfo) -> Path:
        return self.folder / f"{shard.sha256}{_SHARD}"

    def _partial(self, shard: ShardInfo) -> Path:
        return self.folder / f"{shard.sha256}{_PARTIAL}"

    def _error(self, exc: OSError) -> DataError:
        free = "" if isinstance(exc, NoLocksError) else "free some space, or "
        return DataError(
            f"{self.folder}: cannot cache shards here: {exc.strerror or exc}: {free}choose another "
            "folder with --cache"
        )

    def _lock(self, descriptor: int, *, wait: bool) -> bool:
        try:
            return lock(descriptor, wait=wait)
        except NoLocksError as exc:
            raise self._error(exc) from exc

    def _is_cached(self, shard: ShardInfo) -> bool:
        """Whether the shard is cached; hashed once per process, and removed if it is damaged."""
        try:
            descriptor = checked_descriptor(self._path(shard), shard)
        except FileNotFoundError:
            return False
        except (OSError, ValueError):  # unreadable, or of another size
            self._path(shard).unlink(missing_ok=True)
            return False
        touch(descriptor)
        with open(descriptor, "rb") as file:  # noqa: PTH123  a descriptor
            known = (shard.sha256, os.fstat(file.fileno()).st_ino)
            if known not in self._verified:
                if hashlib.file_digest(file, "sha256").hexdigest() != shard.sha256:
                    self._path(shard).unlink(missing_ok=True)
                    return False
                self._verified.add(known)
        return True

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock of the whole folder briefly."""
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._lock(descriptor, wait=True)
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def _claim(self, shard: ShardInfo, stopped: Callable[[], bool]) -> Iterator[int | None]:
        """Lock the temporary file of a shard; removes it if it still exists at the end.

        Yields None if another process had the lock until now: check again for the shard.
        """
        path = self._partial(shard)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise self._error(exc) from exc
        try:
            while not self._lock(descriptor, wait=False):
                _wait(stopped)
            is_current = _has_path(descriptor, path)
            try:
                yield descriptor if is_current and not self._path(shard).exists() else None
            finally:
                if is_current and _has_path(descriptor, path):
                    path.unlink(missing_ok=True)
        finally:
            os.close(descriptor)

    def _reserve(self, descriptor: int, shard: ShardInfo, stopped: Callable[[], bool]) -> None:
        """Evict old shards until this one fits, and count it from now on.

        If only the current downloads of others are in the way, wait for them.
        """
        while True:
            with self._locked():
                os.ftruncate(descriptor, 0)
                if self._evict(shard.bytes):
                    os.ftruncate(descriptor, shard.bytes)
                    return
            _wait(stopped)

    def _evict(self, needed_bytes: int) -> bool:
        """Evict until ``needed_bytes`` fit; returns whether they do."""
        self._remove_abandoned()
        entries = self._entries()
        taken = sum(entry.bytes for entry in entries)
        allowed = self._allowed(taken, entries)
        if needed_bytes > allowed:
            raise OSError(
                errno.ENOSPC,
                f"a shard takes {needed_bytes:,} bytes, but only {max(allowed, 0):,} are available",
            )
        shards = [entry for entry in entries if entry.path.suffix == _SHARD]
        for entry in sorted(shards, key=lambda entry: entry.used_at_ns):
            if taken + needed_bytes <= allowed:
                break
            entry.path.unlink(missing_ok=True)
            taken -= entry.bytes
        return taken + needed_bytes <= allowed

    def _allowed(self, taken_bytes: int, entries: list[_Entry]) -> int:
        whole = self.folder.absolute()
        disk = shutil.disk_usage(next(each for each in (whole, *whole.parents) if each.exists()))
        free = disk.free - sum(entry.unwritten_bytes for entry in entries)
        return min(self.limit_bytes, taken_bytes + free - int(SPARE_SHARE * disk.total))

    def _entries(self) -> list[_Entry]:
        found: list[_Entry] = []
        if not self.folder.exists():
            return found
        for path in self._cache_files():
            with suppress(FileNotFoundError):
                state = path.stat()
                unwritten = max(0, state.st_size - state.st_blocks * 512)
                found.append(_Entry(path, state.st_size, unwritten, state.st_mtime_ns))
        return found

    def _cache_files(self) -> Iterator[Path]:
        return (path for path in self.folder.iterdir() if _CACHE_NAME.fullmatch(path.name))

    def _remove_abandoned(self) -> None:
        """Remove incomplete files of processes that have ended."""
        for path in self._cache_files():
            if path.suffix != _PARTIAL:
                continue
            with suppress(FileNotFoundError):
                descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
                try:
                    if self._lock(descriptor, wait=False) and _has_path(descriptor, path):
                        path.unlink(missing_ok=True)
                finally:
                    os.close(descriptor)


def _has_path(descriptor: int, path: Path) -> bool:
    """Whether the open file still has this path."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _wait(stopped: Callable[[], bool]) -> None:
    if stopped():
        raise DownloadStoppedError
    time.sleep(POLL_SECONDS)
