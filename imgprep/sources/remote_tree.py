"""A source under a URL of an object store, through fsspec: folders listed, files read by ranges."""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event
from typing import Any, NamedTuple

from imgprep.errors import UnreachableError, UsageError
from imgprep.processors import processors
from imgprep.sources.remote_file import mtime_of, remote_file, request
from imgprep.sources.tree import FolderEntry, ImageEntry, RangeFile, child_path
from imgprep.storage.urls import PROCESS_LOCAL, file_system, scheme_of

SCAN_THREADS = 48
"""A request takes tens of milliseconds, mostly spent waiting."""
HEADER_BYTES = 2048
"""One request returns a PAX header, its records and the header that they describe."""
AHEAD_BYTES = 256 * 1024
CHUNK_BYTES = 8 * 1024 * 1024
CHUNKS_AHEAD = 4


class _Item(NamedTuple):
    """One entry of a listing."""

    name: str
    is_folder: bool
    size_bytes: int
    mtime_ns: int


class RemoteTree:
    """Objects under a URL; see ``imgprep.sources.tree.Tree``."""

    threads = SCAN_THREADS

    def __init__(self, url: str, *, outside: bool = False) -> None:
        """Make no request yet; with ``outside``, a folder without permission counts as empty."""
        self._outside = outside
        self._url = url.rstrip("/")
        if "://" not in self._url:
            raise UsageError(f"{url} names no folder: write {url}bucket/folder")
        self._fs, self._root = file_system(self._url)
        shared = scheme_of(url) not in PROCESS_LOCAL
        self.processes = processors() if shared else 1
        self._listings: dict[str, list[_Item]] = {}
        self._stopped = Event()

    @property
    def location(self) -> str:
        """The URL."""
        return self._url

    @property
    def root_names(self) -> frozenset[str]:
        """The last part of the URL."""
        return frozenset({self._url.rpartition("/")[2]})

    def where(self, path: str = "") -> str:
        """URL of a file."""
        return child_path(self._url, path) if path else self._url

    def check_folder(self) -> None:
        """Raise UsageError unless there are objects under the URL."""
        try:
            self._list("")
        except FileNotFoundError as exc:
            raise UsageError(f"{self._url} does not exist: no object has this prefix") from exc
        except NotADirectoryError as exc:
            above = self._url.rpartition("/")[0]
            raise UsageError(
                f"{self._url} is a file; give the folder that contains it: {above}"
            ) from exc

    def subtree(self, path: str) -> RemoteTree:
        """The tree of a folder in this one."""
        return RemoteTree(self.where(path))

    def parents(self, levels: int) -> list[RemoteTree]:
        """The folders above within the bucket, nearest first."""
        scheme, _, rest = self._url.partition("://")
        parts = rest.strip("/").split("/")
        kept = range(len(parts) - 1, max(0, len(parts) - 1 - levels), -1)
        urls = [f"{scheme}://{'/'.join(parts[:count])}" for count in kept]
        return [RemoteTree(url, outside=True) for url in urls]

    def is_file(self, path: str) -> bool:
        """Whether it is an object, according to the listing of its folder."""
        return any(not item.is_folder for item in self._entries_at(path))

    def is_folder(self, path: str) -> bool:
        """Whether it has objects under it, according to the listing of its parent folder."""
        return any(item.is_folder for item in self._entries_at(path))

    def size_bytes(self, path: str) -> int:
        """Size of an object."""
        return next(item.size_bytes for item in self._entries_at(path) if not item.is_folder)

    def identity(self, path: str) -> object:
        """The path: a store has no links."""
        return path

    def entries(self, path: str = "") -> Iterator[FolderEntry]:
        """The direct entries of a folder."""
        for item in self._list(path):
            yield FolderEntry(item.name, "folder" if item.is_folder else "file")

    def images(self, path: str) -> Iterator[ImageEntry]:
        """The direct entries of a folder of images, by name; the cached listing is then dropped."""
        items = self._list(path)
        self._listings.pop(path, None)
        return map(_image_entry, sorted(items, key=lambda item: os.fsencode(item.name)))

    def read(self, path: str, limit_bytes: int) -> bytes:
        """A small file, cut after ``limit_bytes``."""
        with self.open(path) as file:
            return file.pread(limit_bytes, 0)

    def chunks(self, path: str) -> Iterator[memoryview]:
        """A large file from its beginning; the next chunks are requested ahead."""
        with self.open(path) as file, ThreadPoolExecutor(CHUNKS_AHEAD, "imgprep-chunk") as pool:
            requested: deque[Future[bytes]] = deque()
            try:
                for offset in range(0, file.size_bytes, CHUNK_BYTES):
                    requested.append(pool.submit(file.pread, CHUNK_BYTES, offset))
                    if len(requested) > CHUNKS_AHEAD:
                        yield memoryview(requested.popleft().result())
                while requested:
                    yield memoryview(requested.popleft().result())
            finally:
                for future in requested:
                    future.cancel()

    @contextmanager
    def open(self, path: str) -> Iterator[RangeFile]:
        """Open a file to read by ranges."""
        file = remote_file(self._fs, f"{self._root}/{path}", self.where(path))

        def pread(size_bytes: int, offset: int) -> bytes:
            if self._stopped.is_set():
                raise UnreachableError(f"{file.where}: the scan was stopped")
            return file.pread(size_bytes, offset)

        yield RangeFile(
            pread=pread,
            size_bytes=file.size_bytes,
            mtime_ns=file.mtime_ns,
            header_bytes=HEADER_BYTES,
            ahead_bytes=AHEAD_BYTES,
        )

    def stop(self) -> None:
        """Make the reads of other threads fail soon; nothing more is read."""
        self._stopped.set()

    def _entries_at(self, path: str) -> list[_Item]:
        """The entries of that path (an object and a folder may share it), from cached listings."""
        folder, _, name = path.rpartition("/")
        if folder and not self.is_folder(folder):
            return []
        try:
            return [item for item in self._list(folder) if item.name == name]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except UnreachableError as exc:
            if self._outside and isinstance(exc.__cause__, PermissionError):
                return []
            raise

    def _list(self, path: str) -> list[_Item]:
        if path not in self._listings:
            full = child_path(self._root, path) if path else self._root
            found = request(lambda: self._fs.ls(full, detail=True), self.where(path))
            self._listings[path] = list(_items(full, found))
        return self._listings[path]


def _items(full: str, found: list[dict[str, Any]]) -> Iterator[_Item]:
    folders = set()
    for entry in found:
        path = str(entry["name"]).rstrip("/")
        if path.strip("/") == full.strip("/"):
            if entry["type"] == "file" and len(found) == 1 and not entry["name"].endswith("/"):
                raise NotADirectoryError(errno.ENOTDIR, "it is an object, not a folder")
            continue  # Some tools write an empty object to stand for a folder.
        name = path.rpartition("/")[2]
        if entry["type"] == "directory" or str(entry["name"]).endswith("/"):
            if name not in folders:
                folders.add(name)
                yield _Item(name, True, 0, 0)
        else:
            yield _Item(name, False, int(entry["size"]), mtime_of(entry))


def _image_entry(item: _Item) -> ImageEntry:
    name = os.fsencode(item.name)
    if item.is_folder:
        return name, 0, 0, "nested-folder", "a folder inside a class folder is not read"
    return name, item.size_bytes, item.mtime_ns, "", ""
