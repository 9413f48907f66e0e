"""The folder of a run: what lies in it, and that only one process writes to it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from imgprep.errors import BusyError, DestinationError, FormatError
from imgprep.storage.atomic import json_bytes, read_json, remove_partials, write_bytes

CONFIG = "config.toml"
LOCK = ".lock"


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Where a run was started last: its data and its devices."""

    dataset: str
    """Absolute path, or URL."""
    fingerprint: str
    parallel: str
    processes: int
    """On all machines."""
    devices: tuple[str, ...]
    """Of the main process."""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths of a run."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved settings."""
        return self.path / CONFIG

    @property
    def origin(self) -> Path:
        """Where the run was started last."""
        return self.path / "run.json"

    @property
    def last(self) -> Path:
        """The newest checkpoint, which the same command goes on from."""
        return self.path / "last.pt"

    @property
    def best(self) -> Path:
        """The checkpoint with the lowest validation error."""
        return self.path / "best.pt"

    def write_origin(self, origin: Origin) -> None:
        """Note where the run is started."""
        write_bytes(self.origin, json_bytes(asdict(origin)))

    def read_origin(self) -> Origin | None:
        """Where the run was started last; None of a run of before this was noted.

        Raises:
            FormatError: the file is damaged.
        """
        if not self.origin.exists():
            return None
        value = read_json(self.origin, "the notes of the run")
        try:
            origin = Origin(**{**value, "devices": tuple(map(str, value["devices"]))})
            os.fsencode(origin.dataset)  # no surrogates but those of a path
        except (KeyError, TypeError, UnicodeEncodeError) as exc:
            raise FormatError(f"{self.origin}: malformed: {exc!s:.200}") from exc
        texts = (origin.dataset, origin.fingerprint, origin.parallel)
        if not all(isinstance(text, str) and "\0" not in text for text in texts):
            raise FormatError(f"{self.origin}: malformed: dataset, fingerprint, parallel are texts")
        if type(origin.processes) is not int:
            raise FormatError(f"{self.origin}: malformed: processes is a number")
        return origin


@contextmanager
def locked_run(path: Path) -> Iterator[RunFolder]:
    """Hold a run's folder; made if it is not there, cleared of half-written files.

    Raises:
        DestinationError: it cannot be written, or holds files that are not a run's.
        BusyError: another process trains in it.
    """
    folder = RunFolder(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        foreign = [entry.name for entry in path.iterdir() if entry.name != LOCK]
        if foreign and not folder.config.exists():
            raise DestinationError(
                f"{path}: holds {sorted(foreign)[0]!r} but no {CONFIG}: not a run's folder; name "
                "another with --out"
            )
        with (path / LOCK).open("wb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as exc:
                raise BusyError(f"{path}: another process trains in it; wait for it") from exc
            remove_partials(path)
            yield folder
    except OSError as exc:
        raise DestinationError(f"{path}: cannot write the run: {exc.strerror}") from exc
