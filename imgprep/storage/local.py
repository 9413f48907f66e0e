"""A store that is a folder on a local or shared disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from imgprep.atomic import PartialFile, read_regular, write_bytes


class LocalStore:
    """A folder; files appear by rename, after they are on disk. See ``imgprep.storage.Store``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def location(self) -> str:
        return str(self.folder)

    def __str__(self) -> str:
        return str(self.folder)

    def where(self, name: str) -> str:
        return str(self.folder / name)

    def names(self, folder: str = "") -> list[str]:
        with suppress(FileNotFoundError):
            return sorted(path.name for path in (self.folder / folder).iterdir() if path.is_file())
        return []

    def size_bytes(self, name: str) -> int:
        return (self.folder / name).stat().st_size

    def read(self, name: str) -> bytes:
        return read_regular(self.folder / name)

    def write(self, name: str, data: bytes) -> None:
        write_bytes(self._made(name), data)

    def partial(self, name: str) -> PartialFile:
        return PartialFile(self._made(name))

    def remove(self, name: str) -> None:
        (self.folder / name).unlink(missing_ok=True)

    @contextmanager
    def as_file(self, name: str) -> Iterator[Path]:
        yield self.folder / name

    def free_bytes(self) -> int | None:
        whole = self.folder.absolute()
        existing = next(path for path in (whole, *whole.parents) if path.exists())
        return shutil.disk_usage(existing).free

    def _made(self, name: str) -> Path:
        """Path of a file whose folder exists."""
        path = self.folder / name
        if "/" in name:
            path.parent.mkdir(parents=True, exist_ok=True)
        return path
