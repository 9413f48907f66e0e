"""Makes batches in the calling thread: reads records, runs the graph, makes tensors.

While one batch is finished, the next ones are already being computed in DALI's threads. Requests of
several epochs may follow one another, also where their graphs differ.

Suffixes: ``n`` image in the batch, ``v`` view.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from train.errors import DataError
from train.feed.augment import EpochDraws
from train.feed.graph import QUEUED_RUNS, Graph, decode_error
from train.feed.graph_spec import FeedBatch, GraphSpec
from train.feed.records import RecordReader
from train.feed.sink import Sink
from train.feed.spans import ReadPlan, RecordBatch

READ_AHEAD_BATCHES = 4
"""Batches whose records the system is asked to load before they are read."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class BatchRequest:
    """One batch to compute, and its place in the global batch."""

    spec: GraphSpec
    """The graph that computes it. Requests that follow one another usually share the object."""
    record_n: NDArray[np.int64]
    draws: EpochDraws
    stream: tuple[int, int] = (0, 0)
    """Seed and epoch of the draws, if crops are random."""
    first_row: int
    global_images: int
    expects: tuple[NDArray[np.int64], ...] = ()
    """Orders to announce to the reader before this batch is read, to download their shards."""


@dataclass(frozen=True, slots=True, eq=False)
class FinishedBatch:
    """A finished batch."""

    request: BatchRequest
    draws: EpochDraws
    """Those of the request, with the crops of rectangles in their places."""
    images_v: list[torch.Tensor]
    """(n, 3, crop, crop) for each view."""
    labels_n: torch.Tensor
    """(n,) int64."""


@dataclass(frozen=True, slots=True, eq=False)
class _InFlight:
    """A batch that the graph is computing."""

    request: BatchRequest
    records: RecordBatch
    draws: EpochDraws

    @property
    def input(self) -> FeedBatch:
        """What the graph gets."""
        request = self.request
        return FeedBatch(records=self.records, draws=request.draws, stream=request.stream)


class BatchMaker:
    """Computes requested batches in order. Only one thread at a time may use it."""

    def __init__(self, reader: RecordReader, sink: Sink) -> None:
        self._reader, self._sink = reader, sink
        self._graph: Graph | None = None
        self._in_flight: deque[_InFlight] = deque()
        self._buffers: list[NDArray[np.uint8]] = []
        """Buffers that no batch uses."""

    def make(self, requests: Iterator[BatchRequest]) -> Generator[FinishedBatch, None, None]:
        """Yield the finished batches. All batches before one that cannot be made are yielded.

        The graph is kept for later requests with the same ``spec`` object.

        Raises:
            DataError: a record cannot be read or decoded; the message names it.
        """
        try:
            for request, plan in _with_read_ahead(requests, self._reader):
                if self._graph is None or self._graph.spec is not request.spec:
                    yield from self._rest(keep=0)
                    self._graph = None  # free the old graph first
                    self._graph = Graph(request.spec, *self._sink.graph_device)
                yield from self._submit(self._graph, request, plan)
                yield from self._rest(keep=QUEUED_RUNS)
            yield from self._rest(keep=0)
        finally:
            self._discard()

    def close(self) -> None:
        """Free the graph and the buffers."""
        self._graph = None
        self._buffers.clear()

    def _submit(
        self, graph: Graph, request: BatchRequest, plan: ReadPlan
    ) -> Iterator[FinishedBatch]:
        """Start a batch; if that fails, yield those before it first."""
        try:
            if request.expects:
                self._reader.expect(*request.expects)
            records = self._reader.read_batch(plan, self._buffer)
            batch = self._started(graph, _InFlight(request, records, request.draws))
        except DataError:
            yield from self._rest(keep=0)
            raise
        except RuntimeError as exc:
            yield from self._one_by_one(exc)
        else:
            self._in_flight.append(batch)

    def _started(self, graph: Graph, batch: _InFlight) -> _InFlight:
        if not len(batch.records):
            return batch
        try:
            return replace(batch, draws=graph.submit(batch.input))
        except DataError as exc:
            raise self._named(batch, exc) from exc

    def _rest(self, keep: int) -> Iterator[FinishedBatch]:
        """Finish batches until only ``keep`` are left in DALI."""
        while len(self._in_flight) > keep:
            batch, views = self._in_flight[0], []
            if len(batch.records):
                assert self._graph is not None
                try:
                    views = self._graph.collect()
                except RuntimeError as exc:
                    yield from self._one_by_one(exc)
            self._in_flight.popleft()
            yield self._finished(batch, views)

    def _finished(self, batch: _InFlight, views: list[object]) -> FinishedBatch:
        labels_n, seeds = batch.records.labels_n, batch.request.draws.pixel_seed
        images_v, labels = self._sink.tensors(views, labels_n, seeds)
        self._buffers.append(batch.records.buffer)
        return FinishedBatch(batch.request, batch.draws, images_v, labels)

    def _one_by_one(self, error: RuntimeError) -> Iterator[FinishedBatch]:
        """After DALI has failed on some batch, yield those before it, and raise its error.

        A graph that has failed is unusable, and does not say which batch it failed on.
        """
        self._graph = None
        while self._in_flight:
            batch = self._in_flight.popleft()
            views = []
            try:
                if len(batch.records):
                    graph = Graph(batch.request.spec, *self._sink.graph_device)
                    graph.submit(batch.input)
                    views = graph.collect()
            except RuntimeError as exc:
                self._in_flight.clear()
                raise self._named(batch, exc) from exc
            yield self._finished(batch, views)
        raise DataError(f"DALI failed, although it can decode the records: {error}") from error

    def _named(self, batch: _InFlight, error: Exception) -> DataError:
        """Find the record on which the graph failed: DALI only knows its place in the batch."""
        spec = batch.request.spec
        numbers = batch.request.record_n.tolist() if spec.needs_decoder else []
        for row, index in enumerate(numbers):
            cause = decode_error(spec, batch.records.content(row))
            if cause:
                return DataError(
                    f"{self._reader.where(index)}: {cause}; run imgprep verify --decode"
                )
        return DataError(f"DALI failed, although every record of the batch decodes: {error}")

    def _buffer(self, n_bytes: int) -> NDArray[np.uint8]:
        """Return a buffer of at least ``n_bytes``, used before if one is large enough."""
        while self._buffers:
            buffer = self._buffers.pop()
            if len(buffer) >= n_bytes:
                return buffer
        assert self._graph is not None
        is_pixels = not self._graph.spec.needs_decoder
        # With some room, so that a slightly larger batch fits too.
        return self._sink.buffer(n_bytes + n_bytes // 4, for_transfer=is_pixels)

    def _discard(self) -> None:
        """Wait for the batches in DALI and drop them; free the graph if it has failed."""
        try:
            if self._graph is not None:
                self._graph.drain()
            self._buffers += [batch.records.buffer for batch in self._in_flight]
        except RuntimeError:
            self._graph = None
        self._in_flight.clear()


def _with_read_ahead(
    requests: Iterator[BatchRequest], reader: RecordReader
) -> Iterator[tuple[BatchRequest, ReadPlan]]:
    """Yield the requests; the system loads their records ``READ_AHEAD_BATCHES`` earlier."""
    waiting: deque[tuple[BatchRequest, ReadPlan]] = deque()
    for request in requests:
        plan = reader.plan(request.record_n)
        with contextlib.suppress(DataError):  # reading it later gives the error, at its place
            reader.prefetch(plan)
        waiting.append((request, plan))
        if len(waiting) > READ_AHEAD_BATCHES:
            yield waiting.popleft()
    yield from waiting
