"""Read the files of a dataset: what is missing or broken is told from a store that fails.

A file that is not there, or that a disk cannot give, is damage, which callers name: an ``OSError``.
An object store that does not answer, or refuses, says nothing of the dataset: a ``StoreError``.
"""

from __future__ import annotations

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

READS_AT_ONCE = 16
"""Small objects read at a time."""


@contextmanager
def store_errors(store: Store, name: str = "") -> Iterator[None]:
    """Tell the failure of an object store from the absence of an object.

    Raises:
        StoreError: the store does not answer, or refuses.
        OSError: the file is not there; or, on a disk, whatever is wrong with it.
    """
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as exc:
        if store.folder is not None:
            raise
        where = store.where(name) if name else store.location
        raise StoreError(f"{where}: {store_words(exc)}") from exc


def store_words(exc: OSError) -> str:
    """What an object store said, and what to do about it."""
    why = exc.strerror or str(exc)
    if isinstance(exc, PermissionError):
        return f"{why}: renew the credentials and run the same command again"
    if isinstance(exc, FileNotFoundError):
        return f"{why}: check the URL"
    return f"{why}: the store may be back later: run the same command again"


def read_bytes(store: Store, name: str) -> bytes:
    """The whole of a small file. Raises as ``store_errors``."""
    with store_errors(store, name):
        return store.read(name)


def names_in(store: Store, folder: str = "") -> list[str]:
    """Names of files. Raises as ``store_errors``."""
    with store_errors(store, folder):
        return store.names(folder)


def exists(store: Store, name: str) -> bool:
    """Whether a file is there. Raises ``StoreError`` where that cannot be known."""
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
def on_disk(store: Store, name: str) -> Iterator[Path]:
    """The file on a local disk for the time of the block. Raises as ``store_errors``."""
    file = store.as_file(name)
    with store_errors(store, name):
        path = file.__enter__()
    try:
        yield path
    finally:
        file.__exit__(None, None, None)


def in_order(store: Store, action: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """``map``: one by one on a disk, several at a time where each waits for a network."""
    if store.folder is not None:
        yield from map(action, items)
        return
    rest = iter(items)
    with ThreadPoolExecutor(READS_AT_ONCE) as threads:
        while group := list(islice(rest, 2 * READS_AT_ONCE)):
            yield from threads.map(action, group)
