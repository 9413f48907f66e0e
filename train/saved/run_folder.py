"""The folder of a run: its files, and the lock that lets only one process write to it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from imgprep.errors import DestinationError, FormatError
from imgprep.storage.atomic import (
    is_partial,
    json_bytes,
    read_json,
    remove_partials,
    write_bytes,
)
from imgprep.storage.local import LocalStore

CONFIG = "config.toml"
LOCK = ".lock"


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Dataset and devices of the last start of a run."""

    dataset: str
    """Absolute path, or URL."""
    fingerprint: str
    parallel: str
    processes: int
    """Processes on all machines."""
    devices: tuple[str, ...]
    """Devices of the main process."""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths of the files of a run."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved settings."""
        return self.path / CONFIG

    @property
    def origin(self) -> Path:
        """Dataset and devices of the last start."""
        return self.path / "run.json"

    @property
    def last(self) -> Path:
        """The newest checkpoint, which the same command resumes from."""
        return self.path / "last.pt"

    @property
    def best(self) -> Path:
        """The checkpoint with the lowest validation error."""
        return self.path / "best.pt"

    def write_origin(self, origin: Origin) -> None:
        """Record dataset and devices of this start."""
        write_bytes(self.origin, json_bytes(asdict(origin)))

    def read_origin(self) -> Origin | None:
        """Dataset and devices of the last start; None for runs of older versions.

        Raises:
            FormatError: the file is damaged.
        """
        if not self.origin.exists():
            return None
        value = read_json(self.origin, "where the run was started")
        try:
            origin = Origin(**{**value, "devices": tuple(map(str, value["devices"]))})
            os.fsencode(origin.dataset)  # only surrogates that a path can have
        except (KeyError, TypeError, UnicodeEncodeError) as exc:
            raise FormatError(f"{self.origin}: malformed: {exc!s:.200}") from exc
        texts = (origin.dataset, origin.fingerprint, origin.parallel)
        if not all(isinstance(text, str) and "\0" not in text for text in texts):
            raise FormatError(
                f"{self.origin}: malformed: dataset, fingerprint and parallel must be text"
            )
        if type(origin.processes) is not int:
            raise FormatError(f"{self.origin}: malformed: processes must be a whole number")
        return origin


@contextmanager
def locked_run(path: Path) -> Iterator[RunFolder]:
    """Lock a run's folder, create it if it is missing, and remove half-written files.

    Raises:
        DestinationError: it cannot be written, or holds files of something else.
        BusyError: another process is training in it.
    """
    folder = RunFolder(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        foreign = sorted(entry.name for entry in path.iterdir() if not _is_ours(entry.name))
        if foreign and not folder.config.exists():
            raise DestinationError(
                f"{path}: not the folder of a run: it holds {foreign[0]!r} but no {CONFIG}; use "
                "another --out"
            )
        with LocalStore(path).hold(LOCK, "another process is training in this folder"):
            remove_partials(path)
            yield folder
    except OSError as exc:
        raise DestinationError(f"{path}: cannot write the run: {exc.strerror}") from exc


def _is_ours(name: str) -> bool:
    """Whether a folder without settings may hold this file: a killed run began in it."""
    return name in (LOCK, f"{LOCK}.lease") or (is_partial(name) and name.startswith(f".{CONFIG}."))
