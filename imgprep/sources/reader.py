"""Read the bytes of one image by its number in a manifest."""

from __future__ import annotations

import os
import resource
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Protocol

from imgprep.errors import ImageError
from imgprep.sources.faults import changed, unreadable
from imgprep.sources.gzipped import open_unpacked
from imgprep.sources.manifest import LOOSE_FILE, SplitManifest
from imgprep.sources.pixels import image_file
from imgprep.storage.urls import path_of

MAX_OPEN_ARCHIVES = 64
MAX_IMAGE_BYTES = 1 << 30
"""A larger file is rejected unread: a sparse file may claim any size, and no photo is so large."""


class _ImageReader(Protocol):
    def read(self, i: int) -> bytes: ...
    def will_need(self, indices: Iterable[int]) -> None: ...
    def close(self) -> None: ...


class SourceReader:
    """Reads the images of one split; cheap to create, one per worker. Not thread-safe."""

    def __init__(self, location: str | Path, manifest: SplitManifest) -> None:
        """Prepare to read; opens no file yet.

        Args:
            location: the root of the source, a path or a URL.
            manifest: the images that the scan found.
        """
        self._images = _image_reader(location, manifest)
        self._size_bytes = manifest.rows["size_bytes"]
        self._form = manifest.form

    def read(self, i: int) -> bytes:
        """Return the image file of image ``i``; of bare pixels it is a PPM.

        Raises:
            ImageError: the file is larger than an image may be, or its pixels are incomplete.
            SourceFaultError: the file cannot be read now, or changed since the scan.
            UnreachableError: the store refuses, or does not answer.
        """
        size_bytes = int(self._size_bytes[i])
        if size_bytes > MAX_IMAGE_BYTES:
            raise ImageError(f"{size_bytes:,} bytes: larger than an image file may be (1 GiB)")
        return image_file(self._images.read(i), self._form)

    def will_need(self, indices: Iterable[int]) -> None:
        """Prefetch these images; a hint, never raises."""
        self._images.will_need(indices)

    def close(self) -> None:
        """Close open files and cancel prefetching; ``read`` opens them again."""
        self._images.close()

    def __enter__(self) -> SourceReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _image_reader(location: str | Path, manifest: SplitManifest) -> _ImageReader:
    path = path_of(location)
    if path is None:
        from imgprep.sources.remote_images import RemoteImages

        return RemoteImages(str(location), manifest)
    return _LocalImages(path, manifest)


class _LocalImages:
    """Keeps archives open (their files must not be replaced); opens loose files one by one."""

    def __init__(self, root: Path, manifest: SplitManifest) -> None:
        self._paths = [
            os.path.join(os.fsencode(root), os.fsencode(path))  # noqa: PTH118 (bytes)
            if path
            else os.fsencode(root)  # the source is one file
            for path in manifest.container_paths
        ]
        self._manifest = manifest
        self._container = manifest.rows["container"]
        self._offset = manifest.rows["offset"]
        self._size_bytes = manifest.rows["size_bytes"]
        self._archives: OrderedDict[bytes, int] = OrderedDict()
        self._max_open = _max_open_archives()

    def read(self, i: int) -> bytes:
        path = self._paths[self._container[i]]
        offset, size_bytes = int(self._offset[i]), int(self._size_bytes[i])
        try:
            if offset == LOOSE_FILE:
                data, now_bytes = _read_file(path + b"/" + self._manifest.name_bytes(i), size_bytes)
                how = f"it had {size_bytes:,} bytes, now {now_bytes:,}"
            else:
                data = _pread(self._archive(path), size_bytes, offset)
                how = f"the archive now ends {size_bytes - len(data):,} bytes before its end"
        except OSError as exc:
            raise unreadable(self._manifest.where(i), exc) from exc
        if len(data) != size_bytes:
            raise changed(self._manifest.where(i), how)
        return data

    def will_need(self, indices: Iterable[int]) -> None:
        if not hasattr(os, "posix_fadvise"):
            return
        for i in indices:
            path = self._paths[self._container[i]]
            offset, size_bytes = int(self._offset[i]), int(self._size_bytes[i])
            try:
                if offset != LOOSE_FILE:
                    fd = self._archive(path)
                    os.posix_fadvise(fd, offset, size_bytes, os.POSIX_FADV_WILLNEED)
                    continue
                fd = os.open(path + b"/" + self._manifest.name_bytes(i), os.O_RDONLY)
                try:
                    os.posix_fadvise(fd, 0, size_bytes, os.POSIX_FADV_WILLNEED)
                finally:
                    os.close(fd)
            except OSError:
                continue  # read() will meet the same fault and report it.

    def close(self) -> None:
        while self._archives:
            os.close(self._archives.popitem()[1])

    def _archive(self, path: bytes) -> int:
        fd = self._archives.get(path)
        if fd is None:
            # An unpacked train tar is a thousand archives: more than a process may open.
            if len(self._archives) >= self._max_open:
                os.close(self._archives.popitem(last=False)[1])
            open_it = open_unpacked if self._manifest.form == "planes" else _open
            fd = self._archives[path] = open_it(path)
        return fd


def _open(path: bytes) -> int:
    return os.open(path, os.O_RDONLY)  # Python adds O_CLOEXEC


def _max_open_archives() -> int:
    """Archives to keep open: half of the files that this process may open, at most."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return MAX_OPEN_ARCHIVES
    return max(1, min(MAX_OPEN_ARCHIVES, limit // 2))


def _pread(fd: int, size_bytes: int, offset: int) -> bytes:
    """Bytes at ``offset``, fewer only at the end of the file."""
    data = os.pread(fd, size_bytes, offset)
    while len(data) < size_bytes:
        more = os.pread(fd, size_bytes - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data


def _read_file(path: bytes, size_bytes: int) -> tuple[bytes, int]:
    """The content of a file, and the size of the file now if its content is not ``size_bytes``."""
    fd = os.open(path, os.O_RDONLY)
    try:
        # One byte more than expected shows a file that grew, without a stat.
        data = os.read(fd, size_bytes + 1)
        while data and len(data) < size_bytes:
            more = os.read(fd, size_bytes + 1 - len(data))
            if not more:
                break
            data += more
        return data, size_bytes if len(data) == size_bytes else os.fstat(fd).st_size
    finally:
        os.close(fd)
