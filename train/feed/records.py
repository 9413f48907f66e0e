"""Random access to the records of a split, by the ``.idx`` beside each shard.

Shards are read with ``pread``, not mapped: a shard that is truncated during a run then causes an
error that names it, where a mapped file would kill the process (SIGBUS).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from imgprep.dataset.dali_index import ShardSpans, read_dali_index
from imgprep.dataset.encodings import encoding_of
from imgprep.dataset.format import NPY_HEADER_BYTES
from imgprep.dataset.index import ShardInfo
from imgprep.errors import FormatError, StoreError
from imgprep.spec import longest_px
from imgprep.storage import Store
from imgprep.storage.reading import in_order
from train.config import InputConfig
from train.errors import DataError
from train.feed.dataset import TrainingSet
from train.feed.remote.shards import RemoteShards
from train.feed.shard_files import LocalShards, ShardDescriptors
from train.feed.spans import (
    ReadPlan,
    RecordBatch,
    label_text,
    labels_in,
    new_buffer,
    read_plan,
    read_spans,
)

READ_AT_ONCE = 64
"""Records that ``read`` reads into one buffer."""
BYTES_PER_PX, BYTES_MAX = 16, 1 << 16
"""Most bytes of a compressed image: so many per pixel, and so many for its headers."""


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
        self._starts = np.array([0, *accumulate(self.shard_records)], np.int64)
        self._encoding = data.encoding
        self._files = _open_shards(self._store, self._shards, config)
        idx = in_order(
            self._store, partial(_spans_of, self._store, encoding=data.encoding), self._shards
        )
        self._spans = np.concatenate([np.zeros((0, 4), np.int64), *(each.spans for each in idx)])
        self._sides = data.sides if data.are_rectangles else f"of {data.size_px} pixels square"
        raw = not encoding_of(data.encoding).needs_decoder
        self._skip = NPY_HEADER_BYTES if raw else 0
        pixels = data.size_px * longest_px(data.size_px, data.shape)
        self._bytes_max = (
            NPY_HEADER_BYTES + 3 * pixels if raw else BYTES_MAX + BYTES_PER_PX * pixels
        )
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._spans)

    def shard_of(self, record: int) -> int:
        """Return the number of the shard that holds ``record``."""
        return int(np.searchsorted(self._starts, record, side="right")) - 1

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
        found = []
        for first in range(0, len(record_n), READ_AT_ONCE):
            some = np.asarray(record_n[first : first + READ_AT_ONCE], np.int64)
            plan = self._plan(some, skip=0)
            batch = self.read_batch(plan, new_buffer)
            found += [
                Record(batch.content(row), int(batch.labels_n[row])) for row in range(len(batch))
            ]
        return found

    def plan(self, record_n: NDArray[np.int64]) -> ReadPlan:
        """Plan to read records, in the order given. Of raw records only the pixels are read."""
        return self._plan(record_n, skip=self._skip)

    def prefetch(self, plan: ReadPlan) -> None:
        """Ask the system to read records into its cache; returns at once."""
        with self._lock:
            for shard, first, end in plan.parts:
                self._files.will_need(shard, plan.whole_s[first:end])

    def read_batch(
        self, plan: ReadPlan, allocate: Callable[[int], NDArray[np.uint8]]
    ) -> RecordBatch:
        """Read the records of a plan into the buffer of at least so many bytes that ``allocate``
        returns.

        Raises:
            DataError: as ``read``; or a record is larger than any image of its size.
        """
        n = len(plan.record_n)
        self._check_sizes(plan)
        buffer = allocate(plan.buffer_bytes)
        with self._lock:
            for shard, first, end in plan.parts:
                self._read_part(plan, buffer, shard, first, end)
        labels_n = labels_in(plan, buffer)
        bad = np.flatnonzero((labels_n < 0) | (labels_n >= self._classes))
        if len(bad):
            row = int(bad[0])
            raise DataError(
                f"{self.where(int(plan.record_n[row]))}: label {label_text(plan, buffer, row)!r} "
                f"is not one of the {self._classes} classes; run imgprep verify"
            )
        return RecordBatch(
            rows=buffer[: n * plan.row_bytes].reshape(n, plan.row_bytes),
            size_n=plan.size_n,
            labels_n=labels_n,
            buffer=buffer,
        )

    @property
    def is_remote(self) -> bool:
        """Whether the shards are downloaded; if so, ``expect`` saves waiting."""
        return self._store.folder is None

    def expect(self, *orders: NDArray[np.int64]) -> None:
        """Announce the records that will be read next, one order per epoch, to download ahead."""
        numbers: list[int] = []
        for record_n in orders:
            shard_n = np.searchsorted(self._starts, record_n, side="right") - 1
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

    def _plan(self, record_n: NDArray[np.int64], skip: int) -> ReadPlan:
        shard_n = np.searchsorted(self._starts, record_n, side="right") - 1
        return read_plan(record_n, self._spans[record_n], shard_n, skip)

    def _check_sizes(self, plan: ReadPlan) -> None:
        """Refuse sizes that no record has, before memory is allocated for them."""
        bad = plan.size_n > self._bytes_max
        if self._skip:
            bad = self._spans[plan.record_n, 1] != self._bytes_max
        if bad.any():
            record = int(plan.record_n[np.flatnonzero(bad)[0]])
            size = int(self._spans[record, 1])
            raise DataError(
                f"{self.where(record)}: {size:,} bytes are not a record {self._sides}; "
                "run imgprep verify"
            )

    def _read_part(
        self, plan: ReadPlan, buffer: NDArray[np.uint8], shard: int, first: int, end: int
    ) -> None:
        """Read the records of one shard."""
        file = self._files.descriptor(shard)
        stopped, error = read_spans(file, plan.span_s, 2 * first, 2 * end, buffer)
        if stopped == 2 * end:
            return
        where = self.where(int(plan.record_n[plan.row_s[stopped // 2]]))
        if error:
            raise DataError(f"{where}: {os.strerror(error)}")
        raise DataError(f"{where}: the shard was truncated; run imgprep verify")


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
