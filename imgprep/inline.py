"""Run tasks in this very process: for a store that no other process can see (``memory://``)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from imgprep.pool import Progress, Work

T = TypeVar("T")
S = TypeVar("S")
R = TypeVar("R")


class InlinePool(Generic[T, S, R]):
    """As ``Pool``, without processes: one task after the other."""

    def __init__(self, work: Work[T, S, R], setup: S) -> None:
        self._work, self._setup = work, setup

    def __enter__(self) -> InlinePool[T, S, R]:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is left behind."""

    def run(self, tasks: Iterable[T]) -> Iterator[Progress | R | None]:
        """Yield progress and result of each task. Raises what a task raises."""
        for task in tasks:
            heard: list[object] = []
            publish = self._work(task, self._setup, heard.append)
            yield Progress(heard.count(None), tuple(wrong for wrong in heard if wrong is not None))
            yield publish()
