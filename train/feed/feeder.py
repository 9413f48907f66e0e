"""A thread that reads records, feeds the graph and delivers tensors, a few batches ahead.

Suffixes: ``n`` image in the batch, ``v`` view.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from train.errors import DataError
from train.feed.augment import EpochDraws
from train.feed.graph import QUEUED_RUNS, Graph, decode_error
from train.feed.graph_spec import FeedBatch, GraphSpec
from train.feed.records import Record, RecordReader
from train.feed.sink import Sink

READY_BATCHES = 2
"""Finished batches that may wait for the training step."""
STOP_POLL_S = 0.1
"""How often a thread that waits for room in the queue checks whether it should end."""
READ_AHEAD_BATCHES = 4
"""Batches whose records the system is asked to load before they are read."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class BatchRequest:
    """One batch to compute, and its place in the global batch."""

    record_n: NDArray[np.int64]
    draws: EpochDraws
    first_row: int
    global_images: int


@dataclass(frozen=True, slots=True, eq=False)
class FinishedBatch:
    """A finished batch."""

    request: BatchRequest
    images_v: list[torch.Tensor]
    """(n, 3, crop, crop) for each view."""
    labels_n: torch.Tensor
    """(n,) int64."""


@dataclass(frozen=True, slots=True, eq=False)
class _InFlight:
    """A batch that the graph is computing."""

    request: BatchRequest
    records: list[Record]


_QueueItem: TypeAlias = FinishedBatch | BaseException | None
"""What the thread delivers: a batch, an error, or None at the end."""


class Feeder:
    """Computes requested batches in order, in its own thread. For use by one thread."""

    def __init__(self, reader: RecordReader, encoding: str, sink: Sink) -> None:
        self._reader, self._encoding, self._sink = reader, encoding, sink
        self._graph: Graph | None = None
        self._spec: GraphSpec | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        reader.stop_when(lambda: not self._should_run())

    def run(self, spec: GraphSpec, requests: Iterator[BatchRequest]) -> Iterator[FinishedBatch]:
        """Yield finished batches in order; a later call of ``run`` ends this one.

        The graph is kept for the next run with the same ``spec`` object.

        Raises:
            DataError: a record cannot be read or decoded.
        """
        self.stop()
        self._stop.clear()
        ready: queue.Queue[_QueueItem] = queue.Queue(maxsize=READY_BATCHES)
        # Not a daemon thread: killed inside DALI as the process ends, it would crash the process.
        thread = threading.Thread(
            target=self._work, args=(spec, requests, ready), name="imgprep-feeder", daemon=False
        )
        self._thread = thread
        thread.start()
        try:
            while self._thread is thread and (item := ready.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            if self._thread is thread:
                self.stop()

    def stop(self) -> None:
        """End the thread and wait for it; finished batches in the queue are discarded."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def close(self) -> None:
        """Stop, free the graph and close the shards."""
        self.stop()
        self._graph = self._spec = None
        self._reader.close()

    def _should_run(self) -> bool:
        """Whether the thread should continue: not stopped, and the process is not ending."""
        return not self._stop.is_set() and threading.main_thread().is_alive()

    def _work(
        self, spec: GraphSpec, requests: Iterator[BatchRequest], ready: queue.Queue[_QueueItem]
    ) -> None:
        """Run in the thread."""
        in_flight: deque[_InFlight] = deque()
        try:
            graph = self._graph_for(spec)
            for request in _with_read_ahead(requests, self._reader):
                if not self._should_run():
                    break
                self._submit(graph, request, in_flight)
                while len(in_flight) > QUEUED_RUNS:
                    self._put(ready, self._collect(graph, in_flight))
            while in_flight and self._should_run():
                self._put(ready, self._collect(graph, in_flight))
            graph.drain()
            self._put(ready, None)
        except BaseException as exc:  # the training thread raises it, whatever it is
            self._graph = self._spec = None  # after an error DALI's pipeline is unusable
            self._put(ready, exc)

    def _put(self, ready: queue.Queue[_QueueItem], item: _QueueItem) -> None:
        while self._should_run():
            with contextlib.suppress(queue.Full):
                ready.put(item, timeout=STOP_POLL_S)
                return

    def _graph_for(self, spec: GraphSpec) -> Graph:
        if self._graph is None or self._spec is not spec:
            self._graph = None  # free the old graph first
            self._graph, self._spec = Graph(spec, *self._sink.graph_device), spec
        return self._graph

    def _submit(self, graph: Graph, request: BatchRequest, in_flight: deque[_InFlight]) -> None:
        batch = _InFlight(request, self._reader.read(request.record_n))
        in_flight.append(batch)
        if not batch.records:
            return
        try:
            graph.submit(FeedBatch(records=[r.content for r in batch.records], draws=request.draws))
        except (RuntimeError, DataError) as exc:
            raise self._error_of_bad_record(in_flight, exc) from exc

    def _collect(self, graph: Graph, in_flight: deque[_InFlight]) -> FinishedBatch:
        batch = in_flight[0]
        views = []
        if batch.records:
            try:
                views = graph.collect()
            except RuntimeError as exc:
                raise self._error_of_bad_record(in_flight, exc) from exc
        in_flight.popleft()
        labels_n = np.array([record.label for record in batch.records], np.int64)
        images_v, labels = self._sink.tensors(views, labels_n, batch.request.draws.pixel_seed)
        return FinishedBatch(batch.request, images_v, labels)

    def _error_of_bad_record(self, in_flight: deque[_InFlight], error: Exception) -> DataError:
        """Find the record on which the graph failed: DALI only knows its place in the batch."""
        assert self._spec is not None
        for batch in in_flight:
            for index, record in zip(batch.request.record_n, batch.records, strict=True):
                cause = decode_error(record.content, self._encoding, self._spec.size_px)
                if cause:
                    return DataError(
                        f"{self._reader.where(int(index))}: {cause}; run imgprep verify --decode"
                    )
        return DataError(f"DALI failed, although every record of the batch decodes: {error}")


def _with_read_ahead(
    requests: Iterator[BatchRequest], reader: RecordReader
) -> Iterator[BatchRequest]:
    """Yield the requests; the system loads their records ``READ_AHEAD_BATCHES`` earlier."""
    waiting: deque[BatchRequest] = deque()
    for request in requests:
        reader.prefetch(request.record_n)
        waiting.append(request)
        if len(waiting) > READ_AHEAD_BATCHES:
            yield waiting.popleft()
    yield from waiting
