"""Turn errors while a build writes to its store into messages: what, where and what to do."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from imgprep.errors import DestinationError
from imgprep.storage import Store

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def write_errors(store: Store, what: str) -> Iterator[None]:
    """Turn an ``OSError`` raised while ``what`` is written to ``store`` into a message.

    Raises:
        DestinationError: the disk is full, or the store cannot be written.
    """
    try:
        yield
    except OSError as exc:
        remote = store.folder is None
        if exc.errno in _DISK_FULL:
            scratch = f" in {tempfile.gettempdir()}" if remote else ""
            raise DestinationError(
                f"{store}: no space left{scratch} while writing {what} ({exc.strerror}): "
                "free some space and run the same command again"
            ) from exc
        denied = remote and isinstance(exc, PermissionError)
        remedy = "renew the credentials" if denied else "fix that"
        raise DestinationError(
            f"{store}: cannot write {what}: {exc.strerror or exc}: "
            f"{remedy} and run the same command again"
        ) from exc
