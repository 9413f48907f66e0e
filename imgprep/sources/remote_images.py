"""Read the images of a source in an object store, with several requests in flight."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Iterable
from concurrent.futures import Future

from imgprep.sources.faults import changed, unreadable
from imgprep.sources.manifest import LOOSE_FILE, SplitManifest
from imgprep.sources.remote_file import ResizedError, read_range, remote_file, request
from imgprep.sources.tree import child_path
from imgprep.storage.urls import file_system

PENDING_IMAGES = 64
PENDING_BYTES = 256 * 1024 * 1024
ARRIVAL_SECONDS = 30.0
"""A prefetch that takes longer is cancelled, and ``read`` makes its own request."""


class RemoteImages:
    """Images of one split under a URL; see ``imgprep.sources.reader.SourceReader``."""

    def __init__(self, url: str, manifest: SplitManifest) -> None:
        self._url = url.rstrip("/")
        self._fs, root = file_system(self._url)
        self._manifest = manifest
        self._paths = [child_path(root, path) for path in manifest.container_paths]
        self._checked: set[int] = set()
        self._pending: OrderedDict[int, Future[bytes | None]] = OrderedDict()
        self._pending_bytes = 0

    def read(self, i: int) -> bytes:
        """Return all bytes of image ``i``.

        Raises:
            SourceFaultError: the object is gone, or changed since the scan.
            UnreachableError: the store refuses, or does not answer.
        """
        path, offset, size_bytes = self._place(i)
        loose = offset == LOOSE_FILE
        try:
            if not loose:
                self._check_archive(i, path)
            data = self._prefetched(i)
            if data is not None and len(data) == size_bytes:
                return data
            start = 0 if loose else offset
            return request(
                lambda: read_range(self._fs, path, start, size_bytes, whole=loose),
                self._where(path),
            )
        except ResizedError as exc:
            short = offset + size_bytes - exc.now_bytes
            how = (
                f"it had {size_bytes:,} bytes, now {exc.now_bytes:,}"
                if loose
                else f"the archive now ends {short:,} bytes before its end"
            )
            raise changed(self._manifest.where(i), how) from exc
        except OSError as exc:
            raise unreadable(self._manifest.where(i), exc) from exc

    def will_need(self, indices: Iterable[int]) -> None:
        """Prefetch images; a hint, never raises."""
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
                self._drop(next(iter(self._pending)))  # Of a shard that was abandoned.
            # One byte more than expected reveals an object that grew.
            start, end = (
                (0, size_bytes + 1) if offset == LOOSE_FILE else (offset, offset + size_bytes)
            )
            answer = _answer_or_none(self._fs._cat_file(path, start=start, end=end))
            self._pending[i] = asyncio.run_coroutine_threadsafe(answer, self._fs.loop)
            self._pending_bytes += size_bytes

    def close(self) -> None:
        """Cancel all prefetching."""
        while self._pending:
            self._drop(next(iter(self._pending)))

    def _place(self, i: int) -> tuple[str, int, int]:
        """(path, offset, size) of an image; the path of its own object, or of its archive."""
        row = self._manifest.rows[i]
        offset, path = int(row["offset"]), self._paths[int(row["container"])]
        if offset == LOOSE_FILE:
            path = f"{path}/{self._manifest.name(i)}"
        return path, offset, int(row["size_bytes"])

    def _where(self, path: str) -> str:
        return self._url.partition("://")[0] + "://" + path.lstrip("/")

    def _prefetched(self, i: int) -> bytes | None:
        """The prefetched image; None where it was not prefetched, or the request failed."""
        future = self._drop(i, cancel=False)
        if future is None:
            return None
        try:
            return future.result(ARRIVAL_SECONDS)
        except TimeoutError:
            future.cancel()
            return None  # read() asks again and reports the fault.

    def _drop(self, i: int, *, cancel: bool = True) -> Future[bytes | None] | None:
        future = self._pending.pop(i, None)
        if future is not None:
            self._pending_bytes -= int(self._manifest.rows["size_bytes"][i])
            if cancel:
                future.cancel()
        return future

    def _check_archive(self, i: int, path: str) -> None:
        """Reject an archive that was replaced since the scan; checked once per archive."""
        container = int(self._manifest.rows["container"][i])
        if container in self._checked:
            return
        now = remote_file(self._fs, path, self._where(path))
        then_ns = int(self._manifest.rows["mtime_ns"][i])
        if now.mtime_ns != then_ns:
            raise changed(self._manifest.where(i), "its archive was replaced")
        self._checked.add(container)


async def _answer_or_none(answer: Awaitable[bytes]) -> bytes | None:
    """Return the answer, or None: asyncio would print a failure that nobody waits for."""
    try:
        return bytes(await answer)
    except Exception:
        return None
