"""One object of a store, read by ranges; the faults of the store are told from those of objects."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from imgprep.errors import SourceError, UnreachableError
from imgprep.storage.urls import attempt

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

T = TypeVar("T")

AGAIN = "run the same command again: what is done stays done"
_MTIME_FIELDS = ("LastModified", "last_modified", "mtime", "updated", "modified", "created")


class ResizedError(Exception):
    """An object is not as long as it was; carries its size now."""

    def __init__(self, now_bytes: int) -> None:
        super().__init__(now_bytes)
        self.now_bytes = now_bytes


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One object, read by ranges; every answer has the length that was asked for."""

    fs: AbstractFileSystem
    path: str
    where: str
    size_bytes: int
    mtime_ns: int

    def pread(self, size_bytes: int, offset: int) -> bytes:
        """Bytes at ``offset``, fewer only at the end.

        Raises:
            SourceError: the object is not as long as it was.
        """
        wanted = max(0, min(size_bytes, self.size_bytes - offset))
        if not wanted:
            return b""
        try:
            return reach(lambda: read_range(self.fs, self.path, offset, wanted), self.where)
        except ResizedError as exc:
            raise SourceError(
                f"{self.where} changed while it was read: {self.size_bytes} bytes then, "
                f"{exc.now_bytes} now; run the same command again when it is whole"
            ) from exc


def remote_file(fs: AbstractFileSystem, path: str, where: str) -> RemoteFile:
    """An object, as one request finds it now.

    Raises:
        FileNotFoundError: there is none.
        UnreachableError: the store refuses, or does not answer.
    """
    now = reach(lambda: fs.info(path), where)
    return RemoteFile(fs, path, where, int(now["size"]), mtime_of(now))


def reach(action: Callable[[], T], where: str) -> T:
    """Ask a store, again where that may help.

    Raises:
        FileNotFoundError, NotADirectoryError, ResizedError: about this object alone.
        UnreachableError: the store refuses, or does not answer.
    """
    try:
        return attempt(action)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise
    except PermissionError as exc:
        raise UnreachableError(f"{where}: no access: {exc.strerror}") from exc
    except OSError as exc:
        raise UnreachableError(f"{where}: the store fails: {exc.strerror}; {AGAIN}") from exc


def read_range(
    fs: AbstractFileSystem, path: str, offset: int, size_bytes: int, *, whole: bool = False
) -> bytes:
    """Exactly ``size_bytes`` at ``offset``, by one request; with ``whole``, the object has no more.

    Raises:
        ResizedError: the object ends before, or has more.
        Exception: what the store's library raises; also for an answer that is short by a fault.
    """
    # One byte more than expected shows an object that grew.
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
        raise OSError(errno.EIO, f"{len(data)} bytes came where {size_bytes} were asked for")
    return data


def _beyond_end(exc: Exception) -> bool:
    """Whether an answer says that a range begins after the end (HTTP status 416)."""
    return any(word in str(exc) for word in ("416", "InvalidRange", "satisf"))


def mtime_of(entry: dict[str, Any]) -> int:
    """When an object was written, as far as its store tells; 0 where it does not."""
    for field in _MTIME_FIELDS:
        value = entry.get(field)
        if isinstance(value, str) and value:
            try:
                value = datetime.fromisoformat(value)
            except ValueError:
                continue
        if isinstance(value, datetime):
            aware = value if value.tzinfo else value.replace(tzinfo=UTC)
            return round(aware.timestamp() * 1_000_000) * 1000
        if isinstance(value, (int, float)):
            return round(value * 1_000_000) * 1000
    return 0
