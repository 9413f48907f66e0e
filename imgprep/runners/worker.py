"""The worker's end of a pipe: do the tasks that arrive through it and report on them.

A task has two parts: the work itself, and a publication that waits for the disk. A worker
publishes one task while it works on the next.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Generic, TypeVar

from imgprep.errors import BuildError, ImgprepError, MemoryLimitError, is_out_of_memory
from imgprep.runners.runner import Progress, Work, WorkerStoppedError

R = TypeVar("R")

REPORT_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Ready:
    """The worker can take another task."""


@dataclass(frozen=True, slots=True)
class Result(Generic[R]):
    """What a task returned, published."""

    value: R


@dataclass(frozen=True, slots=True)
class Failure:
    """What a task raised."""

    error: ImgprepError


def serve(conn: Connection, work: Work[Any, Any, Any], setup: object) -> None:
    """Do the tasks that arrive through the pipe, and report through it, until it closes."""
    with ThreadPoolExecutor(1) as publisher, suppress(EOFError, OSError, WorkerStoppedError):
        _Server(conn, work, setup, publisher).run()


@dataclass(slots=True)
class _Server:
    conn: Connection
    work: Work[Any, Any, Any]
    setup: object
    publisher: ThreadPoolExecutor
    send_lock: threading.Lock = field(default_factory=threading.Lock)
    done: int = 0
    bad: list[object] = field(default_factory=list)
    reported_at: float = 0.0

    def run(self) -> None:
        publication: Future[None] | None = None
        while (task := self.conn.recv()) is not None:
            try:
                publish = self.work(task, self.setup, self.tick)
            except WorkerStoppedError:
                raise
            except Exception as exc:
                self.send(Failure(portable(exc, str(task))))
                continue
            if publication is not None:
                futures.wait([publication])  # at most one shard waits for the disk
            try:
                # Before the result: the parent stops listening after the last result.
                self.report()
            finally:  # even if the parent ended, a shard that is written gets its name
                publication = self.publisher.submit(self.publish, publish, str(task))
            self.send(Ready())

    def publish(self, publish: Callable[[], object], task: str) -> None:
        try:
            message: object = Result(publish())
        except Exception as exc:
            message = Failure(portable(exc, task))
        self.send(message)

    def tick(self, wrong: object) -> None:
        if wrong is None:
            self.done += 1
        else:
            self.bad.append(wrong)
        if time.monotonic() - self.reported_at >= REPORT_SECONDS:
            self.report()
            if self.conn.poll():  # during a task only the order to stop, or a closed pipe, arrives
                raise WorkerStoppedError

    def report(self) -> None:
        self.send(Progress(self.done, tuple(self.bad)))
        self.done = 0
        self.bad.clear()
        self.reported_at = time.monotonic()

    def send(self, message: object) -> None:
        try:
            with self.send_lock:
                self.conn.send(message)
        except OSError as exc:  # the parent closed the pipe
            raise WorkerStoppedError from exc


def portable(exc: Exception, task: str) -> ImgprepError:
    """The error as one that can be pickled and shown; an unexpected one keeps its traceback."""
    if isinstance(exc, ImgprepError):
        return type(exc)(*exc.args)
    if is_out_of_memory(exc):
        return MemoryLimitError.at(task)
    return BuildError("a worker failed unexpectedly:\n" + traceback.format_exc())
