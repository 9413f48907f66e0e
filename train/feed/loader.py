"""The loaders: batches of image tensors, computed ahead of the training step in other threads.

A batch is a pure function of (dataset, settings, seed, epoch, step). The global batch of a step is
a range of positions in the epoch order, and each process takes its rows of it. So the batches are
the same for any number of processes and threads, and a resumed run only needs ``(epoch, step)``.
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
from train.feed.feeder import FeedCounters, Feeder, Stream
from train.feed.graph_spec import GraphSpec, eval_spec, graph_spec, with_threads
from train.feed.maker import BatchRequest, FinishedBatch
from train.feed.order import epoch_order, share_of, stored_order
from train.feed.plan import EpochPlan, EpochPlanner
from train.feed.records import RecordReader
from train.feed.remote.shards import sequential
from train.feed.sink import Sink, record_stream


@dataclass(frozen=True, slots=True)
class Share:
    """The share of one data process: its rank, and how many there are."""

    rank: int
    """0 to ``size`` - 1, over all machines."""
    size: int

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size:
            raise ConfigError(f"rank must be from 0 to {self.size - 1}; got {self.rank}")


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """The rows of a global batch that belong to this process."""

    images: torch.Tensor
    """(n, 3, crop, crop) of the type in the settings; n may be 0."""
    labels_n: torch.Tensor
    """(n,) int64, on the device of the images."""
    record_n: NDArray[np.int64]
    """Indices of the records (n,)."""
    first_row: int
    """Rows of the global batch before these."""
    global_images: int
    """Rows of the global batch; the last batch of an epoch may have fewer than the others."""


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
    """(n, 3, crop, crop) of the type in the settings."""
    labels_n: torch.Tensor
    """(n,) int64."""
    draws: EpochDraws
    """The random choices for each."""


class TrainLoader:
    """Batches of a split, usually augmented and in a new order each epoch."""

    def __init__(
        self,
        data: TrainingSet,
        config: InputConfig,
        share: Share,
        *,
        batch_images: int,
        seed: int,
        device: torch.device,
        split: str = "train",
    ) -> None:
        """``batch_images`` counts the global batch.

        Raises:
            DataError: the shards do not fit their index.
            ConfigError: the crop is larger than the records.
        """
        config = with_threads(config, device.type)
        self._data, self._config, self._share = data, config, share
        self._reader, self._seed = RecordReader(data, split, config), seed
        self._batch_images = max(1, min(batch_images, len(self._reader)))
        most = -(-self._batch_images // share.size)
        self._specs = {
            lighting: graph_spec(data, config, batch_images=most, lighting=lighting)
            for lighting in (False, True)
        }
        sink = Sink(config, device, views=1, pixel_sd=config.gaussian_sd)
        self._feeder = Feeder(self._reader, sink)
        self._planner = EpochPlanner(self._plan)
        self._stream: Stream | None = None
        self._turn: object = None
        """The newest iteration: only it may take from the stream."""
        self._next = (0, 0)
        """Epoch and step of the next batch of the stream."""

    @property
    def counters(self) -> FeedCounters:
        """What the feeding thread has done so far."""
        return self._feeder.counters

    @property
    def ready(self) -> int:
        """Finished batches that wait for the training step."""
        return self._feeder.ready

    @property
    def steps_per_epoch(self) -> int:
        """Global batches of an epoch, including a short last one; equal on every process."""
        return -(-len(self._reader) // self._batch_images)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from ``first_step`` on: one per step, in order.

        Only one epoch at a time: a new one ends the previous one. When an epoch is complete, the
        first batches of the next one are computed, as many as there is room for, and wait; an
        epoch that is abandoned earlier, or fails, stops the computation.

        Raises:
            DataError: a record cannot be read or decoded; the message names it.
        """
        steps = self.steps_per_epoch
        if first_step >= steps:
            return
        stream = self._stream_from(epoch, first_step)
        self._turn = turn = object()  # an epoch that is complete leaves its stream to the next one
        try:
            for step in range(first_step, steps):
                finished = stream.take() if self._turn is turn else None
                if finished is None:
                    return
                self._next = (epoch, step + 1) if step + 1 < steps else (epoch + 1, 0)
                yield _train_batch(finished)
        finally:
            if self._turn is turn and self._next != (epoch + 1, 0):
                self._feeder.stop(stream)

    def pick(self, epoch: int, record_n: NDArray[np.int64]) -> Picked:
        """Return up to ``batch_images`` given records with the pixels that they have in the batches
        of ``epoch``, wherever they are in its order. Ends a running epoch.

        Raises:
            DataError: a record cannot be read or decoded; the message names it.
        """
        order = self.order(epoch)
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        request = BatchRequest(
            spec=self._spec(epoch),
            record_n=record_n,
            draws=self.draws(epoch).take(place[record_n]),
            stream=(self._seed, epoch),
            first_row=0,
            global_images=len(record_n),
        )
        (finished,) = self._feeder.run(iter([request]))
        record_stream([*finished.images_v, finished.labels_n])
        return Picked(finished.images_v[0], finished.labels_n, finished.draws)

    def close(self) -> None:
        """Stop the threads and close the shards."""
        self._feeder.close()
        self._planner.close()

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Return the record indices by position in ``epoch``."""
        sizes = self._reader.shard_records
        if not self._config.shuffle:
            return stored_order(sizes)
        window = self._config.window_shards
        return epoch_order(sizes, seed=self._seed, epoch=epoch, window_shards=window)

    def draws(self, epoch: int) -> EpochDraws:
        """Return the random choices of ``epoch`` by position."""
        n = len(self._reader)
        data = self._data
        return epoch_draws(self._config, data.pca, data.size_px, n, seed=self._seed, epoch=epoch)

    def _spec(self, epoch: int) -> GraphSpec:
        return self._specs[lighting_on(self._config, epoch)]

    def _plan(self, epoch: int) -> EpochPlan:
        return EpochPlan(epoch, self.order(epoch), self.draws(epoch))

    def _stream_from(self, epoch: int, step: int) -> Stream:
        """Return a stream whose next batch is that of ``step``: the present one if it is so far."""
        stream = self._stream
        if stream is None or stream.ended or self._next != (epoch, step):
            stream = self._stream = self._feeder.start(self._requests(epoch, step))
            self._next = (epoch, step)
        return stream

    def _requests(self, epoch: int, first_step: int) -> Iterator[BatchRequest]:
        """Yield the requests of an epoch from a step on, then those of all epochs after it."""
        for plan in self._planner.plans(epoch):
            yield from self._requests_of(plan, first_step)
            first_step = 0

    def _requests_of(self, plan: EpochPlan, first_step: int) -> Iterator[BatchRequest]:
        order_n, spec = plan.order_n, self._spec(plan.epoch)
        expects: tuple[NDArray[np.int64], ...] = ()
        if self._reader.is_remote:  # so that the next epoch's first shards come while this ends
            expects = (order_n[first_step * self._batch_images :], self.order(plan.epoch + 1))
        for start in range(first_step * self._batch_images, len(order_n), self._batch_images):
            rows = min(self._batch_images, len(order_n) - start)
            low, high = share_of(rows, self._share.rank, self._share.size)
            yield BatchRequest(
                spec=spec,
                record_n=order_n[start + low : start + high],
                draws=plan.draws.rows(start + low, start + high),
                stream=(self._seed, plan.epoch),
                first_row=low,
                global_images=rows,
                expects=expects,
            )
            expects = ()


def _train_batch(finished: FinishedBatch) -> Batch:
    record_stream([*finished.images_v, finished.labels_n])
    request = finished.request
    return Batch(
        images=finished.images_v[0],
        labels_n=finished.labels_n,
        record_n=request.record_n,
        first_row=request.first_row,
        global_images=request.global_images,
    )


class EvalLoader:
    """A split without augmentation: each record once over all processes, in stored order."""

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
        config = with_threads(config, device.type)
        self._reader = RecordReader(data, split, sequential(config))
        self._batch_images = max(1, min(batch_images, len(self._reader)))
        self._spec = eval_spec(data, config, batch_images=self._batch_images, views=views)
        self._first, self._end = share_of(len(self._reader), share.rank, share.size)
        sink = Sink(config, device, views=views, pixel_sd=0.0)
        self._feeder = Feeder(self._reader, sink)

    def __len__(self) -> int:
        return -(-(self._end - self._first) // self._batch_images)

    @property
    def records(self) -> int:
        """Number of records of the split, over all processes."""
        return len(self._reader)

    def __iter__(self) -> Iterator[EvalBatch]:
        return self.pick(np.arange(self._first, self._end))

    def pick(self, record_n: NDArray[np.int64]) -> Iterator[EvalBatch]:
        """Yield batches of the given records, in that order. Only one iteration at a time."""
        for finished in self._feeder.run(self._requests(record_n)):
            record_stream([*finished.images_v, finished.labels_n])
            yield EvalBatch(finished.images_v, finished.labels_n, finished.request.record_n)

    def close(self) -> None:
        """Stop the threads and close the shards."""
        self._feeder.close()

    def _requests(self, record_n: NDArray[np.int64]) -> Iterator[BatchRequest]:
        expects = (record_n,) if self._reader.is_remote else ()
        low = (self._spec.size_px - self._spec.crop_px) // 2
        for start in range(0, len(record_n), self._batch_images):
            part = record_n[start : start + self._batch_images]
            yield BatchRequest(
                spec=self._spec,
                record_n=part,
                draws=EpochDraws.fixed(len(part), (low, low)),
                first_row=start,
                global_images=len(record_n),
                expects=expects,
            )
            expects = ()
