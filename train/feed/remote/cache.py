"""Shards of datasets in object stores, whole, on a local disk, within a limit of size.

A shard is a file named by the SHA-256 that the index states: the same shard of two URLs is one
file. It is downloaded by byte ranges under a temporary name, hashed on the way, and renamed. The
least recently used shards make room for it *before* its first byte is written, so the folder is
never larger than its limit.

The folder may be shared by any processes of a machine. Room is made under one lock (``lock``). Who
downloads a shard holds a lock on its temporary file; others wait for it instead of downloading it,
too. Both locks end with the process, however it ends: what it left half-written is then removed by
the next one that makes room. A shard may be removed while it is read: an open file stays whole.
"""

from __future__ import annotations

import errno
import fcntl
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
from train.errors import DataError
from train.feed.remote.download import CacheStoppedError, download
from train.feed.shard_files import checked_descriptor

CACHE_VARIABLE = "IMGPREP_CACHE"
POLL_SECONDS = 0.05
SPARE_SHARE = 0.02
"""Of the disk that the cache leaves free, whatever its limit."""
_SHARD, _PARTIAL = ".tar", ".partial"
_OURS = re.compile(r"[0-9a-f]{64}\.(tar|partial)")
"""Whatever else lies in the folder is not ours to count or to remove."""


def default_folder() -> Path:
    """``$IMGPREP_CACHE``, else ``imgprep`` in ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "imgprep"


def touch(descriptor: int) -> None:
    """Note that a shard is in use now; the clock of file systems alone is too coarse to tell."""
    now = time.time_ns()
    with suppress(OSError):
        os.utime(descriptor, ns=(now, now))


@dataclass(frozen=True, slots=True)
class _Entry:
    path: Path
    bytes: int
    """Counted in full from the start of a download."""
    unwritten_bytes: int
    used_at_ns: int


class ShardCache:
    """The folder. Safe to share by threads and processes."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        """Nothing is made yet."""
        self.folder, self.limit_bytes = folder, limit_bytes
        self._verified: set[tuple[str, int]] = set()
        """Hashes and inodes that this process knows to belong together."""

    def make(self) -> None:
        """Make the folder where it is missing.

        Raises:
            DataError: it cannot be made or written.
        """
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._locked():
                pass
        except OSError as exc:
            raise self._unusable(exc) from exc

    def room_bytes(self) -> int:
        """What the shards may take at this moment: the limit, or less where the disk is full."""
        entries = self._entries()
        return self._allowed(sum(entry.bytes for entry in entries), entries)

    def open(self, shard: ShardInfo) -> int | None:
        """Descriptor of a shard that is here, which now counts as used; None if it is not."""
        try:
            descriptor = checked_descriptor(self._path(shard), shard)
        except (OSError, ValueError):
            return None
        touch(descriptor)
        return descriptor

    def fetch(self, store: Store, shard: ShardInfo, stopped: Callable[[], bool]) -> None:
        """See to it that a shard is here, whole; returns when it is.

        Raises:
            DataError: the store fails, the disk is full, or what came is not the shard.
            CacheStoppedError: ``stopped`` said so.
        """
        while not self._is_here(shard):
            with self._claimed(shard, stopped) as descriptor:
                if descriptor is None:
                    continue
                try:
                    self._make_room(descriptor, shard, stopped)
                    download(store, shard, descriptor, stopped)
                    self._verified.add((shard.sha256, os.fstat(descriptor).st_ino))
                    os.fsync(descriptor)
                    # Whoever counts the folder meanwhile could miss a file between two names.
                    with self._locked():
                        self._partial(shard).rename(self._path(shard))
                except OSError as exc:
                    raise self._unusable(exc) from exc

    def _path(self, shard: ShardInfo) -> Path:
        return self.folder / f"{shard.sha256}{_SHARD}"

    def _partial(self, shard: ShardInfo) -> Path:
        return self.folder / f"{shard.sha256}{_PARTIAL}"

    def _unusable(self, exc: OSError) -> DataError:
        return DataError(
            f"{self.folder}: cannot keep shards here: {exc.strerror or exc}: free some space, or "
            "name another folder with --cache"
        )

    def _is_here(self, shard: ShardInfo) -> bool:
        """Whether the shard is here; hashed once in this process, and removed if it is another."""
        try:
            descriptor = checked_descriptor(self._path(shard), shard)
        except FileNotFoundError:
            return False
        except (OSError, ValueError):  # not to be read, or of another size
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
        """Hold the lock of the whole folder, for a moment."""
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def _claimed(self, shard: ShardInfo, stopped: Callable[[], bool]) -> Iterator[int | None]:
        """Hold the temporary file of a shard, which is removed if it is still there at the end.

        None where somebody else had it until now: look again.
        """
        path = self._partial(shard)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise self._unusable(exc) from exc
        try:
            while not _try_lock(descriptor):
                _pause(stopped)
            ours = _is_at(descriptor, path)
            try:
                yield descriptor if ours and not self._path(shard).exists() else None
            finally:
                if ours and _is_at(descriptor, path):
                    path.unlink(missing_ok=True)
        finally:
            os.close(descriptor)

    def _make_room(self, descriptor: int, shard: ShardInfo, stopped: Callable[[], bool]) -> None:
        """Remove old shards until this one fits, and count it from now on.

        Where only what others download at this moment is in the way, wait for it.
        """
        while True:
            with self._locked():
                os.ftruncate(descriptor, 0)
                if self._evict(shard.bytes):
                    os.ftruncate(descriptor, shard.bytes)
                    return
            _pause(stopped)

    def _evict(self, needed_bytes: int) -> bool:
        self._sweep()
        entries = self._entries()
        taken = sum(entry.bytes for entry in entries)
        allowed = self._allowed(taken, entries)
        if needed_bytes > allowed:
            raise OSError(
                errno.ENOSPC,
                f"a shard takes {needed_bytes:,} bytes and {max(allowed, 0):,} may be taken",
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
        for path in self._ours():
            with suppress(FileNotFoundError):
                state = path.stat()
                unwritten = max(0, state.st_size - state.st_blocks * 512)
                found.append(_Entry(path, state.st_size, unwritten, state.st_mtime_ns))
        return found

    def _ours(self) -> Iterator[Path]:
        return (path for path in self.folder.iterdir() if _OURS.fullmatch(path.name))

    def _sweep(self) -> None:
        """Remove what processes that are gone left half-written."""
        for path in self._ours():
            if path.suffix != _PARTIAL:
                continue
            with suppress(FileNotFoundError):
                descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
                try:
                    if _try_lock(descriptor) and _is_at(descriptor, path):
                        path.unlink(missing_ok=True)
                finally:
                    os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the open file is the one that has this name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _pause(stopped: Callable[[], bool]) -> None:
    if stopped():
        raise CacheStoppedError
    time.sleep(POLL_SECONDS)
