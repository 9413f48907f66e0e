"""Choose a few records to show: a seeded sample, of different classes where possible."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from imgprep.order import shuffled
from train.feed.records import RecordReader

SEARCHED = 32
"""How many records are looked at per wanted one, to find classes not yet shown."""


def choose_records(reader: RecordReader, count: int, *, seed: int, name: str) -> NDArray[np.int64]:
    """Choose a seeded sample of ``count`` records (or all, if there are fewer), in record order.

    The records are of different classes if ``SEARCHED * count`` records hold enough classes.
    ``name`` is the name of the sample's random stream.

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
    """Draw a seeded sample of ``count`` records (or all), in record order."""
    return np.sort(_of_few_shards(reader, count, seed=seed, name=name))


def _of_few_shards(reader: RecordReader, count: int, *, seed: int, name: str) -> NDArray[np.int64]:
    """Draw ``count`` records (or all) in seeded order from as few shards as hold them.

    A shard is a random sample of its split already, and may have to be downloaded whole.
    """
    starts = np.cumsum([0, *reader.shard_records])
    order = shuffled(len(reader.shard_records), seed=seed, name=f"{name}-shards")
    held = np.cumsum(np.asarray(reader.shard_records)[order])
    some = order[: 1 + np.searchsorted(held, count)]
    pool = np.concatenate([np.arange(starts[n], starts[n + 1]) for n in some.tolist()])
    return pool[shuffled(len(pool), seed=seed, name=name)][:count]
