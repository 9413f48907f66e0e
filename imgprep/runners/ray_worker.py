"""What runs on the nodes of a Ray cluster: single tasks, and a tracker of their progress."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from imgprep.errors import ImgprepError
from imgprep.runners.runner import Work, WorkerStoppedError
from imgprep.runners.worker import portable

REPORT_SECONDS = 0.25
ANSWER_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """A task, with all that its worker needs."""

    attempt: int
    """Number of this attempt, unique in the run."""
    task: Any
    setup: Any
    work: Work[Any, Any, Any]
    check: Callable[[], None] | None
    """Raises where the worker's machine cannot take part."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended: its result or its error, and all images that it processed."""

    value: Any
    error: ImgprepError | None
    done: int = 0
    bad: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """The progress of an attempt so far. What gets lost on the way is in the outcome."""

    attempt: int
    node: str
    done: int
    """Good images so far."""
    first_bad: int
    bad: tuple[Any, ...]
    """Bad images from number ``first_bad`` on."""


class Tracker:
    """An actor that keeps the workers' reports until the driver asks, and tells workers to stop."""

    def __init__(self) -> None:
        self._reports: list[Report] = []
        self._started: set[int] = set()
        self._stopped = False

    def report(self, report: Report) -> bool:
        """Called by workers; returns whether to continue."""
        if not self._stopped:
            self._started.add(report.attempt)
            self._reports.append(report)
        return not self._stopped

    def drain(self) -> list[Report]:
        """Called by the driver: all new reports, in order."""
        reports, self._reports = self._reports, []
        return reports

    def stop(self) -> set[int]:
        """Stop all attempts and start no more; returns the attempts that were started before."""
        self._stopped = True
        return self._started


@dataclass(slots=True)
class _Reporter:
    """Counts images and reports to the tracker from time to time."""

    attempt: int
    tracker: Any
    done: int = 0
    bad: list[Any] = field(default_factory=list)
    reported_bad: int = 0
    reported_at: float = 0.0
    answer: Any = None
    """The tracker's answer to the last report; it may still be on its way."""

    def tick(self, wrong: object) -> None:
        if wrong is None:
            self.done += 1
        else:
            self.bad.append(wrong)
        if time.monotonic() - self.reported_at >= REPORT_SECONDS:
            self.check_stopped(wait_seconds=0)
            self.report()

    def report(self) -> None:
        new = tuple(self.bad[self.reported_bad :])
        report = Report(self.attempt, os.uname().nodename, self.done, self.reported_bad, new)
        self.answer = self.tracker.report.remote(report)
        self.reported_bad = len(self.bad)
        self.reported_at = time.monotonic()

    def check_stopped(self, wait_seconds: float) -> None:
        """Raise WorkerStoppedError if the tracker said so; without an answer, continue."""
        import ray

        try:
            proceed = ray.get(self.answer, timeout=wait_seconds)
        except (ray.exceptions.GetTimeoutError, ray.exceptions.RayActorError):
            return
        if not proceed:
            raise WorkerStoppedError


def carry_out(order: Order, tracker: Any) -> Outcome:
    """Do a task and publish it; every error is in the outcome."""
    reporter = _Reporter(order.attempt, tracker)
    try:
        reporter.report()
        # Now the tracker counts this attempt as started, or has told it to stop: the driver waits
        # for the started ones only.
        reporter.check_stopped(ANSWER_SECONDS)
        if order.check is not None:
            order.check()
        value = order.work(order.task, order.setup, reporter.tick)()
    except Exception as exc:
        return Outcome(None, portable(exc, str(order.task)), reporter.done, tuple(reporter.bad))
    return Outcome(value, None, reporter.done, tuple(reporter.bad))
