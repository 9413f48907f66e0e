"""Pick a few records to show people: seeded, and of different classes where there are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from imgprep.order import shuffled
from train.feed.records import RecordReader

SEARCHED = 32
"""Records looked at for each that is wanted, to find one of a class that has none yet."""


def choose_records(reader: RecordReader, count: int, *, seed: int, name: str) -> NDArray[np.int64]:
    """A seeded sample of ``count`` records (fewer if there are not as many), in record order; of
    different classes as far as the first ``SEARCHED`` for each go. ``name``: which sample.

    Raises:
        DataError: a record cannot be read.
    """
    order = _of_few_shards(reader, SEARCHED * count, seed=seed, name=name)
    first: list[int] = []
    again: list[int] = []
    classes: set[int] = set()
    for record in order.tolist():
        if len(first) == count:
            break
        (read,) = reader.read([record])
        (again if read.label in classes else first).append(record)
        classes.add(read.label)
    return np.sort(np.array([*first, *again][:count], np.int64))


def sample_records(reader: RecordReader, count: int, *, seed: int, name: str) -> NDArray[np.int64]:
    """A seeded sample of ``count`` records (or all), in record order."""
    return np.sort(_of_few_shards(reader, count, seed=seed, name=name))


def _of_few_shards(reader: RecordReader, count: int, *, seed: int, name: str) -> NDArray[np.int64]:
    """``count`` records (or all) in seeded order, out of no more shards than hold them: a shard is
    a random sample of its split already, and may have to be downloaded whole."""
    starts = np.cumsum([0, *reader.shard_records])
    order = shuffled(len(reader.shard_records), seed=seed, name=f"{name}-shards")
    held = np.cumsum(np.asarray(reader.shard_records)[order])
    some = order[: 1 + np.searchsorted(held, count)]
    pool = np.concatenate([np.arange(starts[n], starts[n + 1]) for n in some.tolist()])
    return pool[shuffled(len(pool), seed=seed, name=name)][:count]
