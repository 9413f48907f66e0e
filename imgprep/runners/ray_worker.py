"""What runs on the nodes of a Ray cluster: one task after another, and a tracker of progress."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from imgprep.errors import ImgprepError
from imgprep.runners.pool import StoppedError, Work, portable

TELL_SECONDS = 0.25
ANSWER_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """A task, and all that its worker needs."""

    attempt: int
    """Number of this try, unique in the run."""
    task: Any
    setup: Any
    work: Work[Any, Any, Any]
    check: Callable[[], None] | None
    """Raises where the worker's machine cannot take part."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a try: its result or its error, and all images that it tried."""

    value: Any
    error: ImgprepError | None
    done: int = 0
    bad: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Heard:
    """How far a try is. What gets lost on the way is in the outcome."""

    attempt: int
    node: str
    done: int
    """Good images so far."""
    first_bad: int
    bad: tuple[Any, ...]
    """Bad images from number ``first_bad`` on."""


class Tracker:
    """An actor: keeps what workers tell until the driver asks, and tells them when to stop."""

    def __init__(self) -> None:
        self._heard: list[Heard] = []
        self._begun: set[int] = set()
        self._stopped = False

    def tell(self, heard: Heard) -> bool:
        """Called by workers; whether to go on."""
        if not self._stopped:
            self._begun.add(heard.attempt)
            self._heard.append(heard)
        return not self._stopped

    def drain(self) -> list[Heard]:
        """Called by the driver: all that is new, in order."""
        heard, self._heard = self._heard, []
        return heard

    def stop(self) -> set[int]:
        """From now on nothing begins and all stops; gives the tries that were begun before."""
        self._stopped = True
        return self._begun


@dataclass(slots=True)
class _Teller:
    """Counts images and tells the tracker, now and then."""

    attempt: int
    tracker: Any
    done: int = 0
    bad: list[Any] = field(default_factory=list)
    told_bad: int = 0
    told_at: float = 0.0
    answer: Any = None
    """Of the tracker, to what it was told last; it may be on its way."""

    def tick(self, wrong: object) -> None:
        if wrong is None:
            self.done += 1
        else:
            self.bad.append(wrong)
        if time.monotonic() - self.told_at >= TELL_SECONDS:
            self.heed(wait_seconds=0)
            self.tell()

    def tell(self) -> None:
        new = tuple(self.bad[self.told_bad :])
        heard = Heard(self.attempt, os.uname().nodename, self.done, self.told_bad, new)
        self.answer = self.tracker.tell.remote(heard)
        self.told_bad = len(self.bad)
        self.told_at = time.monotonic()

    def heed(self, wait_seconds: float) -> None:
        """Raise StoppedError if the tracker said so; one that does not answer is in no hurry."""
        import ray

        try:
            go_on = ray.get(self.answer, timeout=wait_seconds)
        except (ray.exceptions.GetTimeoutError, ray.exceptions.RayActorError):
            return
        if not go_on:
            raise StoppedError


def carry_out(order: Order, tracker: Any) -> Outcome:
    """Do a task and publish it; every error is in the outcome."""
    teller = _Teller(order.attempt, tracker)
    try:
        teller.tell()
        teller.heed(ANSWER_SECONDS)  # begun or stopped: the driver need not wait for others
        if order.check is not None:
            order.check()
        value = order.work(order.task, order.setup, teller.tick)()
    except Exception as exc:
        return Outcome(None, portable(exc), teller.done, tuple(teller.bad))
    return Outcome(value, None, teller.done, tuple(teller.bad))
