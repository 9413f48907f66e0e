"""The shards of a split as open files, wherever the dataset lies."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from imgprep.dataset.index import ShardInfo
from train.errors import DataError

OPEN_SHARDS = 64
"""Shards held open at once: more than a window of an epoch, far below the limit of a process."""


class ShardFiles(Protocol):
    """Descriptors of shards, by number. Not for use by several threads at once."""

    def descriptor(self, number: int) -> int:
        """Descriptor to read a shard by; good until the next call.

        Raises:
            DataError: it cannot be opened or got, or is not the one of the index.
        """

    def will_need(self, number: int, offset: int, length: int) -> None:
        """Bytes that will be read soon; a hint. Raises as ``descriptor`` where it opens a file."""

    def expect(self, numbers: Sequence[int]) -> None:
        """The shards that will be read from now on, in the order of their first record."""

    def watch(self, stopped: Callable[[], bool]) -> None:
        """What to ask while waiting: once it is true, ``descriptor`` gives up."""

    def close(self) -> None:
        """Close everything; asking for a descriptor opens again."""


def checked_descriptor(path: Path, shard: ShardInfo) -> int:
    """Open a shard; OSError, or ValueError with both sizes if it has another than it must."""
    # A pipe in place of the shard would keep us waiting.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    found = os.fstat(descriptor).st_size
    if found != shard.bytes:
        os.close(descriptor)
        raise ValueError(f"{found:,} bytes, but the index says {shard.bytes:,}")
    return descriptor


class LocalShards:
    """Shards in a folder, opened when they are needed; see ``ShardFiles``."""

    def __init__(self, folder: Path, shards: Sequence[ShardInfo]) -> None:
        self._folder, self._shards = folder, shards
        self._open: OrderedDict[int, int] = OrderedDict()

    def descriptor(self, number: int) -> int:
        """Open it, or find it open; the least recently used one makes room."""
        descriptor = self._open.pop(number, None)
        if descriptor is None:
            while len(self._open) >= OPEN_SHARDS:
                os.close(self._open.popitem(last=False)[1])
            path = self._folder / self._shards[number].name
            try:
                descriptor = checked_descriptor(path, self._shards[number])
            except OSError as exc:
                raise DataError(f"{path}: {exc.strerror or exc}") from exc
            except ValueError as exc:
                raise DataError(f"{path}: {exc}; run imgprep verify") from exc
        self._open[number] = descriptor
        return descriptor

    def will_need(self, number: int, offset: int, length: int) -> None:
        """Ask the system to bring the bytes into memory; returns at once."""
        os.posix_fadvise(self.descriptor(number), offset, length, os.POSIX_FADV_WILLNEED)

    def expect(self, numbers: Sequence[int]) -> None:
        """Nothing: the disk is asked record by record."""

    def watch(self, stopped: Callable[[], bool]) -> None:
        """Nothing: a disk is not waited for."""

    def close(self) -> None:
        """Close the files."""
        while self._open:
            os.close(self._open.popitem()[1])
