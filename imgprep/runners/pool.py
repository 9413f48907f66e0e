"""Worker processes that cannot be lost in silence.

Each worker is tied to the parent by one pipe. The parent hears at once when a worker dies, and a
worker ends at once when the parent does (its pipe closes), even after SIGKILL. A task has two
parts: the work itself, and a publication that waits for the disk; a worker publishes one task
while it works on the next.
"""

from __future__ import annotations

import multiprocessing
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from imgprep.errors import BuildError, ImgprepError, WorkerDiedError

T = TypeVar("T")
S = TypeVar("S")
R = TypeVar("R")
T_contra = TypeVar("T_contra", contravariant=True)
S_contra = TypeVar("S_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)

TICK_SECONDS = 0.1
STOP_SECONDS = 10.0


class StoppedError(Exception):
    """The parent asked this worker to stop, or is gone."""


Tick = Callable[[object], None]
"""Called after each image with what was wrong, or None; raises StoppedError to end the task."""


class Work(Protocol[T_contra, S_contra, R_co]):
    """A task function: does the work, returns the function that publishes it."""

    def __call__(self, task: T_contra, setup: S_contra, tick: Tick) -> Callable[[], R_co]: ...


@dataclass(frozen=True, slots=True)
class Progress:
    """Images that went well since the last message, and what was wrong with the others."""

    done: int
    bad: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class _Free:
    """The worker can take another task."""


@dataclass(frozen=True, slots=True)
class Result(Generic[R]):
    """What a task returned, published."""

    value: R


@dataclass(frozen=True, slots=True)
class Failure:
    """What a task raised."""

    error: ImgprepError


def _start_method() -> str:
    """``fork`` is quick and shares pages, but only a process of one thread may do it."""
    tasks = Path("/proc/self/task")
    threads = len(list(tasks.iterdir())) if tasks.is_dir() else 2
    return "fork" if threads == 1 else "spawn"


class _Pipes:
    """A worker's end of its pipe; a forked worker gives up the ends that are the parent's."""

    def __init__(self, theirs: Connection, parents: list[Connection]) -> None:
        self.conn = theirs
        self._parents = parents

    def __reduce__(self) -> tuple[Any, ...]:
        return _Pipes, (self.conn, [])  # spawned: nothing of the parent's was inherited

    def take(self) -> Connection:
        """The pipe: from now on it ends when the parent does."""
        for conn in self._parents:
            conn.close()
        return self.conn


def _serve(pipes: _Pipes, work: Work[Any, Any, Any], setup: object) -> None:
    """All that a worker process does."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    serve(pipes.take(), work, setup)


def serve(conn: Connection, work: Work[Any, Any, Any], setup: object) -> None:
    """Do the tasks that come through the pipe, until it ends; tell of them through it."""
    with ThreadPoolExecutor(1) as publisher, suppress(EOFError, OSError, StoppedError):
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
    told_at: float = 0.0

    def run(self) -> None:
        publication: Future[None] | None = None
        while (task := self.conn.recv()) is not None:
            try:
                publish = self.work(task, self.setup, self.tick)
            except StoppedError:
                raise
            except Exception as exc:
                self.send(Failure(portable(exc)))
                continue
            if publication is not None:
                futures.wait([publication])  # at most one shard waits for the disk
            try:
                self.flush()  # before the result: the parent stops listening after the last one
            finally:  # even if the parent is gone, what is written gets its name
                publication = self.publisher.submit(self.publish, publish)
            self.send(_Free())

    def publish(self, publish: Callable[[], object]) -> None:
        try:
            message: object = Result(publish())
        except Exception as exc:
            message = Failure(portable(exc))
        self.send(message)

    def tick(self, wrong: object) -> None:
        if wrong is None:
            self.done += 1
        else:
            self.bad.append(wrong)
        if time.monotonic() - self.told_at >= TICK_SECONDS:
            self.flush()
            if self.conn.poll():  # while it works, only the order to stop, or the parent's end
                raise StoppedError

    def flush(self) -> None:
        self.send(Progress(self.done, tuple(self.bad)))
        self.done = 0
        self.bad.clear()
        self.told_at = time.monotonic()

    def send(self, message: object) -> None:
        try:
            with self.send_lock:
                self.conn.send(message)
        except OSError as exc:  # nobody listens any more
            raise StoppedError from exc


def portable(exc: Exception) -> ImgprepError:
    """The error as one that can be pickled and shown; a defect keeps its traceback."""
    if isinstance(exc, ImgprepError):
        return type(exc)(*exc.args)
    return BuildError("a worker failed unexpectedly:\n" + traceback.format_exc())


@dataclass(slots=True)
class _Worker:
    process: BaseProcess
    conn: Connection
    tasks: deque[object] = field(default_factory=deque)
    """Tasks given to it whose result is still to come."""


class Pool(Generic[T, S, R]):
    """Runs tasks over ``jobs`` processes; leaves none behind, however its block is left."""

    def __init__(self, jobs: int, work: Work[T, S, R], setup: S) -> None:
        self._jobs = jobs
        self._work = work
        self._setup = setup
        self._workers: list[_Worker] = []

    @property
    def jobs(self) -> int:
        """Worker processes."""
        return self._jobs

    def __enter__(self) -> Pool[T, S, R]:
        context = multiprocessing.get_context(_start_method())
        # Workers are born deaf to Ctrl-C, which a terminal sends to all: the parent decides.
        heard = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            for _ in range(self._jobs):
                ours, theirs = context.Pipe()
                pipes = _Pipes(theirs, [worker.conn for worker in self._workers] + [ours])
                process: BaseProcess = context.Process(  # type: ignore[attr-defined]
                    target=_serve, args=(pipes, self._work, self._setup), daemon=True
                )
                process.start()
                theirs.close()
                self._workers.append(_Worker(process, ours))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, heard)
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.conn.close()  # a worker at work sees it within a tick and cleans up
        deadline = time.monotonic() + STOP_SECONDS
        for worker in self._workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()

    def run(self, tasks: Iterable[T]) -> Iterator[Progress | R | None]:
        """Yield results and progress as they come, and None when nothing came for a while.

        Raises:
            WorkerDiedError: a worker process ended by itself.
            ImgprepError: what a task raised.
        """
        waiting = deque(tasks)
        for worker in self._workers:
            self._give(worker, waiting)
        # A result may overtake the message that its worker is free: tasks may wait still.
        while waiting or any(worker.tasks for worker in self._workers):
            by_handle = {worker.conn: worker for worker in self._workers}
            ready = wait(list(by_handle), timeout=0.5)
            if not ready:
                yield None
            for conn in ready:
                worker = by_handle[conn]  # type: ignore[index]
                message = self._receive(worker)
                if isinstance(message, _Free):
                    self._give(worker, waiting)
                elif isinstance(message, Failure):
                    raise message.error
                elif isinstance(message, Result):
                    worker.tasks.popleft()
                    yield message.value
                else:
                    yield message

    def _give(self, worker: _Worker, waiting: deque[T]) -> None:
        if waiting:
            task = waiting.popleft()
            worker.tasks.append(task)
            with suppress(OSError):  # a dead worker is reported by _receive
                worker.conn.send(task)

    def _receive(self, worker: _Worker) -> Any:
        try:
            return worker.conn.recv()
        except (EOFError, OSError) as exc:
            worker.process.join(1.0)
            code = worker.process.exitcode
            how = f"was killed by signal {-code}" if code and code < 0 else f"ended with {code}"
            at = ", ".join(str(task) for task in worker.tasks) or "no task"
            raise WorkerDiedError(
                f"worker process {worker.process.pid} {how} at {at}; signal 9 is often the "
                "system running out of memory: run the same command again, with fewer --jobs"
            ) from exc
