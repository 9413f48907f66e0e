"""What runs on the nodes of a Ray cluster: one task after another, and a tracker of progress."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from imgprep.errors import ImgprepError
from imgprep.pool import Work, portable

TELL_SECONDS = 0.25


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
    """An actor: keeps what workers tell until the driver asks."""

    def __init__(self) -> None:
        self._heard: list[Heard] = []

    def tell(self, heard: Heard) -> None:
        """Called by workers."""
        self._heard.append(heard)

    def drain(self) -> list[Heard]:
        """Called by the driver: all that is new, in order."""
        heard, self._heard = self._heard, []
        return heard


@dataclass(slots=True)
class _Teller:
    """Counts images and tells the tracker, now and then."""

    attempt: int
    tracker: Any
    node: str = field(default_factory=lambda: os.uname().nodename)
    done: int = 0
    bad: list[Any] = field(default_factory=list)
    told_bad: int = 0
    told_at: float = 0.0

    def tick(self, wrong: object) -> None:
        if wrong is None:
            self.done += 1
        else:
            self.bad.append(wrong)
        if time.monotonic() - self.told_at >= TELL_SECONDS:
            self.tell()

    def tell(self) -> None:
        new = tuple(self.bad[self.told_bad :])
        heard = Heard(self.attempt, self.node, self.done, self.told_bad, new)
        self.tracker.tell.remote(heard)
        self.told_bad = len(self.bad)
        self.told_at = time.monotonic()


def carry_out(order: Order, tracker: Any) -> Outcome:
    """Do a task and publish it; every error but the order to stop is in the outcome."""
    teller = _Teller(order.attempt, tracker)
    try:
        teller.tell()  # so that the driver knows the node, should it be lost
        if order.check is not None:
            order.check()
        value = order.work(order.task, order.setup, teller.tick)()
    except Exception as exc:
        return Outcome(None, portable(exc), teller.done, tuple(teller.bad))
    return Outcome(value, None, teller.done, tuple(teller.bad))
