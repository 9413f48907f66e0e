"""Run tasks on a Ray cluster. Ray places them; what is lost with a worker or a node is done again.

Each task is one Ray task on one processor. Workers tell of their progress through a small actor
beside the driver; what decides is the outcome that a task returns, so that a message which comes
late, or not at all, changes nothing.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from imgprep.errors import BuildError, WorkerDiedError
from imgprep.runners import Retried, Run
from imgprep.runners.pool import Progress
from imgprep.runners.ray_cluster import joined
from imgprep.runners.ray_worker import Heard, Order, Outcome, Tracker, carry_out

T = TypeVar("T")
S = TypeVar("S")
R = TypeVar("R")

ATTEMPTS = 4
"""Times that a task is begun whose worker or node gets lost."""
POLL_SECONDS = 0.25
SIZE_SECONDS = 5.0
"""How often to look whether the cluster grew or shrank."""
STOP_SECONDS = 10.0
TRACKER_SECONDS = 5.0
# Names of Ray's errors, in the order in which they are tried.
_LOST = {
    "OutOfMemoryError": "its node ran out of memory",
    "NodeDiedError": "its node died",
    "LocalRayletDiedError": "Ray died on its node",
    "WorkerCrashedError": "its worker process died",
    "ObjectLostError": "its result was lost with a node",
}


@dataclass(slots=True)
class _Try:
    """A task that was given to Ray, and what was told of it so far."""

    task: Any
    number: int
    """Unique in the run."""
    begun: int
    """Times that the task was begun, this one included."""
    node: str = ""
    """Where it is, as soon as its worker was heard."""
    done: int = 0
    bad: list[Any] = field(default_factory=list)


class RayEngine(Generic[T, S, R]):
    """As ``imgprep.runners.Engine`` says; ``jobs`` None is one task on each processor."""

    def __init__(self, name: str, run: Run[T, S, R]) -> None:
        self._name, self._given = name, run
        self._left = ExitStack()
        self._running: dict[Any, _Try] = {}
        self._tries = 0
        self._processors = 0
        self._sized_at = 0.0

    @property
    def jobs(self) -> int:
        """Tasks at a time: as many as the cluster has processors now, if it was left open."""
        return max(1, min(self._given.jobs or self._size(), self._given.tasks))

    def __enter__(self) -> RayEngine[T, S, R]:
        with ExitStack() as left:
            self._ray = left.enter_context(joined(self._name))
            left.callback(self._stop)
            node = self._ray.get_runtime_context().get_node_id()
            here = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, True)
            options = {"num_cpus": 0, "max_restarts": -1, "scheduling_strategy": here}
            self._tracker = self._ray.remote(**options)(Tracker).remote()
            self._do = self._ray.remote(
                num_cpus=1, max_retries=0, retry_exceptions=False, scheduling_strategy="SPREAD"
            )(carry_out)
            self._left = left.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.close()

    def run(self, tasks: Iterable[T]) -> Iterator[Progress | Retried | R | None]:
        """As ``imgprep.runners.Engine`` says.

        Raises:
            WorkerDiedError: a task was lost again and again.
            BuildError: the cluster is gone, or cannot run the task.
            ImgprepError: what a task raised.
        """
        waiting = deque(_Try(task, 0, 0) for task in tasks)
        try:
            while waiting or self._running:
                while waiting and len(self._running) < self.jobs:
                    self._begin(waiting.popleft())
                ready, _ = self._ray.wait(list(self._running), timeout=POLL_SECONDS)
                yield from self._listen()
                for ref in ready:
                    yield from self._settle(ref, waiting)
                if not ready:
                    yield None
        except ConnectionError as exc:
            raise BuildError(
                f"the Ray cluster is gone ({exc}): run the same command again when its head is "
                "up, or with --engine local; shards that are done stay"
            ) from exc

    def _begin(self, before: _Try) -> None:
        self._tries += 1
        attempt = _Try(before.task, self._tries, before.begun + 1)
        order = Order(
            attempt=attempt.number,
            task=attempt.task,
            setup=self._given.setup,
            work=self._given.work,
            check=self._given.check,
        )
        ref = self._do.options(name=str(attempt.task)).remote(order, self._tracker)
        self._running[ref] = attempt

    def _listen(self) -> Iterator[Progress]:
        """What workers told since the last time; what is of a lost try has no place any more."""
        errors = self._ray.exceptions
        try:
            heard: list[Heard] = self._ray.get(
                self._tracker.drain.remote(), timeout=TRACKER_SECONDS
            )
        except (errors.RayActorError, errors.GetTimeoutError):
            return  # it comes back; outcomes tell all
        tries = {attempt.number: attempt for attempt in self._running.values()}
        for message in heard:
            attempt = tries.get(message.attempt)
            if attempt is None:
                continue
            attempt.node = message.node
            bad = message.bad if message.first_bad == len(attempt.bad) else ()
            yield from self._told(attempt, max(message.done, attempt.done), bad)

    def _told(self, attempt: _Try, done: int, bad: tuple[Any, ...]) -> Iterator[Progress]:
        if done == attempt.done and not bad:
            return
        progress = Progress(done - attempt.done, bad)
        attempt.done = done
        attempt.bad.extend(bad)
        yield progress

    def _settle(self, ref: Any, waiting: deque[_Try]) -> Iterator[Progress | Retried | R]:
        """What became of a try that is over."""
        attempt = self._running.pop(ref)
        try:
            outcome: Outcome = self._ray.get(ref)
        except self._ray.exceptions.RayError as exc:
            yield self._lost(attempt, exc)
            waiting.append(attempt)
            return
        if outcome.error is not None:
            raise outcome.error
        yield from self._told(attempt, outcome.done, outcome.bad[len(attempt.bad) :])
        yield outcome.value

    def _lost(self, attempt: _Try, exc: Exception) -> Retried:
        """What to say of a try that was lost.

        Raises:
            WorkerDiedError: it was one too many.
            BuildError: it was not lost, but cannot be.
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
        if attempt.begun >= ATTEMPTS:
            raise WorkerDiedError(
                f"{task}: lost {attempt.begun} times, the last time{on}: {how}; where "
                "memory is short, run the same command again with fewer --jobs"
            ) from exc
        why = f"{task}: lost{on}, {how}: it is built again"
        return Retried(why, attempt.done, tuple(attempt.bad))

    def _size(self) -> int:
        """Processors of the cluster; a cluster without any may get some."""
        if not self._processors or time.monotonic() - self._sized_at >= SIZE_SECONDS:
            self._processors = max(1, int(self._ray.cluster_resources().get("CPU", 0)))
            self._sized_at = time.monotonic()
        return self._processors

    def _stop(self) -> None:
        """Have what runs stop and clean up; what does not is killed when the cluster is left.

        No use of ``ray.cancel``: in Ray 2.60 it kills one driver in ten, by a failed check.
        """
        with suppress(Exception):  # where the cluster is gone, so are its tasks
            begun = self._ray.get(self._tracker.stop.remote(), timeout=TRACKER_SECONDS)
            refs = [ref for ref, attempt in self._running.items() if attempt.number in begun]
            if refs:
                self._ray.wait(refs, num_returns=len(refs), timeout=STOP_SECONDS)
