"""Read the images of a source in an object store, several of them on their way at once."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Iterable
from concurrent.futures import Future

from imgprep.errors import ImageError
from imgprep.sources.manifest import LOOSE_FILE, SplitManifest
from imgprep.sources.remote_file import ResizedError, reach, read_range, remote_file
from imgprep.sources.tree import under
from imgprep.storage.urls import file_system

PENDING_IMAGES = 64
PENDING_BYTES = 256 * 1024 * 1024
ARRIVAL_SECONDS = 30.0
"""A request that takes longer is given up, and made again with all that helps."""


class RemoteImages:
    """Images of one split under a URL; see ``imgprep.sources.reader.SourceReader``."""

    def __init__(self, url: str, manifest: SplitManifest) -> None:
        self._url = url.rstrip("/")
        self._fs, root = file_system(self._url)
        self._manifest = manifest
        self._paths = [under(root, path) for path in manifest.container_paths]
        self._checked: set[int] = set()
        self._pending: OrderedDict[int, Future[bytes | None]] = OrderedDict()
        self._pending_bytes = 0

    def read(self, i: int) -> bytes:
        """All bytes of image ``i``.

        Raises:
            ImageError: the object is gone, or is not as the scan found it.
            UnreachableError: the store refuses, or does not answer.
        """
        path, offset, size_bytes = self._place(i)
        loose = offset == LOOSE_FILE
        try:
            if not loose:
                self._check_archive(i, path)
            data = self._arrived(i)
            if data is not None and len(data) == size_bytes:
                return data
            start = 0 if loose else offset
            return reach(
                lambda: read_range(self._fs, path, start, size_bytes, whole=loose),
                self._where(path),
            )
        except ResizedError as exc:
            if loose:
                cause = f"file changed since the scan: {size_bytes} bytes, now {exc.now_bytes}"
                raise ImageError(cause) from exc
            short = offset + size_bytes - exc.now_bytes
            raise ImageError(
                f"the archive ends {short} bytes before the end of this image: it changed since "
                "the scan"
            ) from exc
        except OSError as exc:
            raise ImageError(f"cannot be read: {exc.strerror or exc}") from exc

    def will_need(self, indices: Iterable[int]) -> None:
        """Ask for images ahead of ``read``; a hint, never fails."""
        if not self._fs.async_impl:
            return
        for i in indices:
            path, offset, size_bytes = self._place(i)
            if i in self._pending or size_bytes > PENDING_BYTES:
                continue
            while self._pending and (
                len(self._pending) >= PENDING_IMAGES
                or self._pending_bytes + size_bytes > PENDING_BYTES
            ):
                self._forget(next(iter(self._pending)))  # of a shard that was given up
            # One byte more than expected shows an object that grew.
            start, end = (
                (0, size_bytes + 1) if offset == LOOSE_FILE else (offset, offset + size_bytes)
            )
            coming = _whatever_comes(self._fs._cat_file(path, start=start, end=end))
            self._pending[i] = asyncio.run_coroutine_threadsafe(coming, self._fs.loop)
            self._pending_bytes += size_bytes

    def close(self) -> None:
        """Drop what is on its way."""
        while self._pending:
            self._forget(next(iter(self._pending)))

    def _place(self, i: int) -> tuple[str, int, int]:
        """(path, offset, size) of an image; the path is that of its own object, or its archive."""
        row = self._manifest.rows[i]
        offset, path = int(row["offset"]), self._paths[int(row["container"])]
        if offset == LOOSE_FILE:
            path = f"{path}/{self._manifest.name(i)}"
        return path, offset, int(row["size_bytes"])

    def _where(self, path: str) -> str:
        return self._url.partition("://")[0] + "://" + path.lstrip("/")

    def _arrived(self, i: int) -> bytes | None:
        """What was asked for ahead; None where it was not, or did not come well."""
        coming = self._forget(i, cancel=False)
        if coming is None:
            return None
        try:
            return coming.result(ARRIVAL_SECONDS)
        except TimeoutError:
            coming.cancel()
            return None  # asked for again, and then the fault is told

    def _forget(self, i: int, *, cancel: bool = True) -> Future[bytes | None] | None:
        coming = self._pending.pop(i, None)
        if coming is not None:
            self._pending_bytes -= int(self._manifest.rows["size_bytes"][i])
            if cancel:
                coming.cancel()
        return coming

    def _check_archive(self, i: int, path: str) -> None:
        """Refuse an archive that was put anew since the scan; asked once for each archive."""
        container = int(self._manifest.rows["container"][i])
        if container in self._checked:
            return
        now = remote_file(self._fs, path, self._where(path))
        then_ns = int(self._manifest.rows["mtime_ns"][i])
        if now.mtime_ns != then_ns:
            raise ImageError("the archive was written anew since the scan")
        self._checked.add(container)


async def _whatever_comes(answer: Awaitable[bytes]) -> bytes | None:
    """An answer, or None: a failure that nobody waits for any more would be printed at the end."""
    try:
        return bytes(await answer)
    except Exception:
        return None
