"""A thread that makes batches ahead of the training step, and hands them over in order."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from train.errors import TrainError
from train.feed.maker import BatchMaker, BatchRequest, FinishedBatch
from train.feed.records import RecordReader
from train.feed.sink import Sink

READY_BATCHES = 2
"""Finished batches that may wait for the training step."""
ALIVE_POLL_S = 1.0
"""How often the training step, while it waits for a batch, checks whether the thread is alive."""
STOP_POLL_S = 0.1
"""How often a thread that waits for room in the queue checks whether it should end."""

_QueueItem: TypeAlias = FinishedBatch | BaseException | None
"""What the thread delivers: a batch, an error, or None at the end."""


@dataclass(slots=True)
class FeedCounters:
    """What a feeder has done so far."""

    threads: int = 0
    """Threads started: one for each stream of batches."""
    batches: int = 0
    """Batches handed over."""
    waits: int = 0
    """Batches that were not ready when they were asked for."""
    cpu_seconds: float = 0.0
    """Processor time of the threads that have ended, without DALI's own threads."""


class Stream:
    """The batches of one thread, in order. For use by one thread."""

    def __init__(self, counters: FeedCounters) -> None:
        self.thread: threading.Thread | None = None
        """The thread that makes the batches."""
        self.ready: queue.Queue[_QueueItem] = queue.Queue(maxsize=READY_BATCHES)
        self.ended = False
        """Whether the feeder has stopped it; its batches are discarded."""
        self._counters = counters

    def take(self) -> FinishedBatch | None:
        """Wait for the next batch; None after the last, or if the stream has been stopped.

        Raises:
            DataError: a record cannot be read or decoded. The stream is then at its end.
            TrainError: the thread that makes the batches is gone.
        """
        if self.ended:
            return None
        self._counters.waits += self.ready.empty()
        item = self._next_item()
        if isinstance(item, FinishedBatch):
            self._counters.batches += 1
            return item
        self.ended = True
        if item is not None:
            raise item
        return None

    def _next_item(self) -> _QueueItem:
        """Wait for the thread, but not for one that has ended."""
        while True:
            works = self.thread is not None and self.thread.is_alive()
            with contextlib.suppress(queue.Empty):
                return self.ready.get(timeout=ALIVE_POLL_S) if works else self.ready.get_nowait()
            if not works:
                self.ended = True
                raise TrainError(
                    "the thread that makes the batches is gone, because the main thread has ended "
                    "or this process was forked: keep the main thread, or start the process by "
                    "spawn"
                )


class Feeder:
    """Makes streams of batches, one at a time. For use by one thread."""

    def __init__(self, reader: RecordReader, sink: Sink) -> None:
        self._reader, self._maker = reader, BatchMaker(reader, sink)
        self._stop = threading.Event()
        self._stream: Stream | None = None
        self.counters = FeedCounters()
        reader.stop_when(lambda: not self._should_run())

    @property
    def ready(self) -> int:
        """Finished batches that wait to be taken."""
        return 0 if self._stream is None or self._stream.ended else self._stream.ready.qsize()

    def start(self, requests: Iterator[BatchRequest]) -> Stream:
        """Stop the stream before it, and start to make these batches, as far as there is room."""
        self.stop()
        self._stop.clear()
        self._stream = stream = Stream(self.counters)
        # Not a daemon thread: killed inside DALI as the process ends, it would crash the process.
        stream.thread = threading.Thread(
            target=self._work, args=(requests, stream.ready), name="imgprep-feeder", daemon=False
        )
        self.counters.threads += 1
        stream.thread.start()
        return stream

    def run(self, requests: Iterator[BatchRequest]) -> Iterator[FinishedBatch]:
        """Yield a stream's batches; abandoning the iteration stops it.

        Raises:
            DataError: as ``Stream.take``.
        """
        stream = self.start(requests)
        try:
            while (batch := stream.take()) is not None:
                yield batch
        finally:
            self.stop(stream)

    def stop(self, stream: Stream | None = None) -> None:
        """Stop the thread and wait for it; its batches are discarded.

        With ``stream``, only if that is the present one.
        """
        if self._stream is None or stream not in (None, self._stream):
            return
        self._stream.ended = True
        self._stop.set()
        if self._stream.thread is not None:
            self._stream.thread.join()
        self._stream = None

    def close(self) -> None:
        """Stop, free the graph and close the shards."""
        self.stop()
        self._maker.close()
        self._reader.close()

    def _should_run(self) -> bool:
        """Whether the thread should continue: not stopped, and the process is not ending."""
        return not self._stop.is_set() and threading.main_thread().is_alive()

    def _work(self, requests: Iterator[BatchRequest], ready: queue.Queue[_QueueItem]) -> None:
        """Run in the thread."""
        try:
            with contextlib.closing(self._maker.make(requests)) as batches:
                for batch in batches:
                    self._put(ready, batch)
                    if not self._should_run():
                        return
            self._put(ready, None)
        except BaseException as exc:  # the training thread raises it, whatever it is
            self._put(ready, exc)
        finally:
            self.counters.cpu_seconds += time.thread_time()

    def _put(self, ready: queue.Queue[_QueueItem], item: _QueueItem) -> None:
        while self._should_run():
            with contextlib.suppress(queue.Full):
                ready.put(item, timeout=STOP_POLL_S)
                return
