"""Random access to the records of a split, by the ``.idx`` beside each shard.

Shards are read with ``pread``, never mapped: a shard that is cut short under a live run then gives
an error that names it, where a mapped file would kill the process (SIGBUS).
"""

from __future__ import annotations

import os
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imgprep.atomic import read_regular
from imgprep.format import (
    DALI_INDEX_VERSION,
    IMAGE_EXTENSIONS,
    LABEL_DIGITS_MAX,
    LABEL_EXTENSION,
)
from imgprep.index import ShardInfo
from train.dataset import TrainingSet
from train.errors import DataError

SHARD_BYTES_MAX = 2**62
OPEN_SHARDS = 64
"""Shards held open at once: more than a window of an epoch, far below the limit of a process."""


@dataclass(frozen=True, slots=True)
class Record:
    """One record as stored."""

    content: bytes
    """The image file: JPEG, PNG, or .npy with its header."""
    label: int


class RecordReader:
    """The records of one split, numbered through its shards in order. Safe to share by threads."""

    def __init__(self, data: TrainingSet, split: str) -> None:
        """Read the indexes of all shards of ``split``.

        Raises:
            DataError: the dataset has no such split, or an index or shard does not fit it.
        """
        if split not in data.index.splits:
            have = ", ".join(data.index.splits)
            raise DataError(f"{data.folder}: no split {split!r}; it has {have}")
        self._shards = data.index.splits[split].shards
        self._folder = data.folder
        self._classes = data.classes
        self.shard_records = tuple(shard.records for shard in self._shards)
        self._starts = [0, *accumulate(self.shard_records)]
        self._encoding = data.encoding
        spans = (_read_idx(self._folder, shard, data.encoding)[0] for shard in self._shards)
        self._spans = np.concatenate([np.zeros((0, 4), np.int64), *spans])
        self._open: OrderedDict[int, int] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._spans)

    def shard_of(self, record: int) -> int:
        """Number of the shard that holds ``record``."""
        return bisect_right(self._starts, record) - 1

    def where(self, record: int) -> str:
        """Shard and key of a record, for messages."""
        number = self.shard_of(record)
        shard = self._shards[number]
        # A million names would take 70 MB, for a message that may never be needed.
        _, names = _read_idx(self._folder, shard, self._encoding)
        name = names[record - self._starts[number]].decode("ascii", "replace")
        return f"{self._folder / shard.name}: {name.partition('.')[0]}"

    def read(self, record_n: NDArray[np.int64] | Sequence[int]) -> list[Record]:
        """Read records by index, in the order given.

        Raises:
            DataError: a shard cannot be read or has changed, or a label is no class.
        """
        with self._lock:
            return [self._read_one(int(record)) for record in record_n]

    def prefetch(self, record_n: NDArray[np.int64] | Sequence[int]) -> None:
        """Ask the system to bring records into memory; returns at once."""
        with self._lock:
            for record in map(int, record_n):
                offset, _, label_offset, label_size = self._spans[record].tolist()
                length = label_offset + label_size - offset
                os.posix_fadvise(self._file(record), offset, length, os.POSIX_FADV_WILLNEED)

    def close(self) -> None:
        """Close the shards; reading opens them again."""
        with self._lock:
            while self._open:
                os.close(self._open.popitem()[1])

    def _read_one(self, record: int) -> Record:
        offset, size, label_offset, label_size = self._spans[record].tolist()
        length = label_offset + label_size - offset
        try:
            # One read for both: the label follows its image, behind some padding and a header.
            both = os.pread(self._file(record), length, offset)
        except OSError as exc:
            raise DataError(f"{self.where(record)}: {exc.strerror or exc}") from exc
        if len(both) != length:
            raise DataError(f"{self.where(record)}: the shard was cut short; run imgprep verify")
        digits = both[label_offset - offset :]
        if not digits.isdigit() or int(digits) >= self._classes:
            raise DataError(
                f"{self.where(record)}: label {digits!r} is none of {self._classes} classes; run "
                "imgprep verify"
            )
        return Record(both[:size], int(digits))

    def _file(self, record: int) -> int:
        """Descriptor of the shard of ``record``; the least recently used one makes room."""
        number = self.shard_of(record)
        descriptor = self._open.pop(number, None)
        if descriptor is None:
            while len(self._open) >= OPEN_SHARDS:
                os.close(self._open.popitem(last=False)[1])
            descriptor = self._open_shard(number)
        self._open[number] = descriptor
        return descriptor

    def _open_shard(self, number: int) -> int:
        shard = self._shards[number]
        path = self._folder / shard.name
        try:
            # a pipe in place of the shard would keep us waiting
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as exc:
            raise DataError(f"{path}: {exc.strerror or exc}") from exc
        found = os.fstat(descriptor).st_size
        if found != shard.bytes:
            os.close(descriptor)
            raise DataError(
                f"{path}: {found:,} bytes, but the index says {shard.bytes:,}; run imgprep verify"
            )
        return descriptor


def _read_idx(
    folder: Path, shard: ShardInfo, encoding: str
) -> tuple[NDArray[np.int64], list[bytes]]:
    """Spans (records, 4: image offset, image size, label offset, label size) and image names.

    A line is ``ext offset size name`` for the image, then the same for the label.
    """
    path = folder / shard.idx_name
    try:
        first, _, rest = read_regular(path).partition(b"\n")
        words = rest.split()
        columns = [list(map(int, words[column::8])) for column in (1, 2, 5, 6)]
        spans = np.array(columns, dtype=np.int64).T
    except OSError as exc:
        raise DataError(f"{path}: {exc.strerror or exc}; build the dataset again") from exc
    except (ValueError, OverflowError) as exc:
        raise DataError(f"{path}: not a DALI index; run imgprep verify") from exc
    ends = spans[:, 2] + spans[:, 3]
    fits = (
        first.decode("ascii", "replace") == f"{DALI_INDEX_VERSION} {shard.records}"
        and len(words) == 8 * shard.records
        and set(words[0::8]) <= {IMAGE_EXTENSIONS[encoding].encode()}
        and set(words[4::8]) <= {LABEL_EXTENSION.encode()}
        # first each by itself, so that no sum can have overflowed
        and bool((spans >= 0).all() and (spans <= min(shard.bytes, SHARD_BYTES_MAX)).all())
        and bool((spans[:, 0] + spans[:, 1] <= spans[:, 2]).all())
        and bool((spans[:, 3] <= LABEL_DIGITS_MAX).all())
        and bool((ends[:-1] <= spans[1:, 0]).all() and (ends <= shard.bytes).all())
    )
    if not fits:
        raise DataError(f"{path}: does not describe {shard.name}; run imgprep verify")
    return spans, words[3::8]
