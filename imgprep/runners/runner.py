"""The interface of a runner: what it is given to do, and what it reports."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from types import TracebackType

T = TypeVar("T")
S = TypeVar("S")
R = TypeVar("R")
T_contra = TypeVar("T_contra", contravariant=True)
S_contra = TypeVar("S_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)

LOCAL = "local"
"""Worker processes on this machine."""
INLINE = "inline"
"""A thread of this process."""
RAY = "ray"
"""A Ray cluster; ``ray://HEAD:PORT`` names one by its address."""


class WorkerStoppedError(Exception):
    """The parent asked this worker to stop, or the parent ended."""


Tick = Callable[[object], None]
"""Called after each image with what was wrong, or None; raises WorkerStoppedError to end the task.
"""


class Work(Protocol[T_contra, S_contra, R_co]):
    """A task function: does the work and returns the function that publishes it."""

    def __call__(self, task: T_contra, setup: S_contra, tick: Tick) -> Callable[[], R_co]: ...


@dataclass(frozen=True, slots=True)
class Progress:
    """The number of good images since the last report, and what was wrong with the others."""

    done: int
    bad: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Retried:
    """A task was lost with its worker and is retried: its progress so far no longer counts."""

    why: str
    done: int
    bad: tuple[Any, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload(Generic[T, S, R]):
    """What a runner is given to do."""

    work: Work[T, S, R]
    setup: S
    """What all tasks have in common."""
    tasks: int
    """Number of tasks."""
    jobs: int | None = None
    """Tasks at a time; None means one for each processor that the runner has."""
    check: Callable[[], None] | None = None
    """Called on another machine before its tasks; raises if that machine cannot take part."""


class Runner(Protocol[T_contra, R_co]):
    """Runs tasks within its ``with`` block; no task keeps running after the block."""

    @property
    def jobs(self) -> int:
        """Number of tasks that run at a time."""

    def __enter__(self) -> Runner[T_contra, R_co]: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None: ...
    def run(self, tasks: Iterable[T_contra]) -> Iterator[Progress | Retried | R_co | None]:
        """Yield results and progress as they arrive, and None after a while without any.

        Raises what a task raises, and BuildError when tasks can no longer be run.
        """
