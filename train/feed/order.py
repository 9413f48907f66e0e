"""The order of an epoch: a pure function of shard sizes, seed, epoch and window.

The records of a shard are already a random sample of the split. An epoch permutes the shards, then
mixes the records of ``window_shards`` neighbours with each other: disk reads stay in a few files,
and a batch draws from ``window_shards`` shards. World size, batch size and threads do not matter.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from imgprep.order import shuffled, stream_key


def epoch_order(
    shard_records: Sequence[int], *, seed: int, epoch: int, window_shards: int
) -> NDArray[np.int64]:
    """Permute the records of a split: int64 ``(sum(shard_records),)``.

    Record indices count through the shards in order. Two random streams of the epoch permute the
    shards and mix the records.
    """
    name = f"epoch-order:{epoch}"
    sizes = np.asarray(shard_records, dtype=np.int64)
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
    shards = shuffled(len(sizes), seed=seed, name=f"{name}:shards")
    words = np.random.Philox(key=stream_key(seed, f"{name}:records")).random_raw(int(starts[-1]))
    windows = []
    for first in range(0, len(shards), window_shards):
        records = np.concatenate(
            [np.arange(starts[s], starts[s + 1]) for s in shards[first : first + window_shards]]
        )
        windows.append(records[np.argsort(words[records], kind="stable")])
    return np.concatenate([np.zeros(0, np.int64), *windows])


def stored_order(shard_records: Sequence[int]) -> NDArray[np.int64]:
    """Return the stored order, the same in every epoch, as in the 2012 source."""
    return np.arange(sum(shard_records), dtype=np.int64)


def share_of(rows: int, rank: int, size: int) -> tuple[int, int]:
    """Return the first row and the end of the rows of process ``rank`` of ``size``; may be empty.

    The shares of all ranks are disjoint, in order, and cover the rows; sizes differ by at most 1.
    """
    return rows * rank // size, rows * (rank + 1) // size
