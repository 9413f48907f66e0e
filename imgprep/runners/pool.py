"""Run tasks in worker processes, none of which can be lost unnoticed.

One pipe ties each worker to the parent. The parent notices at once when a worker dies, and a
worker ends at once when the parent does (its pipe closes), even after SIGKILL.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Generic, TypeVar

from imgprep.errors import BuildError, WorkerDiedError
from imgprep.runners.runner import Progress, Work
from imgprep.runners.worker import Failure, Ready, Result, serve

T = TypeVar("T")
S = TypeVar("S")
R = TypeVar("R")

STOP_SECONDS = 10.0
_CRASHES = frozenset({-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGILL, -signal.SIGFPE})


def _start_method() -> str:
    """``fork`` is quick and shares pages, but only a process with one thread may use it."""
    tasks = Path("/proc/self/task")
    threads = len(list(tasks.iterdir())) if tasks.is_dir() else 2
    return "fork" if threads == 1 else "spawn"


class _Pipes:
    """A worker's end of its pipe; a forked worker closes the ends that belong to the parent."""

    def __init__(self, theirs: Connection, parents: list[Connection]) -> None:
        self.conn = theirs
        self._parents = parents

    def __reduce__(self) -> tuple[Any, ...]:
        return _Pipes, (self.conn, [])  # a spawned worker inherits none of the parent's ends

    def take(self) -> Connection:
        """The pipe: from now on it closes when the parent ends."""
        for conn in self._parents:
            conn.close()
        return self.conn


def _serve(pipes: _Pipes, work: Work[Any, Any, Any], setup: object) -> None:
    """All that a worker process does."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    serve(pipes.take(), work, setup)


@dataclass(slots=True)
class _Worker:
    process: BaseProcess
    conn: Connection
    tasks: deque[object] = field(default_factory=deque)
    """Tasks given to it whose result has not arrived yet."""


class Pool(Generic[T, S, R]):
    """Runs tasks in ``jobs`` processes; all of them end with its ``with`` block."""

    def __init__(self, jobs: int, work: Work[T, S, R], setup: S) -> None:
        self._jobs = jobs
        self._work = work
        self._setup = setup
        self._workers: list[_Worker] = []

    @property
    def jobs(self) -> int:
        """Number of worker processes."""
        return self._jobs

    def __enter__(self) -> Pool[T, S, R]:
        context = multiprocessing.get_context(_start_method())
        # Workers start with Ctrl-C blocked: a terminal sends it to all, and the parent decides.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
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
        except OSError as exc:
            self.__exit__()
            raise BuildError(
                f"cannot start {self._jobs} worker processes: {exc.strerror or exc}: use fewer "
                "--jobs, or raise the limits of processes, open files and memory (ulimit -a)"
            ) from exc
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.conn.close()  # a busy worker notices it at its next report and cleans up
            if worker.process.pid is not None and worker.process.is_alive():
                os.kill(worker.process.pid, signal.SIGCONT)  # one that is suspended cannot clean up
        deadline = time.monotonic() + STOP_SECONDS
        for worker in self._workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()

    def run(self, tasks: Iterable[T]) -> Iterator[Progress | R | None]:
        """Yield results and progress as they arrive, and None after a while without any.

        Raises:
            WorkerDiedError: a worker process ended by itself.
            ImgprepError: what a task raised.
        """
        waiting = deque(tasks)
        for worker in self._workers:
            self._give(worker, waiting)
        # A result may arrive before the message that its worker is ready: tasks may still wait.
        while waiting or any(worker.tasks for worker in self._workers):
            by_handle = {worker.conn: worker for worker in self._workers}
            ready = wait(list(by_handle), timeout=0.5)
            if not ready:
                yield None
            for conn in ready:
                worker = by_handle[conn]  # type: ignore[index]
                message = self._receive(worker)
                if isinstance(message, Ready):
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
            with suppress(OSError):  # _receive reports a dead worker
                worker.conn.send(task)

    def _receive(self, worker: _Worker) -> Any:
        try:
            return worker.conn.recv()
        except (EOFError, OSError) as exc:
            worker.process.join(1.0)
            code = worker.process.exitcode
            at = ", ".join(str(task) for task in worker.tasks) or "no task"
            raise WorkerDiedError(
                f"worker process {worker.process.pid} {_how_it_ended(code)} at {at}; "
                f"{_advice_on(code)}"
            ) from exc


def _how_it_ended(code: int | None) -> str:
    if code is None or code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def _advice_on(code: int | None) -> str:
    """What usually is the cause of such an end, and what to do."""
    again = "run the same command again; finished shards are kept"
    if code == -signal.SIGKILL:
        return f"the system has probably run out of memory: use fewer --jobs and {again}"
    if code == -signal.SIGBUS:
        return f"a mapped file was cut or its disk failed: check the disk and {again}"
    if code in _CRASHES:
        return (
            f"a crash in compiled code: {again}, and if it crashes there again, set "
            "IMGPREP_JPEG=full and report the image"
        )
    return again
