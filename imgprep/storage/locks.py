"""File locks, the processes that hold them, and file systems that have no locks."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import stat
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from imgprep.errors import FormatError
from imgprep.storage.atomic import json_object

_NO_LOCKS = frozenset({errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK})
_CONTENT_BYTES_MAX = 4096


class NoLocksError(OSError):
    """The file system has no file locks."""


def lock(descriptor: int, *, wait: bool) -> bool:
    """Lock an open file for this process and its children, until all of them have closed it.

    Returns False if another process holds the lock and ``wait`` is False.

    Raises:
        NoLocksError: the file system has no file locks.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as exc:
        if exc.errno not in _NO_LOCKS:
            raise
        why = f"this file system has no file locks ({exc.strerror})"
        raise NoLocksError(exc.errno, why) from exc
    return True


def this_process() -> dict[str, Any]:
    """Describe this process as the holder of a lock or lease, for people and for ``is_dead``."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "machine": _machine(),
        "began": time.time(),
    }


def open_lock(path: Path) -> int:
    """Open or create a lock file; never through a link, which could lead to any file.

    Raises:
        OSError: it cannot be opened, or is not a regular file of one name.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    descriptor = os.open(path, flags, 0o666)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        os.close(descriptor)
        raise OSError(errno.EINVAL, f"{path.name} is not a lock file: remove it")
    return descriptor


def write_holder(descriptor: int) -> None:
    """Write this process into the file that it has locked, unless the disk is full."""
    with suppress(OSError):
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(this_process()).encode() + b"\n", 0)


def read_holder(descriptor: int) -> dict[str, Any] | None:
    """Who holds the lock of a file, if that is known; the content is not trusted."""
    with suppress(OSError, FormatError):
        return json_object(os.pread(descriptor, _CONTENT_BYTES_MAX, 0), "lock", "holder")
    return None


def in_words(holder: dict[str, Any] | None) -> str:
    """`` ('host', process 123, since 2024-01-31 10:00:00)``; empty if the holder is unknown."""
    if not holder:
        return ""
    host, pid, began = (holder.get(name) for name in ("host", "pid", "began"))
    since = ""
    if isinstance(began, int | float):
        with suppress(ValueError, OverflowError, OSError):
            since = datetime.fromtimestamp(began).strftime(", since %Y-%m-%d %H:%M:%S")
    return f" ({str(host)[:100]!r}, process {str(pid)[:20]}{since})"


def is_dead(holder: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine that has ended."""
    pid = holder.get("pid")
    if (
        not isinstance(pid, int)
        or not 0 < pid < 2**31
        or not _machine()
        or holder.get("machine") != _machine()
    ):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _machine() -> str:
    """Identifies the kernel and PID namespace in which process numbers are unique; may be empty."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115
    return ""
