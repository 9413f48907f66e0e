"""Upload files to an object store, and verify that the object is what was sent.

The size is compared, and the content: by the ETag if that is the MD5 of the content (S3: of the
whole file, or of the MD5s of its parts); otherwise (encrypted buckets, other stores) the object is
read back and hashed. An object that does not verify is removed and sent again.
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgprep.storage.urls import attempt

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

PART_BYTES = 8 << 20
"""Size of the parts of a multipart upload; a file of less than two parts is one request."""
PARTS_AT_ONCE = 4
"""Parts sent at the same time: bounds the memory of an upload to 32 MiB."""
SEND_SECONDS = 60.0
SLOWEST_BYTES_PER_SECOND = 64 << 10
"""An upload may take ``SEND_SECONDS`` plus its size at this rate; then it is started again.

The libraries' timeouts do not cover a server that stops reading.
"""
S3 = frozenset({"s3", "s3a"})
IN_PARTS = S3 | {"gs", "gcs"}


class UnverifiedError(OSError):
    """The object is not what was sent."""


def s3_etag(path: Path, part_bytes: int) -> str:
    """ETag that S3 gives a file: its MD5, or the MD5 of its parts' MD5s and their number."""
    if path.stat().st_size < 2 * part_bytes:
        with path.open("rb") as file:
            return hashlib.file_digest(file, _md5).hexdigest()
    digests = [_md5(part).digest() for part in _pieces(path, part_bytes)]
    return f"{_md5(b''.join(digests)).hexdigest()}-{len(digests)}"


def _md5(data: bytes = b"") -> Any:
    return hashlib.md5(data, usedforsecurity=False)


def _pieces(path: Path, piece_bytes: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(piece_bytes):
            yield piece


@dataclass(frozen=True, slots=True)
class Uploader:
    """Sends files to the fsspec file system of ``scheme`` URLs, and verifies them."""

    fs: AbstractFileSystem
    scheme: str
    part_bytes: int = PART_BYTES
    send_seconds: float = SEND_SECONDS

    def put(self, path: Path, target: str) -> None:
        """Upload a file, in parts if it is large.

        Raises:
            OSError: it failed, after several attempts.
        """
        options: dict[str, Any] = {}
        if self.scheme in IN_PARTS:
            options["chunksize"] = self.part_bytes
        if self.scheme in S3:
            options["max_concurrency"] = PARTS_AT_ONCE
        options |= self._timeout(path.stat().st_size)
        etag = s3_etag(path, self.part_bytes) if self.scheme in S3 else ""

        def send() -> None:
            try:
                self.fs.put_file(str(path), target, **options)
            except FileNotFoundError as exc:
                # The answer that confirmed the end of an upload was lost: send it again.
                raise OSError(errno.EIO, str(exc)) from exc
            except TimeoutError:
                self.abort_unfinished(target, lambda rest: not rest)
                raise
            self._verify(target, path, etag)

        attempt(send)

    def write(self, data: bytes, target: str) -> None:
        """Upload a small file in one request. Raises as ``put``."""
        etag = _md5(data).hexdigest()

        def send() -> None:
            answer = self.fs.pipe_file(target, data, **self._timeout(len(data)))
            if isinstance(answer, dict) and _etag(answer) == etag:
                return
            if self.fs.cat_file(target) != data:
                self._refuse(target)

        attempt(send)

    def abort_unfinished(self, beginning: str, is_ours: Callable[[str], bool]) -> None:
        """Abort multipart uploads of objects whose path is ``beginning`` and a rest, on S3.

        ``is_ours`` decides by the rest, since others may upload to such paths, too.
        """
        if self.scheme not in S3:
            return
        bucket, prefix, _ = self.fs.split_path(beginning)
        found = self.fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=prefix)
        for begun in found.get("Uploads", []):
            if not is_ours(begun["Key"].removeprefix(prefix)):
                continue
            which = {"Key": begun["Key"], "UploadId": begun["UploadId"]}
            with suppress(FileNotFoundError):
                self.fs.call_s3("abort_multipart_upload", Bucket=bucket, **which)

    def _timeout(self, size_bytes: int) -> dict[str, float]:
        if not self.fs.async_impl:
            return {}
        return {"timeout": self.send_seconds + size_bytes / SLOWEST_BYTES_PER_SECOND}

    def _verify(self, target: str, path: Path, etag: str) -> None:
        found: dict[str, Any] = self.fs.info(target)
        if found.get("size") != path.stat().st_size:
            self._refuse(target)
        if etag and _etag(found) == etag:
            return
        digest = hashlib.sha256()
        for start in range(0, int(found["size"]), self.part_bytes):
            end = min(start + self.part_bytes, int(found["size"]))
            digest.update(self.fs.cat_file(target, start=start, end=end))
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").digest() != digest.digest():
                self._refuse(target)

    def _refuse(self, target: str) -> None:
        with suppress(Exception):  # if it cannot be removed, it is overwritten
            self.fs.rm_file(target)
        raise UnverifiedError(errno.EIO, "the uploaded object is not what was sent")


def _etag(found: dict[str, Any]) -> str:
    return str(found.get("ETag", "")).strip('"').lower()
