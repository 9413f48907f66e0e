"""Run tasks in this process, for files that no other process can see (``memory://``)."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection
from typing import Generic, TypeVar

from imgprep.errors import WorkerDiedError
from imgprep.runners.runner import Progress, Work
from imgprep.runners.worker import Failure, Result, serve

T = TypeVar("T")
S = TypeVar("S")
R = TypeVar("R")


class InlineRunner(Generic[T, S, R]):
    """Runs one task after another in a thread, so that progress and Ctrl-C arrive meanwhile."""

    jobs = 1

    def __init__(self, work: Work[T, S, R], setup: S) -> None:
        self._work, self._setup = work, setup

    def __enter__(self) -> InlineRunner[T, S, R]:
        self._conn, theirs = multiprocessing.Pipe()
        self._thread = threading.Thread(target=self._serve, args=(theirs,), name="inline")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._conn.close()  # a task notices it at its next report and cleans up
        self._thread.join()

    def run(self, tasks: Iterable[T]) -> Iterator[Progress | R | None]:
        """See ``imgprep.runners.runner.Runner``."""
        for task in tasks:
            self._conn.send(task)
            message: object = None
            while not isinstance(message, Result):
                message = self._next(task)
                if isinstance(message, Failure):
                    raise message.error
                if message is None or isinstance(message, Progress):
                    yield message
            yield message.value

    def _next(self, task: T) -> object:
        """The next message, or None after a while without any."""
        try:
            return self._conn.recv() if self._conn.poll(0.5) else None
        except (EOFError, OSError) as exc:
            raise WorkerDiedError(f"{task}: the thread that worked on it ended") from exc

    def _serve(self, conn: Connection) -> None:
        with conn:
            serve(conn, self._work, self._setup)
