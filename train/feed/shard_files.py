"""The shards of a split as open files, whether the dataset is local or remote."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from imgprep.dataset.index import ShardInfo
from train.errors import DataError
from train.feed.spans import will_need

OPEN_SHARDS = 64
"""Shards open at once: more than a window of an epoch, far below the limit of a process."""


class ShardDescriptors(Protocol):
    """File descriptors of shards, by number. Only one thread may use it at a time."""

    def descriptor(self, number: int) -> int:
        """Return a descriptor to read a shard from; valid until the next call.

        Raises:
            DataError: it cannot be opened or downloaded, or is not the shard in the index.
        """

    def will_need(self, number: int, span_s: NDArray[np.int64]) -> None:
        """Hint that spans (see ``spans.ReadPlan``) will be read soon. May raise like
        ``descriptor``."""

    def expect(self, numbers: Sequence[int]) -> None:
        """Announce the shards that will be read next, in the order of their first record."""

    def stop_when(self, stopped: Callable[[], bool]) -> None:
        """Make ``descriptor`` give up waiting once ``stopped`` returns true."""

    def close(self) -> None:
        """Close all files; ``descriptor`` reopens them."""


def checked_descriptor(path: Path, shard: ShardInfo) -> int:
    """Open a shard and check its size.

    Raises:
        OSError: it cannot be opened.
        ValueError: its size is not the one in the index; names both.
    """
    # Without O_NONBLOCK a named pipe in place of the shard would block.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    found = os.fstat(descriptor).st_size
    if found != shard.bytes:
        os.close(descriptor)
        raise ValueError(f"{found:,} bytes, but the index says {shard.bytes:,}")
    return descriptor


class LocalShards:
    """Shards in a folder, opened when they are needed; see ``ShardDescriptors``."""

    def __init__(self, folder: Path, shards: Sequence[ShardInfo]) -> None:
        self._folder, self._shards = folder, shards
        self._open: OrderedDict[int, int] = OrderedDict()

    def descriptor(self, number: int) -> int:
        """Open the shard unless it is open; closes the least recently used one over the limit."""
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

    def will_need(self, number: int, span_s: NDArray[np.int64]) -> None:
        """Ask the system to read the bytes into its cache; returns at once."""
        will_need(self.descriptor(number), span_s)

    def expect(self, numbers: Sequence[int]) -> None:
        """Do nothing: a local disk needs no announcement."""

    def stop_when(self, stopped: Callable[[], bool]) -> None:
        """Do nothing: there are no downloads to wait for."""

    def close(self) -> None:
        """Close the files."""
        while self._open:
            os.close(self._open.popitem()[1])
