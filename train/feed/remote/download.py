"""Download a shard from an object store into an open file, and hash it meanwhile."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from functools import partial

from imgprep.dataset.index import ShardInfo
from imgprep.storage import Store
from imgprep.storage.reading import store_words
from imgprep.storage.urls import attempt, file_system
from train.errors import DataError

RANGE_BYTES = 8 << 20
"""Length of a ranged request."""
DOWNLOADS = 2
"""Downloads of a shard with a wrong hash before it is an error."""


class DownloadStoppedError(Exception):
    """The reader stopped waiting for a shard."""


def download(store: Store, shard: ShardInfo, descriptor: int, stopped: Callable[[], bool]) -> None:
    """Write the whole shard into the file.

    Raises:
        DataError: the store fails, or what it holds is not the shard that the index describes.
        OSError: the file cannot be written.
        DownloadStoppedError: ``stopped`` returned true.
    """
    for _ in range(DOWNLOADS):
        digest = hashlib.sha256()
        for offset, piece in _ranges(store, shard, stopped):
            digest.update(piece)
            _write(descriptor, piece, offset)
        if digest.hexdigest() == shard.sha256:
            return
    raise DataError(
        f"{store.where(shard.name)}: not the shard that the index describes (SHA-256, downloaded "
        f"{DOWNLOADS} times); run imgprep verify"
    )


def _ranges(
    store: Store, shard: ShardInfo, stopped: Callable[[], bool]
) -> Iterator[tuple[int, bytes]]:
    """Yield the object in ranges: offset and bytes. Temporary failures are retried.

    Raises:
        DataError, DownloadStoppedError: as ``download``.
    """
    where = store.where(shard.name)
    fs, root = file_system(store.location)

    def read(start: int, end: int) -> bytes:
        if stopped():
            raise DownloadStoppedError
        return bytes(fs.cat_file(f"{root}/{shard.name}", start=start, end=end))

    try:
        wrong_size = store.size_bytes(shard.name) != shard.bytes
        for start in range(0, 0 if wrong_size else shard.bytes, RANGE_BYTES):
            end = min(start + RANGE_BYTES, shard.bytes)
            piece = attempt(partial(read, start, end))
            if len(piece) != end - start:  # meanwhile replaced by a shorter object
                wrong_size = True
                break
            yield start, piece
    except FileNotFoundError as exc:
        raise DataError(f"{where}: no such object; run imgprep verify") from exc
    except OSError as exc:
        raise DataError(f"{where}: {store_words(exc)}") from exc
    if wrong_size:
        raise DataError(
            f"{where}: its size is not {shard.bytes:,} bytes, as in the index; run imgprep verify"
        )


def _write(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(descriptor, view, offset)
        view, offset = view[count:], offset + count
