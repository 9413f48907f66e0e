"""The place to build into: refuse what is not ours or is in the source, and hold it alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from imgprep.dataset.format import STATE_FOLDER
from imgprep.errors import DestinationError, UsageError
from imgprep.storage import Location, Store, open_store, real_path
from imgprep.storage.reading import store_words
from imgprep.storage.urls import file_system

LOCK = f"{STATE_FOLDER}/lock"


def check_places(source: Location, dest: Location) -> None:
    """Refuse a DEST inside SOURCE, and a SOURCE inside DEST.

    Raises:
        UsageError: one folder is inside the other.
    """
    source_parts, dest_parts = _parts(source), _parts(dest)
    if source_parts == dest_parts[: len(source_parts)]:
        raise UsageError(f"DEST {dest} is inside SOURCE {source}: choose a folder outside it")
    if dest_parts == source_parts[: len(dest_parts)]:
        raise UsageError(f"SOURCE {source} is inside DEST {dest}: choose another DEST")


def _parts(location: Location) -> tuple[object, ...]:
    """Return the parts of the real path; those of a nested folder start with the outer one's."""
    store = open_store(location)
    if store.folder is not None:
        return ("file", *real_path(store.folder).parts)
    fs, path = file_system(store.location)
    protocols = (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)
    return (*protocols[:1], *filter(None, path.split("/")))


def check_ours(store: Store) -> None:
    """Accept a missing or empty folder, or one that imgprep began.

    Raises:
        DestinationError: DEST is a file, cannot be read, or holds something else.
    """
    try:
        entries = store.entries()
    except OSError as exc:
        if store.folder is None and not isinstance(exc, NotADirectoryError):
            raise DestinationError(f"{store}: {store_words(exc)}") from exc
        raise DestinationError(
            f"{store}: {exc.strerror}: DEST must be a folder that you can write"
        ) from exc
    if entries and (STATE_FOLDER not in entries or entries[STATE_FOLDER] is not None):
        raise DestinationError(
            f"{store} is not empty and was not made by imgprep: choose a new or empty folder"
        )


@contextmanager
def locked(store: Store) -> Iterator[str]:
    """Create DEST and its state folder and lock it; yields the token of the lock.

    Raises:
        BusyError: another build holds DEST.
        DestinationError: DEST cannot be created or written.
    """
    hold = store.hold(LOCK)
    try:
        token = hold.__enter__()
    except OSError as exc:
        why = exc.strerror if store.folder is not None else store_words(exc)
        raise DestinationError(f"{store}: cannot write: {why}") from exc
    try:
        yield token
    finally:
        hold.__exit__(None, None, None)
