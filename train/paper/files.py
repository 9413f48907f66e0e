"""Files of the paper's folder: written whole or not at all, with their folder."""

from __future__ import annotations

from pathlib import Path

from imgprep.errors import DestinationError
from imgprep.storage.atomic import write_bytes


def write_new(path: Path, data: bytes) -> None:
    """Write a file, whole or not at all, and its folder.

    Raises:
        DestinationError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, data)
    except OSError as exc:
        raise cannot_write(path, exc) from exc


def cannot_write(path: Path, exc: OSError) -> DestinationError:
    """Return the error for a file that cannot be written."""
    return DestinationError(f"{path}: cannot write: {exc.strerror or exc}")
