"""Helpers for the tests of the input."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from train.config import InputConfig
from train.feed.augment import EpochDraws
from train.feed.dataset import TrainingSet, open_dataset
from train.feed.graph import Graph
from train.feed.graph_spec import FeedBatch, GraphSpec
from train.feed.loader import Batch, Share, TrainLoader
from train.feed.records import RecordReader
from train.feed.spans import RecordBatch, new_buffer

CPU = torch.device("cpu")
SMALL = InputConfig(crop_px=32, threads=2, lighting="sqrt-eigenvalue", lighting_divide=True)
"""Small crops, for tests that look at the order and not at the pixels."""


@contextmanager
def loading(
    data: TrainingSet,
    config: InputConfig = SMALL,
    share: Share = Share(0, 1),  # noqa: B008  frozen
    *,
    batch_images: int = 32,
    seed: int = 7,
) -> Iterator[TrainLoader]:
    """Open a training loader on the CPU, and close it at the end."""
    loader = TrainLoader(data, config, share, batch_images=batch_images, seed=seed, device=CPU)
    try:
        yield loader
    finally:
        loader.close()


def through_graph(reader: RecordReader, spec: GraphSpec, draws: EpochDraws) -> NDArray[np.float64]:
    """Run the CPU graph on the first records: (n, 3, crop, crop)."""
    records = reader.read_batch(reader.plan(np.arange(len(draws))), new_buffer)
    graph = Graph(spec, "cpu", None)
    graph.submit(FeedBatch(records=records, draws=draws))
    (images,) = graph.collect()
    return np.asarray(images).astype(np.float64).transpose(0, 3, 1, 2)


def joined(batches: list[Batch]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Join the images (n, 3, crop, crop) and record indices (n,) of some batches."""
    images = np.concatenate([batch.images.float().numpy() for batch in batches])
    return images, np.concatenate([batch.record_n for batch in batches])


def copy_of(dataset: Path, dest: Path) -> Path:
    """Copy a dataset, to damage it."""
    shutil.copytree(dataset, dest)
    return dest


def overwrite(dataset: Path, record: int, offset: int, content: bytes) -> tuple[str, str]:
    """Overwrite bytes of training record ``record``; returns its shard's name and its key."""
    reader = RecordReader(open_dataset(dataset), "train")
    path, _, key = reader.where(record).partition(": ")
    start = int(reader._spans[record, 0])
    with Path(path).open("r+b") as shard:
        shard.seek(start + offset)
        shard.write(content)
        shard.flush()
        os.fsync(shard.fileno())
    return Path(path).name, key


def packed(files: list[bytes]) -> RecordBatch:
    """Put image files into one buffer, as the reader does."""
    sizes = np.array([len(file) for file in files])
    rows = np.full((len(files), sizes.max()), 255, np.uint8)
    for row, file in zip(rows, files, strict=True):
        row[: len(file)] = np.frombuffer(file, np.uint8)
    return RecordBatch(
        rows=rows, size_n=sizes, labels_n=np.zeros(len(files), np.int64), buffer=rows
    )
