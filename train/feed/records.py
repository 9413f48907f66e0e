"""Random access to the records of a split, by the ``.idx`` beside each shard.

Shards are read with ``pread``, not mapped: a shard that is truncated during a run then causes an
error that names it, where a mapped file would kill the process (SIGBUS).
"""

from __future__ import annotations

import os
import threading
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from imgprep.dataset.dali_index import ShardSpans, read_dali_index
from imgprep.dataset.index import ShardInfo
from imgprep.errors import FormatError, StoreError
from imgprep.storage import Store
from imgprep.storage.reading import in_order
from train.config import InputConfig
from train.errors import DataError
from train.feed.dataset import TrainingSet
from train.feed.remote.shards import RemoteShards
from train.feed.shard_files import LocalShards, ShardDescriptors


@dataclass(frozen=True, slots=True)
class Record:
    """One record as stored."""

    content: bytes
    """The image file: JPEG, PNG, or .npy with its header."""
    label: int


class RecordReader:
    """The records of one split, numbered through its shards in order. Threads may share it."""

    def __init__(
        self,
        data: TrainingSet,
        split: str,
        config: InputConfig = InputConfig(),  # noqa: B008  frozen
    ) -> None:
        """Read the indexes of all shards of ``split``; ``config`` has the cache for remote shards.

        Raises:
            DataError: the dataset has no such split, or an index or shard does not fit it.
            ConfigError: the cache is too small.
        """
        if split not in data.index.splits:
            have = ", ".join(data.index.splits)
            raise DataError(f"{data.location}: there is no split {split!r}; the dataset has {have}")
        self._shards = data.index.splits[split].shards
        self._store = data.index.store
        self._classes = data.classes
        self.shard_records = tuple(shard.records for shard in self._shards)
        self._starts = [0, *accumulate(self.shard_records)]
        self._encoding = data.encoding
        self._files = _open_shards(self._store, self._shards, config)
        idx = in_order(
            self._store, partial(_spans_of, self._store, encoding=data.encoding), self._shards
        )
        self._spans = np.concatenate([np.zeros((0, 4), np.int64), *(each.spans for each in idx)])
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._spans)

    def shard_of(self, record: int) -> int:
        """Return the number of the shard that holds ``record``."""
        return bisect_right(self._starts, record) - 1

    def where(self, record: int) -> str:
        """Return shard and key of a record, for messages."""
        number = self.shard_of(record)
        shard = self._shards[number]
        # Keeping a million names would take 70 MB, only for messages.
        names = _spans_of(self._store, shard, self._encoding).names
        name = names[record - self._starts[number]].decode("ascii", "replace")
        return f"{self._store.where(shard.name)}: {name.partition('.')[0]}"

    def read(self, record_n: NDArray[np.int64] | Sequence[int]) -> list[Record]:
        """Read records by index, in the order given.

        Raises:
            DataError: a shard cannot be read or has changed, or a label is not a class.
        """
        with self._lock:
            return [self._read_one(int(record)) for record in record_n]

    def prefetch(self, record_n: NDArray[np.int64] | Sequence[int]) -> None:
        """Ask the system to read records into its cache; returns at once."""
        with self._lock:
            for record in map(int, record_n):
                offset, _, label_offset, label_size = self._spans[record].tolist()
                length = label_offset + label_size - offset
                self._files.will_need(self.shard_of(record), offset, length)

    @property
    def is_remote(self) -> bool:
        """Whether the shards are downloaded; if so, ``expect`` saves waiting."""
        return self._store.folder is None

    def expect(self, *orders: NDArray[np.int64]) -> None:
        """Announce the records that will be read next, one order per epoch, to download ahead."""
        numbers: list[int] = []
        for record_n in orders:
            shard_n = np.searchsorted(np.asarray(self._starts), record_n, side="right") - 1
            found, first = np.unique(shard_n, return_index=True)
            numbers += found[np.argsort(first)].tolist()
        with self._lock:
            self._files.expect(numbers)

    def stop_when(self, stopped: Callable[[], bool]) -> None:
        """Give up waiting for a shard once ``stopped`` returns true."""
        self._files.stop_when(stopped)

    def close(self) -> None:
        """Close the shards; reading reopens them."""
        with self._lock:
            self._files.close()

    def _read_one(self, record: int) -> Record:
        offset, size, label_offset, label_size = self._spans[record].tolist()
        length = label_offset + label_size - offset
        try:
            # One read for both: the label follows its image, after padding and a tar header.
            both = os.pread(self._files.descriptor(self.shard_of(record)), length, offset)
        except OSError as exc:
            raise DataError(f"{self.where(record)}: {exc.strerror or exc}") from exc
        if len(both) != length:
            raise DataError(f"{self.where(record)}: the shard was truncated; run imgprep verify")
        digits = both[label_offset - offset :]
        if not digits.isdigit() or int(digits) >= self._classes:
            raise DataError(
                f"{self.where(record)}: label {digits!r} is not one of the {self._classes} "
                "classes; run imgprep verify"
            )
        return Record(both[:size], int(digits))


def _spans_of(store: Store, shard: ShardInfo, encoding: str) -> ShardSpans:
    try:
        return read_dali_index(store, shard, encoding)
    except (FormatError, StoreError) as exc:
        raise DataError(str(exc)) from exc
    except OSError as exc:
        where = store.where(shard.idx_name)
        raise DataError(f"{where}: {exc.strerror or exc}; build the dataset again") from exc


def _open_shards(
    store: Store, shards: Sequence[ShardInfo], config: InputConfig
) -> ShardDescriptors:
    """Open the shards of a split: in their folder, or through the shard cache."""
    if store.folder is not None:
        return LocalShards(store.folder, shards)
    return RemoteShards(store, shards, config)
