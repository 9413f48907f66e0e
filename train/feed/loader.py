"""The loaders: batches of pixels, made ahead of the training step by a thread and DALI's own.

A batch is a pure function of (dataset, settings, seed, epoch, step). The global batch of a step is
a run of positions in the epoch order, and each process takes its rows of it: so the batches of a
run are the same for any number of processes and threads, and ``(epoch, step)`` is all that a
resumed run needs to know.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from train.config import InputConfig
from train.errors import ConfigError
from train.feed.augment import EpochDraws, epoch_draws, lighting_on
from train.feed.dataset import TrainingSet
from train.feed.feeder import Feeder, Job
from train.feed.inputs import eval_spec, graph_spec
from train.feed.order import epoch_order, listed_order, share_of
from train.feed.records import RecordReader
from train.feed.remote.shards import sequential
from train.feed.sink import Sink, record_stream


@dataclass(frozen=True, slots=True)
class Share:
    """Which data process this is."""

    rank: int
    """0 to ``size`` - 1, over all machines."""
    size: int

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size:
            raise ConfigError(f"rank {self.rank} of {self.size} processes")


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """This process's rows of a global batch."""

    images: torch.Tensor
    """(n, 3, crop, crop) of the type asked for; n may be 0."""
    labels_n: torch.Tensor
    """(n,) int64, on the device of the images."""
    record_n: NDArray[np.int64]
    """Indices of the records (n,)."""
    first_row: int
    """Rows of the global batch before these."""
    global_images: int
    """Rows of the global batch; fewer than ``batch_images`` at the end of an epoch."""


@dataclass(frozen=True, slots=True, eq=False)
class EvalBatch:
    """Some records, each with all its views."""

    images_v: list[torch.Tensor]
    """A tensor (n, 3, crop, crop) for each view."""
    labels_n: torch.Tensor
    """(n,) int64, on the device of the images."""
    record_n: NDArray[np.int64]
    """Indices of the records (n,)."""


@dataclass(frozen=True, slots=True, eq=False)
class Picked:
    """Some records as an epoch shows them to the network."""

    images: torch.Tensor
    """(n, 3, crop, crop) of the type asked for."""
    labels_n: torch.Tensor
    """(n,) int64."""
    draws: EpochDraws
    """What happened to each."""


