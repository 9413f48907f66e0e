"""A few photographs of a dataset, as pixels and as a network sees them at test time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from train.config import InputConfig
from train.errors import DataError
from train.feed.dataset import TrainingSet
from train.feed.loader import EvalLoader, Share
from train.feed.records import RecordReader
from train.feed.remote.shards import sequential
from train.show.choose import sample_records
from train.show.stored import central_crop

BATCH = 64
SEARCHED = 10_000
"""Records that are looked at to find enough of each class."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Sample:
    """Photographs of one split, in the order of their records."""

    record_n: NDArray[np.int64]
    labels_n: NDArray[np.int64]
    photographs: tuple[NDArray[np.uint8], ...]
    """Central crops (px, px, 3) of the stored records."""

    def __len__(self) -> int:
        return len(self.record_n)


def sample(
    data: TrainingSet,
    config: InputConfig,
    split: str,
    count: int,
    *,
    seed: int,
    classes: int | None = None,
) -> Sample:
    """Draw a seeded sample of ``count`` records of a split, or all if there are fewer.

    With ``classes`` the records are of that many classes at most: those with the most records among
    ``SEARCHED``.

    Raises:
        DataError: the split has no records, or a record cannot be read.
        ConfigError: the crop is larger than the records.
    """
    if not data.records(split):
        raise DataError(f"{data.location}: split {split!r} has no records")
    reader = RecordReader(data, split, sequential(config))
    try:
        wanted = count if classes is None else max(count, SEARCHED)
        record_n = sample_records(reader, wanted, seed=seed, name="paper")
        if classes is not None:
            record_n = record_n[
                _of_frequent_classes(_labels(reader, record_n), classes, count, seed)
            ]
        found = [central_crop(data, reader, n, config.crop_px) for n in record_n.tolist()]
    finally:
        reader.close()
    return Sample(
        record_n=record_n,
        labels_n=np.array([label for label, _ in found], np.int64),
        photographs=tuple(picture for _, picture in found),
    )


def _labels(reader: RecordReader, record_n: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.array([reader.read([number])[0].label for number in record_n.tolist()], np.int64)


def _of_frequent_classes(
    labels_n: NDArray[np.int64], classes: int, count: int, seed: int
) -> NDArray[np.int64]:
    """Return places of up to ``count`` records, all of the most frequent ``classes``, in order."""
    sizes = np.bincount(labels_n)
    frequent = np.argsort(-sizes, kind="stable")[:classes]
    places = np.flatnonzero(np.isin(labels_n, frequent))
    return np.sort(np.random.default_rng(seed).permutation(places)[:count])


def network_batches(
    data: TrainingSet, config: InputConfig, split: str, taken: Sample, device: torch.device
) -> Iterator[Tensor]:
    """Yield the sample as a network sees it: batches (n, 3, px, px), float32, in its order.

    Raises:
        DataError: a record cannot be read or decoded.
    """
    loader = EvalLoader(data, config, Share(0, 1), batch_images=BATCH, device=device, split=split)
    try:
        for batch in loader.pick(taken.record_n):
            yield batch.images_v[0].float()
    finally:
        loader.close()
