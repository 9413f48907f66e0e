"""Read the files of a dataset, and tell a damaged dataset from a store that fails.

A file that is missing, or that a disk cannot read, is damage: an ``OSError``, which callers report.
An object store that does not answer, or refuses, is a ``StoreError``: the dataset may be fine.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from imgprep.errors import FormatError, StoreError
from imgprep.storage import Store
from imgprep.storage.atomic import json_object

T = TypeVar("T")
R = TypeVar("R")

MACHINE_FAULTS = {
    errno.EMFILE: "raise the limit of open files (ulimit -n) or use fewer --jobs",
    errno.ENFILE: "the system's limit of open files is reached: close other programs",
    errno.ENOMEM: "free some memory or use fewer --jobs",
    errno.ESTALE: "mount its file system again",
}
"""Errors of the machine, not of the file, and the advice for each."""
READS_AT_ONCE = 16
"""Small objects that are read at the same time."""


@contextmanager
def store_errors(store: Store, name: str = "") -> Iterator[None]:
    """Turn a fault of a store or of the machine into ``StoreError``, but not a missing object.

    Raises:
        StoreError: the store does not answer, or refuses; or the machine lacks files or memory.
        OSError: the file is missing; or, on a disk, it cannot be read.
    """
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as exc:
        where = store.where(name) if name else store.location
        if store.folder is None:
            raise StoreError(f"{where}: {store_words(exc)}") from exc
        if exc.errno in MACHINE_FAULTS:
            advice = MACHINE_FAULTS[exc.errno]
            raise StoreError(f"{where}: {exc.strerror}: {advice}") from exc
        raise


def store_words(exc: OSError) -> str:
    """The answer of an object store, and what to do about it."""
    why = exc.strerror or str(exc)
    if isinstance(exc, PermissionError):
        return f"{why}: renew the credentials and run the same command again"
    if isinstance(exc, FileNotFoundError):
        return f"{why}: check the URL"
    return f"{why}: run the same command again later"


def read_bytes(store: Store, name: str) -> bytes:
    """The content of a small file. Raises as ``store_errors``."""
    with store_errors(store, name):
        return store.read(name)


def names_in(store: Store, folder: str = "") -> list[str]:
    """Names of files. Raises as ``store_errors``."""
    with store_errors(store, folder):
        return store.names(folder)


def exists(store: Store, name: str) -> bool:
    """Whether a file exists. ``StoreError`` if an object store does not tell."""
    try:
        with store_errors(store, name):
            store.size_bytes(name)
    except OSError:
        return False
    return True


def load_json(store: Store, name: str, what: str) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        FormatError: the file is missing, unreadable, not JSON or not an object.
        StoreError: the store does not answer, or refuses.
    """
    where = store.where(name)
    try:
        data = read_bytes(store, name)
    except OSError as exc:
        raise FormatError(f"{where}: cannot read {what}: {exc.strerror}") from exc
    return json_object(data, where, what)


@contextmanager
def on_disk(store: Store, name: str, *, limit_bytes: int) -> Iterator[Path]:
    """The file on a local disk for the duration of the block.

    Raises as ``store_errors``, and ``FormatError`` for an object that is larger than expected and
    could fill the disk.
    """
    if store.folder is None:
        with store_errors(store, name):
            size = store.size_bytes(name)
        if size > limit_bytes:
            where = store.where(name)
            raise FormatError(f"{where}: {size:,} bytes, the index states {limit_bytes:,}")
    file = store.as_file(name)
    with store_errors(store, name):
        path = file.__enter__()
    try:
        yield path
    finally:
        file.__exit__(None, None, None)


def in_order(store: Store, action: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """``map``, one by one on a disk, several at a time over a network; results are in order."""
    if store.folder is not None:
        yield from map(action, items)
        return
    rest = iter(items)
    with ThreadPoolExecutor(READS_AT_ONCE) as threads:
        while group := list(islice(rest, 2 * READS_AT_ONCE)):
            yield from threads.map(action, group)
