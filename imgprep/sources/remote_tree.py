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
from imgprep.sources.remote_file import mtime_of, reach, remote_file
from imgprep.sources.tree import Found, Named, Ranges, under
from imgprep.storage.urls import PROCESS_LOCAL, file_system, scheme_of

SCAN_THREADS = 48
"""An answer takes tens of milliseconds, most of them waiting."""
HEADER_BYTES = 2048
"""A PAX header, its records and the header that they speak of come with one request."""
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
        """Look at nothing yet; with ``outside``, what may not be listed is taken as empty."""
        self._outside = outside
        self._url = url.rstrip("/")
        if "://" not in self._url:
            raise UsageError(f"{url} names no folder: {url}bucket/folder")
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
    def called(self) -> frozenset[str]:
        """Its last part."""
        return frozenset({self._url.rpartition("/")[2]})

    def where(self, path: str = "") -> str:
        """URL of a file."""
        return under(self._url, path) if path else self._url

    def check(self) -> None:
        """Raise UsageError unless something lies under the URL."""
        try:
            self._list("")
        except FileNotFoundError as exc:
            raise UsageError(f"{self._url} is not a folder: nothing lies under it") from exc
        except NotADirectoryError as exc:
            above = self._url.rpartition("/")[0]
            raise UsageError(
                f"{self._url} is a file; give the folder that it lies in: {above}"
            ) from exc

    def at(self, path: str) -> RemoteTree:
        """The tree of a folder in this one."""
        return RemoteTree(self.where(path))

    def above(self, levels: int) -> list[RemoteTree]:
        """The folders above, within the bucket."""
        scheme, _, rest = self._url.partition("://")
        parts = rest.strip("/").split("/")
        kept = range(len(parts) - 1, max(0, len(parts) - 1 - levels), -1)
        urls = [f"{scheme}://{'/'.join(parts[:count])}" for count in kept]
        return [RemoteTree(url, outside=True) for url in urls]

    def is_file(self, path: str) -> bool:
        """Whether it is an object, by the listing of its folder."""
        return any(not item.is_folder for item in self._named(path))

    def is_folder(self, path: str) -> bool:
        """Whether objects lie under it, by the listing of the folder above."""
        return any(item.is_folder for item in self._named(path))

    def size_bytes(self, path: str) -> int:
        """Size of an object."""
        return next(item.size_bytes for item in self._named(path) if not item.is_folder)

    def entries(self, path: str = "") -> Iterator[Named]:
        """What lies directly in a folder."""
        for item in self._list(path):
            yield Named(item.name, "folder" if item.is_folder else "file")

    def files(self, path: str) -> Iterator[Found]:
        """What lies directly in a folder of images, by name; its listing is then forgotten."""
        items = self._list(path)
        self._listings.pop(path, None)
        return map(_found, sorted(items, key=lambda item: os.fsencode(item.name)))

    def read(self, path: str, limit_bytes: int) -> bytes:
        """A small file, cut after ``limit_bytes``."""
        with self.open(path) as file:
            return file.pread(limit_bytes, 0)

    def chunks(self, path: str) -> Iterator[memoryview]:
        """A large file from its beginning; the next chunks are on their way."""
        with self.open(path) as file, ThreadPoolExecutor(CHUNKS_AHEAD, "imgprep-chunk") as pool:
            coming: deque[Future[bytes]] = deque()
            try:
                for offset in range(0, file.size_bytes, CHUNK_BYTES):
                    coming.append(pool.submit(file.pread, CHUNK_BYTES, offset))
                    if len(coming) > CHUNKS_AHEAD:
                        yield memoryview(coming.popleft().result())
                while coming:
                    yield memoryview(coming.popleft().result())
            finally:
                for future in coming:
                    future.cancel()

    @contextmanager
    def open(self, path: str) -> Iterator[Ranges]:
        """A file to read by ranges."""
        file = remote_file(self._fs, f"{self._root}/{path}", self.where(path))

        def pread(size_bytes: int, offset: int) -> bytes:
            if self._stopped.is_set():
                raise UnreachableError(f"{file.where}: the scan was stopped")
            return file.pread(size_bytes, offset)

        yield Ranges(
            pread=pread,
            size_bytes=file.size_bytes,
            mtime_ns=file.mtime_ns,
            header_bytes=HEADER_BYTES,
            ahead_bytes=AHEAD_BYTES,
        )

    def stop(self) -> None:
        """Reads under way in other threads fail soon; nothing more is read."""
        self._stopped.set()

    def _named(self, path: str) -> list[_Item]:
        """What goes by a name (an object and a folder may both), without asking twice."""
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
            full = under(self._root, path) if path else self._root
            found = reach(lambda: self._fs.ls(full, detail=True), self.where(path))
            self._listings[path] = list(_items(full, found))
        return self._listings[path]


def _items(full: str, found: list[dict[str, Any]]) -> Iterator[_Item]:
    folders = set()
    for entry in found:
        path = str(entry["name"]).rstrip("/")
        if path.strip("/") == full.strip("/"):
            if entry["type"] == "file" and len(found) == 1 and not entry["name"].endswith("/"):
                raise NotADirectoryError(errno.ENOTDIR, "it is an object, not a folder")
            continue  # some tools put an empty object in place of a folder
        name = path.rpartition("/")[2]
        if entry["type"] == "directory" or str(entry["name"]).endswith("/"):
            if name not in folders:
                folders.add(name)
                yield _Item(name, True, 0, 0)
        else:
            yield _Item(name, False, int(entry["size"]), mtime_of(entry))


def _found(item: _Item) -> Found:
    name = os.fsencode(item.name)
    if item.is_folder:
        return name, 0, 0, "nested-folder", "a folder inside a class folder is not read"
    return name, item.size_bytes, item.mtime_ns, "", ""
