"""Many parts of shards in one buffer: which parts a batch needs, and reading them.

A batch is read shard by shard, with one call per shard that releases the interpreter's lock once.
The records of a batch share a buffer and have no Python objects of their own, because the thread
that handles them shares the interpreter with the training step.

Suffixes: ``n`` record in the batch, ``s`` span.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgprep.dataset.format import LABEL_DIGITS_MAX

_pread: Any
try:
    _pread = importlib.import_module("train.feed._pread")
except ImportError:  # not built: no compiler when the package was installed
    _pread = None

_POWERS = 10 ** np.arange(LABEL_DIGITS_MAX, dtype=np.int64)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ReadPlan:
    """What to read for some records, and where in the buffer it goes."""

    record_n: NDArray[np.int64]
    size_n: NDArray[np.int64]
    """Bytes of each image file that are read (n,)."""
    label_size_n: NDArray[np.int64]
    """Digits of each label (n,)."""
    span_s: NDArray[np.int64]
    """(2n, 3): offset, size, place in the buffer. An image, then its label, shard by shard."""
    whole_s: NDArray[np.int64]
    """(n, 3): the same order, image and label in one; the place means nothing."""
    row_s: NDArray[np.int64]
    """Row in the batch of each record in this order (n,)."""
    parts: Sequence[tuple[int, int, int]]
    """The shards in the order of their first record: number, first record of ``row_s``, end."""
    row_bytes: int
    """Bytes between two images in the buffer: the size of the largest."""

    @property
    def buffer_bytes(self) -> int:
        """Size of the buffer."""
        return len(self.record_n) * (self.row_bytes + LABEL_DIGITS_MAX)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RecordBatch:
    """Some records in one buffer, one in each row."""

    rows: NDArray[np.uint8]
    """(n, row_bytes): the image file, or its pixels alone where it needs no decoder; the rest of a
    row means nothing."""
    size_n: NDArray[np.int64]
    """Bytes that count of each row (n,)."""
    labels_n: NDArray[np.int64]
    buffer: NDArray[np.uint8]
    """The memory of ``rows``, to be used again for another batch."""

    def __len__(self) -> int:
        return len(self.rows)

    def content(self, row: int) -> bytes:
        """Return the bytes of one record."""
        return self.rows[row, : self.size_n[row]].tobytes()


def read_plan(
    record_n: NDArray[np.int64],
    position_n: NDArray[np.int64],
    shard_n: NDArray[np.int64],
    skip: int,
) -> ReadPlan:
    """Plan to read records, whose positions (n, 4) are offset and size of the image file and of the
    label, each in its shard ``shard_n``. The first ``skip`` bytes of an image file are not read.

    Shards are read in the order of their first record, so that a shard of the next window of an
    epoch is not opened, or downloaded, before those of this window.
    """
    n = len(record_n)
    shards, first, inverse = np.unique(shard_n, return_index=True, return_inverse=True)
    by_first = np.argsort(first)
    rank = np.empty_like(by_first)
    rank[by_first] = np.arange(len(by_first))
    # Within a shard in the order of the file.
    row_s = np.lexsort((position_n[:, 0], rank[inverse]))
    counts = np.bincount(rank[inverse], minlength=len(shards))
    ends = np.cumsum(counts)
    numbers, starts = shards[by_first].tolist(), (ends - counts).tolist()
    parts = list(zip(numbers, starts, ends.tolist(), strict=True))
    size_n = np.maximum(position_n[:, 1] - skip, 0)
    row_bytes = int(size_n.max(initial=0))
    places = np.arange(n)
    span_s = np.empty((n, 2, 3), np.int64)
    span_s[:, 0, 0] = position_n[:, 0] + skip
    span_s[:, 0, 1] = size_n
    span_s[:, 0, 2] = places * row_bytes
    span_s[:, 1, :2] = position_n[:, 2:]
    span_s[:, 1, 2] = n * row_bytes + places * LABEL_DIGITS_MAX
    whole_s = np.zeros((n, 3), np.int64)
    whole_s[:, 0] = position_n[:, 0]
    whole_s[:, 1] = position_n[:, 2] + position_n[:, 3] - position_n[:, 0]
    return ReadPlan(
        record_n=record_n,
        size_n=size_n,
        label_size_n=position_n[:, 3],
        span_s=span_s[row_s].reshape(2 * n, 3),
        whole_s=whole_s[row_s],
        row_s=row_s,
        parts=parts,
        row_bytes=row_bytes,
    )


def new_buffer(n_bytes: int) -> NDArray[np.uint8]:
    """Allocate a buffer in ordinary memory."""
    return np.empty(n_bytes, np.uint8)


def labels_in(plan: ReadPlan, buffer: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the labels (n,) that were read into the buffer; -1 where there is no number."""
    n = len(plan.record_n)
    low = n * plan.row_bytes
    digits = buffer[low : low + n * LABEL_DIGITS_MAX].reshape(n, LABEL_DIGITS_MAX)
    places = plan.label_size_n[:, None] - 1 - np.arange(LABEL_DIGITS_MAX)
    used = places >= 0
    values = digits.astype(np.int64) - ord("0")
    is_number = np.where(used, (values >= 0) & (values <= 9), True).all(1)
    is_number &= plan.label_size_n > 0
    total = np.where(used, values * _POWERS[np.maximum(places, 0)], 0).sum(1)
    return np.where(is_number, total, -1)


def label_text(plan: ReadPlan, buffer: NDArray[np.uint8], row: int) -> bytes:
    """Return the label of a row as it was read, for messages."""
    low = len(plan.record_n) * plan.row_bytes + row * LABEL_DIGITS_MAX
    return buffer[low : low + int(plan.label_size_n[row])].tobytes()


def read_spans(
    file: int, span_s: NDArray[np.int64], first: int, end: int, buffer: NDArray[np.uint8]
) -> tuple[int, int]:
    """Read the spans ``first`` to ``end`` (excluded) of an open file into the buffer.

    Returns ``end`` and 0, or the span that could not be read with the error number of the system,
    which is 0 if the file ends before the span does.
    """
    if _pread is not None:
        stopped, error = _pread.read_spans(file, span_s, first, end, buffer)
        return int(stopped), int(error)
    view = buffer.data
    for number in range(first, end):
        offset, size, place = span_s[number].tolist()
        done = 0
        while done < size:
            try:
                got = os.preadv(file, [view[place + done : place + size]], offset + done)
            except OSError as exc:
                return number, exc.errno or 0
            if not got:
                return number, 0
            done += got
    return end, 0


def will_need(file: int, span_s: NDArray[np.int64]) -> None:
    """Ask the system to read spans into its cache; returns at once."""
    if _pread is not None:
        _pread.will_need(file, span_s, 0, len(span_s))
        return
    for offset, size, _ in span_s.tolist():
        os.posix_fadvise(file, offset, size, os.POSIX_FADV_WILLNEED)
