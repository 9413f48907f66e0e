"""A thread that reads records, feeds the graph and hands over tensors, a few batches ahead.

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
from train.feed.inputs import FeedBatch, GraphSpec
from train.feed.records import Record, RecordReader
from train.feed.sink import Sink

READY_BATCHES = 2
"""Finished batches that may wait for the training step."""
STOP_POLL_S = 0.1
"""How often a thread that waits for room looks whether it should end."""
READ_AHEAD_BATCHES = 4
"""Batches whose records the system is asked to load before they are read."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Job:
    """One batch to be made, and its place in the global one."""

    record_n: NDArray[np.int64]
    draws: EpochDraws
    first_row: int
    global_images: int


@dataclass(frozen=True, slots=True, eq=False)
class Pixels:
    """A finished batch."""

    job: Job
    images_v: list[torch.Tensor]
    """(n, 3, crop, crop) for each view."""
    labels_n: torch.Tensor
    """(n,) int64."""


@dataclass(frozen=True, slots=True, eq=False)
class _Begun:
    """A batch that the graph works on."""

    job: Job
    records: list[Record]


_Item: TypeAlias = Pixels | BaseException | None
"""What the thread hands over: a batch, an error, or the end."""


class Feeder:
    """Runs jobs in order, in a thread of its own. To be used by one thread."""

    def __init__(self, reader: RecordReader, encoding: str, sink: Sink) -> None:
        self._reader, self._encoding, self._sink = reader, encoding, sink
        self._graph: Graph | None = None
        self._spec: GraphSpec | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        reader.watch(lambda: not self._going_on())

    def run(self, spec: GraphSpec, jobs: Iterator[Job]) -> Iterator[Pixels]:
        """Finished batches, in order; a run that goes on elsewhere ends.

        The graph is kept for the next run with the same ``spec`` object.

        Raises:
            DataError: a record cannot be read or decoded.
        """
        self.stop()
        self._stop.clear()
        ready: queue.Queue[_Item] = queue.Queue(maxsize=READY_BATCHES)
        # Not a daemon: one that dies inside DALI at the end of the process would take it along.
        thread = threading.Thread(
            target=self._work, args=(spec, jobs, ready), name="imgprep-feeder", daemon=False
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
        """End the thread and wait for it; what it had made ready is dropped."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def close(self) -> None:
        """Stop for good: drop the graph, close the shards."""
        self.stop()
        self._graph = self._spec = None
        self._reader.close()

    def _going_on(self) -> bool:
        """Nobody stopped this thread, and the process is not about to end."""
        return not self._stop.is_set() and threading.main_thread().is_alive()

    def _work(self, spec: GraphSpec, jobs: Iterator[Job], ready: queue.Queue[_Item]) -> None:
        """Body of the thread."""
        begun: deque[_Begun] = deque()
        try:
            graph = self._graph_for(spec)
            for job in _announced(jobs, self._reader):
                if not self._going_on():
                    break
                self._begin(graph, job, begun)
                while len(begun) > QUEUED_RUNS:
                    self._give(ready, self._finish(graph, begun))
            while begun and self._going_on():
                self._give(ready, self._finish(graph, begun))
            graph.drain()
            self._give(ready, None)
        except BaseException as exc:  # whatever it is, the training thread must hear of it
            self._graph = self._spec = None  # after an error DALI's pipeline is unusable
            self._give(ready, exc)

    def _give(self, ready: queue.Queue[_Item], item: _Item) -> None:
        while self._going_on():
            with contextlib.suppress(queue.Full):
                ready.put(item, timeout=STOP_POLL_S)
                return

    def _graph_for(self, spec: GraphSpec) -> Graph:
        if self._graph is None or self._spec is not spec:
            self._graph = None  # free the old one first
            self._graph, self._spec = Graph(spec, *self._sink.graph_device), spec
        return self._graph

    def _begin(self, graph: Graph, job: Job, begun: deque[_Begun]) -> None:
        batch = _Begun(job, self._reader.read(job.record_n))
        begun.append(batch)
        if not batch.records:
            return
        try:
            graph.submit(FeedBatch(records=[r.content for r in batch.records], draws=job.draws))
        except (RuntimeError, DataError) as exc:
            raise self._blame(begun, exc) from exc

    def _finish(self, graph: Graph, begun: deque[_Begun]) -> Pixels:
        batch = begun[0]
        views = []
        if batch.records:
            try:
                views = graph.collect()
            except RuntimeError as exc:
                raise self._blame(begun, exc) from exc
        begun.popleft()
        labels_n = np.array([record.label for record in batch.records], np.int64)
        images_v, labels = self._sink.tensors(views, labels_n, batch.job.draws.pixel_seed)
        return Pixels(batch.job, images_v, labels)

    def _blame(self, begun: deque[_Begun], error: Exception) -> DataError:
        """Find the record on which the graph failed: DALI only knows its place in the batch."""
        assert self._spec is not None
        for batch in begun:
            for index, record in zip(batch.job.record_n, batch.records, strict=True):
                cause = decode_error(record.content, self._encoding, self._spec.size_px)
                if cause:
                    return DataError(
                        f"{self._reader.where(int(index))}: {cause}; run imgprep verify --decode"
                    )
        return DataError(f"DALI failed on a batch whose records all decode: {error}")


def _announced(jobs: Iterator[Job], reader: RecordReader) -> Iterator[Job]:
    """The same jobs, whose records the system is told of ``READ_AHEAD_BATCHES`` earlier."""
    waiting: deque[Job] = deque()
    for job in jobs:
        reader.prefetch(job.record_n)
        waiting.append(job)
        if len(waiting) > READ_AHEAD_BATCHES:
            yield waiting.popleft()
    yield from waiting
