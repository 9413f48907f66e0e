"""One object of a store, read by ranges; faults of the store and of the object are told apart."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from imgprep.errors import SourceError, UnreachableError
from imgprep.sources.tree import wrapped_ns
from imgprep.storage.urls import attempt

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

T = TypeVar("T")

RETRY_ADVICE = "run the same command again: finished work is kept"
_MTIME_FIELDS = ("LastModified", "last_modified", "mtime", "updated", "modified", "created")


class ResizedError(Exception):
    """The size of an object changed; carries the new size."""

    def __init__(self, now_bytes: int) -> None:
        super().__init__(now_bytes)
        self.now_bytes = now_bytes


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One object, read by ranges; every answer has the requested length."""

    fs: AbstractFileSystem
    path: str
    where: str
    size_bytes: int
    mtime_ns: int

    def pread(self, size_bytes: int, offset: int) -> bytes:
        """Return bytes at ``offset``, fewer only at the end.

        Raises:
            SourceError: the size of the object changed.
        """
        wanted = max(0, min(size_bytes, self.size_bytes - offset))
        if not wanted:
            return b""
        try:
            return request(lambda: read_range(self.fs, self.path, offset, wanted), self.where)
        except ResizedError as exc:
            raise SourceError(
                f"{self.where} changed while it was read: it had {self.size_bytes} bytes, now "
                f"{exc.now_bytes}; run the same command again when it is complete"
            ) from exc


def remote_file(fs: AbstractFileSystem, path: str, where: str) -> RemoteFile:
    """Ask for the size and time of an object, by one request.

    Raises:
        FileNotFoundError: it does not exist.
        UnreachableError: the store refuses, or does not answer.
    """
    now = request(lambda: fs.info(path), where)
    return RemoteFile(fs, path, where, int(now["size"]), mtime_of(now))


def request(action: Callable[[], T], where: str) -> T:
    """Make a request, and repeat it where that may help.

    Raises:
        FileNotFoundError, NotADirectoryError, ResizedError: a fault of this object only.
        UnreachableError: the store refuses, or does not answer.
    """
    try:
        return attempt(action)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise
    except PermissionError as exc:
        raise UnreachableError(f"{where}: access denied: {exc.strerror}") from exc
    except OSError as exc:
        raise UnreachableError(
            f"{where}: the store failed: {exc.strerror}; {RETRY_ADVICE}"
        ) from exc


def read_range(
    fs: AbstractFileSystem, path: str, offset: int, size_bytes: int, *, whole: bool = False
) -> bytes:
    """Read exactly ``size_bytes`` at ``offset`` by one request; ``whole``: the object ends there.

    Raises:
        ResizedError: the object is shorter, or longer than ``whole`` allows.
        Exception: as the store's library raises; OSError for an incomplete answer.
    """
    # One byte more than expected reveals an object that grew.
    end = offset + size_bytes + whole
    try:
        data = bytes(fs.cat_file(path, start=offset, end=end))
    except Exception as exc:
        if not _beyond_end(exc):
            raise
        data = b""
    if len(data) != size_bytes:
        now_bytes = int(fs.info(path)["size"])
        if now_bytes < offset + size_bytes or (whole and now_bytes != size_bytes):
            raise ResizedError(now_bytes)
        raise OSError(errno.EIO, f"{len(data)} bytes arrived of {size_bytes} requested")
    return data


def _beyond_end(exc: Exception) -> bool:
    """Whether an error says that a range starts after the end (HTTP status 416)."""
    return any(word in str(exc) for word in ("416", "InvalidRange", "satisf"))


def mtime_of(entry: dict[str, Any]) -> int:
    """Modification time of an object in ns; 0 where the store does not report it."""
    for field in _MTIME_FIELDS:
        value = entry.get(field)
        if isinstance(value, str) and value:
            try:
                value = datetime.fromisoformat(value)
            except ValueError:
                continue
        if isinstance(value, datetime):
            aware = value if value.tzinfo else value.replace(tzinfo=UTC)
            return wrapped_ns(round(aware.timestamp() * 1_000_000) * 1000)
        if isinstance(value, (int, float)):
            return wrapped_ns(round(value * 1_000_000) * 1000)
    return 0