class TrainLoader:
    """Augmented batches of the training split, in a new order each epoch."""

    def __init__(
        self,
        data: TrainingSet,
        config: InputConfig,
        share: Share,
        *,
        batch_images: int,
        seed: int,
        device: torch.device,
    ) -> None:
        """``batch_images`` counts the global batch.

        Raises:
            DataError: the shards do not fit their index.
            ConfigError: the crop is larger than the records.
        """
        self._data, self._config, self._share = data, config, share
        self._batch_images, self._seed = batch_images, seed
        self._reader = RecordReader(data, "train", config)
        most = max(1, -(-batch_images // share.size))
        self._specs = {
            noise: graph_spec(data, config, batch_images=most, noise=noise)
            for noise in (False, True)
        }
        sink = Sink(config, device, views=1, pixel_sd=config.gaussian_sd)
        self._feeder = Feeder(self._reader, data.encoding, sink)

    @property
    def steps_per_epoch(self) -> int:
        """Global batches of an epoch, the short last one included; equal on every process."""
        return -(-len(self._reader) // self._batch_images)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from ``first_step`` on: one a step, in order.

        One epoch at a time: a new one ends the one before.

        Raises:
            DataError: a record cannot be read or decoded; says which.
        """
        spec = self._specs[lighting_on(self._config, epoch)]
        for pixels in self._feeder.run(spec, self._jobs(epoch, first_step)):
            record_stream([*pixels.images_v, pixels.labels_n])
            job = pixels.job
            yield Batch(
                images=pixels.images_v[0],
                labels_n=pixels.labels_n,
                record_n=job.record_n,
                first_row=job.first_row,
                global_images=job.global_images,
            )

    def pick(self, epoch: int, record_n: NDArray[np.int64]) -> Picked:
        """These records, up to ``batch_images`` of them, as they come in ``epoch``: the same pixels
        as in its batches, wherever in its order they lie. Ends an epoch under way.

        Raises:
            DataError: a record cannot be read or decoded; says which.
        """
        order = self.order(epoch)
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        job = Job(
            record_n=record_n,
            draws=self.draws(epoch).at(place[record_n]),
            first_row=0,
            global_images=len(record_n),
        )
        spec = self._specs[lighting_on(self._config, epoch)]
        (pixels,) = self._feeder.run(spec, iter([job]))
        record_stream([*pixels.images_v, pixels.labels_n])
        return Picked(pixels.images_v[0], pixels.labels_n, job.draws)

    def close(self) -> None:
        """Stop the threads and close the shards."""
        self._feeder.close()

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Record indices by position in ``epoch``."""
        sizes = self._reader.shard_records
        if not self._config.shuffle:
            return listed_order(sizes)
        window = self._config.window_shards
        return epoch_order(sizes, seed=self._seed, epoch=epoch, window_shards=window)

    def draws(self, epoch: int) -> EpochDraws:
        """The random choices of ``epoch`` by position."""
        n = len(self._reader)
        data = self._data
        return epoch_draws(self._config, data.pca, data.size_px, n, seed=self._seed, epoch=epoch)

    def _jobs(self, epoch: int, first_step: int) -> Iterator[Job]:
        order, draws = self.order(epoch), self.draws(epoch)
        if self._reader.is_remote:  # the next epoch's first shards come while this one ends
            rest = order[first_step * self._batch_images :]
            self._reader.expect(rest, self.order(epoch + 1))
        for start in range(first_step * self._batch_images, len(order), self._batch_images):
            rows = min(self._batch_images, len(order) - start)
            low, high = share_of(rows, self._share.rank, self._share.size)
            yield Job(
                record_n=order[start + low : start + high],
                draws=draws.rows(start + low, start + high),
                first_row=low,
                global_images=rows,
            )


class EvalLoader:
    """A split without augmentation: each record once over all processes, in record order."""

    def __init__(
        self,
        data: TrainingSet,
        config: InputConfig,
        share: Share,
        *,
        batch_images: int,
        device: torch.device,
        split: str = "val",
        views: Literal[1, 10] = 1,
    ) -> None:
        """``batch_images`` counts the records of a batch in this process.

        Raises:
            DataError: no such split, or its shards do not fit their index.
            ConfigError: the crop is larger than the records.
        """
        self._batch_images = batch_images
        self._spec = eval_spec(data, config, batch_images=batch_images, views=views)
        self._reader = RecordReader(data, split, sequential(config))
        self._first, self._end = share_of(len(self._reader), share.rank, share.size)
        sink = Sink(config, device, views=views, pixel_sd=0.0)
        self._feeder = Feeder(self._reader, data.encoding, sink)

    def __len__(self) -> int:
        return -(-(self._end - self._first) // self._batch_images)

    @property
    def records(self) -> int:
        """Records of the split, over all processes."""
        return len(self._reader)

    def __iter__(self) -> Iterator[EvalBatch]:
        return self.pick(np.arange(self._first, self._end))

    def pick(self, record_n: NDArray[np.int64]) -> Iterator[EvalBatch]:
        """Batches of the records listed, in that order. One iteration at a time."""
        for pixels in self._feeder.run(self._spec, self._jobs(record_n)):
            record_stream([*pixels.images_v, pixels.labels_n])
            yield EvalBatch(pixels.images_v, pixels.labels_n, pixels.job.record_n)

    def close(self) -> None:
        """Stop the threads and close the shards."""
        self._feeder.close()

    def _jobs(self, record_n: NDArray[np.int64]) -> Iterator[Job]:
        if self._reader.is_remote:
            self._reader.expect(record_n)
        low = (self._spec.size_px - self._spec.crop_px) // 2
        for start in range(0, len(record_n), self._batch_images):
            part = record_n[start : start + self._batch_images]
            yield Job(
                record_n=part,
                draws=EpochDraws.still(len(part), (low, low)),
                first_row=start,
                global_images=len(record_n),
            )
