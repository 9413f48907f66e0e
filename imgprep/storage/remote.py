"""A store under a URL of an object store, through fsspec."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from imgprep.storage.urls import attempt, file_system


class RemoteStore:
    """Objects under a URL; see ``imgprep.storage.Store``."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._fs, self._root = file_system(url)

    @property
    def location(self) -> str:
        return self._url

    def __str__(self) -> str:
        return self._url

    def where(self, name: str) -> str:
        return f"{self._url}/{name}"

    def names(self, folder: str = "") -> list[str]:
        path = self._path(folder) if folder else self._root
        with suppress(FileNotFoundError):
            self._fs.invalidate_cache()
            found = attempt(lambda: self._fs.ls(path, detail=True))
            return sorted(
                str(entry["name"]).rpartition("/")[2] for entry in found if entry["type"] == "file"
            )
        return []

    def size_bytes(self, name: str) -> int:
        return int(attempt(lambda: self._fs.size(self._path(name))))

    def read(self, name: str) -> bytes:
        return bytes(attempt(lambda: self._fs.cat_file(self._path(name))))

    def write(self, name: str, data: bytes) -> None:
        attempt(lambda: self._fs.pipe_file(self._path(name), data))

    def partial(self, name: str) -> RemotePartial:
        return RemotePartial(self, name)

    def remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            attempt(lambda: self._fs.rm_file(self._path(name)))

    @contextmanager
    def as_file(self, name: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="imgprep-") as folder:
            path = Path(folder) / name.rpartition("/")[2]
            attempt(lambda: self._fs.get_file(self._path(name), str(path)))
            yield path

    def free_bytes(self) -> int | None:
        return None

    def upload(self, name: str, path: Path) -> None:
        """Put a local file under ``name``."""
        attempt(lambda: self._fs.put_file(str(path), self._path(name)))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


class RemotePartial:
    """A scratch file on the local disk that ``commit`` uploads."""

    def __init__(self, store: RemoteStore, name: str) -> None:
        self._store, self._name = store, name
        self._folder = Path(tempfile.mkdtemp(prefix="imgprep-"))
        self._path = self._folder / name.rpartition("/")[2]
        self.file: IO[bytes] = self._path.open("wb")

    def commit(self) -> None:
        """Upload the file, then remove it here."""
        try:
            with self.file:
                self.file.flush()
                os.fsync(self.file.fileno())
            self._store.upload(self._name, self._path)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Remove the scratch file."""
        with suppress(OSError):
            self.file.close()
        shutil.rmtree(self._folder, ignore_errors=True)
