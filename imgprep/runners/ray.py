"""Run tasks on a Ray cluster; Ray places them, and a task lost with its worker or node is retried.

Each task is one Ray task on one processor. Workers report their progress through a small actor
beside the driver. Only the outcome that a task returns decides, so a report that arrives late, or
never, changes nothing.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from imgprep.errors import BuildError, WorkerDiedError
from imgprep.runners.ray_cluster import joined
from imgprep.runners.ray_worker import Order, Outcome, Report, Tracker, carry_out
from imgprep.runners.runner import Progress, Retried, Workload

T = TypeVar("T")
S = TypeVar("S")
R = TypeVar("R")

ATTEMPTS = 4
"""Times that a task is started if its worker or node is lost each time."""
POLL_SECONDS = 0.25
SIZE_SECONDS = 5.0
"""Interval at which to ask whether the cluster grew or shrank."""
STOP_SECONDS = 10.0
TRACKER_SECONDS = 5.0
# Names of Ray's errors, in the order in which they are checked.
_LOST = {
    "OutOfMemoryError": "its node ran out of memory",
    "NodeDiedError": "its node died",
    "LocalRayletDiedError": "Ray died on its node",
    "WorkerCrashedError": "its worker process died",
    "ObjectLostError": "its result was lost with a node",
}


@dataclass(slots=True)
class _Attempt:
    """A task that was given to Ray, and its reported progress."""

    task: Any
    number: int
    """Unique in the run."""
    starts: int
    """Times that the task was started, this one included."""
    node: str = ""
    """The node that it runs on, known from its first report."""
    done: int = 0
    bad: list[Any] = field(default_factory=list)


class RayRunner(Generic[T, S, R]):
    """See ``imgprep.runners.runner.Runner``; ``jobs`` None means one task on each processor."""

    def __init__(self, name: str, load: Workload[T, S, R]) -> None:
        self._name, self._load = name, load
        self._exits = ExitStack()
        self._running: dict[Any, _Attempt] = {}
        self._attempts = 0
        self._processors = 0
        self._sized_at = 0.0

    @property
    def jobs(self) -> int:
        """Tasks at a time: unless given, as many as the cluster has processors now."""
        return max(1, min(self._load.jobs or self._size(), self._load.tasks))

    def __enter__(self) -> RayRunner[T, S, R]:
        with ExitStack() as exits:
            self._ray = exits.enter_context(joined(self._name))
            exits.callback(self._stop)
            node = self._ray.get_runtime_context().get_node_id()
            here = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, True)
            options = {"num_cpus": 0, "max_restarts": -1, "scheduling_strategy": here}
            self._tracker = self._ray.remote(**options)(Tracker).remote()
            self._do = self._ray.remote(
                num_cpus=1, max_retries=0, retry_exceptions=False, scheduling_strategy="SPREAD"
            )(carry_out)
            self._exits = exits.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._exits.close()

    def run(self, tasks: Iterable[T]) -> Iterator[Progress | Retried | R | None]:
        """See ``imgprep.runners.runner.Runner``.

        Raises:
            WorkerDiedError: a task was lost too many times.
            BuildError: the cluster is gone, or cannot run the task.
            ImgprepError: what a task raised.
        """
        waiting = deque(_Attempt(task, 0, 0) for task in tasks)
        try:
            while waiting or self._running:
                while waiting and len(self._running) < self.jobs:
                    self._start(waiting.popleft())
                ready, _ = self._ray.wait(list(self._running), timeout=POLL_SECONDS)
                yield from self._listen()
                for ref in ready:
                    yield from self._settle(ref, waiting)
                if not ready:
                    yield None
        except ConnectionError as exc:
            raise BuildError(
                f"the Ray cluster is gone ({exc}): run the same command again when its head is "
                "up, or use --runner local; finished shards are kept"
            ) from exc

    def _start(self, before: _Attempt) -> None:
        self._attempts += 1
        attempt = _Attempt(before.task, self._attempts, before.starts + 1)
        order = Order(
            attempt=attempt.number,
            task=attempt.task,
            setup=self._load.setup,
            work=self._load.work,
            check=self._load.check,
        )
        ref = self._do.options(name=str(attempt.task)).remote(order, self._tracker)
        self._running[ref] = attempt

    def _listen(self) -> Iterator[Progress]:
        """Progress from new reports; those of a lost attempt no longer count."""
        errors = self._ray.exceptions
        try:
            reports: list[Report] = self._ray.get(
                self._tracker.drain.remote(), timeout=TRACKER_SECONDS
            )
        except (errors.RayActorError, errors.GetTimeoutError):
            return  # the tracker restarts, and outcomes hold everything
        attempts = {attempt.number: attempt for attempt in self._running.values()}
        for report in reports:
            attempt = attempts.get(report.attempt)
            if attempt is None:
                continue
            attempt.node = report.node
            bad = report.bad if report.first_bad == len(attempt.bad) else ()
            yield from self._advance(attempt, max(report.done, attempt.done), bad)

    def _advance(self, attempt: _Attempt, done: int, bad: tuple[Any, ...]) -> Iterator[Progress]:
        if done == attempt.done and not bad:
            return
        progress = Progress(done - attempt.done, bad)
        attempt.done = done
        attempt.bad.extend(bad)
        yield progress

    def _settle(self, ref: Any, waiting: deque[_Attempt]) -> Iterator[Progress | Retried | R]:
        """The result of an attempt that ended; one that was lost is queued again."""
        attempt = self._running.pop(ref)
        try:
            outcome: Outcome = self._ray.get(ref)
        except self._ray.exceptions.RayError as exc:
            yield self._lost(attempt, exc)
            waiting.append(attempt)
            return
        if outcome.error is not None:
            raise outcome.error
        yield from self._advance(attempt, outcome.done, outcome.bad[len(attempt.bad) :])
        yield outcome.value

    def _lost(self, attempt: _Attempt, exc: Exception) -> Retried:
        """The notice that an attempt was lost.

        Raises:
            WorkerDiedError: the task was lost too many times.
            BuildError: Ray cannot run the task.
        """
        errors = self._ray.exceptions
        hows = (how for name, how in _LOST.items() if isinstance(exc, getattr(errors, name)))
        how = next(hows, None)
        task, on = attempt.task, f" on {attempt.node}" if attempt.node else ""
        if how is None:
            text = str(exc).strip() or type(exc).__name__
            raise BuildError(
                f"{task}: Ray cannot run it (is the same imgprep installed on all nodes?):\n{text}"
            ) from exc
        if attempt.starts >= ATTEMPTS:
            raise WorkerDiedError(
                f"{task}: lost {attempt.starts} times, the last time{on}: {how}; where "
                "memory is short, run the same command again with fewer --jobs"
            ) from exc
        why = f"{task}: lost{on}, {how}: it is retried"
        return Retried(why, attempt.done, tuple(attempt.bad))

    def _size(self) -> int:
        """Processors of the cluster, at least 1: a cluster without any may still get some."""
        if not self._processors or time.monotonic() - self._sized_at >= SIZE_SECONDS:
            self._processors = max(1, int(self._ray.cluster_resources().get("CPU", 0)))
            self._sized_at = time.monotonic()
        return self._processors

    def _stop(self) -> None:
        """Have running attempts stop and clean up; leaving the cluster kills the others.

        This avoids ``ray.cancel``, which in Ray 2.60 kills one driver in ten by a failed check.
        """
        with suppress(Exception):  # if the cluster is gone, so are its tasks
            started = self._ray.get(self._tracker.stop.remote(), timeout=TRACKER_SECONDS)
            refs = [ref for ref, attempt in self._running.items() if attempt.number in started]
            if refs:
                self._ray.wait(refs, num_returns=len(refs), timeout=STOP_SECONDS)
