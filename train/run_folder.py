"""The folder of a run: what lies in it, and that only one process writes to it."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from imgprep.atomic import remove_partials
from imgprep.errors import BusyError, DestinationError

CONFIG = "config.toml"
LOCK = ".lock"


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths of a run."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved settings."""
        return self.path / CONFIG

    @property
    def last(self) -> Path:
        """The newest checkpoint, which the same command goes on from."""
        return self.path / "last.pt"

    @property
    def best(self) -> Path:
        """The checkpoint with the lowest validation error."""
        return self.path / "best.pt"


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
