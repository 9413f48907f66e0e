"""What runs the shards of a build: processes here, this very process, or a Ray cluster.

An engine maps independent tasks and streams their progress. Which one it is decides no byte, and
is no part of a build's identity: a build that one began, another may go on with.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from imgprep.errors import UsageError
from imgprep.storage.urls import PROCESS_LOCAL, scheme_of

if TYPE_CHECKING:
    from types import TracebackType

    from imgprep.runners.pool import Progress, Work

T = TypeVar("T")
S = TypeVar("S")
R = TypeVar("R")
T_contra = TypeVar("T_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)

LOCAL = "local"
INLINE = "inline"
RAY = "ray"
_RAY_CLIENT = re.compile(r"ray://[A-Za-z0-9.\-\[\]:]+:[0-9]{1,5}")


@dataclass(frozen=True, slots=True)
class Retried:
    """A task was lost with its worker and is done again: what was told of it does not count."""

    why: str
    done: int
    bad: tuple[Any, ...]


class Engine(Protocol[T_contra, R_co]):
    """Runs tasks within its block; however the block is left, none runs on."""

    @property
    def jobs(self) -> int:
        """Tasks that it runs at a time."""

    def __enter__(self) -> Engine[T_contra, R_co]: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None: ...
    def run(self, tasks: Iterable[T_contra]) -> Iterator[Progress | Retried | R_co | None]:
        """Yield results and progress as they come, and None when nothing came for a while.

        Raises what a task raises, and BuildError when tasks can no longer be run.
        """


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_engine(name: str) -> str:
    """The name of an engine, as it was given.

    Raises:
        UsageError: there is no such engine.
    """
    if name not in (LOCAL, RAY) and not _RAY_CLIENT.fullmatch(name):
        raise UsageError(f"{name!r} is no engine: it is local, ray, or ray://HEAD:PORT")
    return name


def engine_for(name: str, *locations: str) -> str:
    """The engine to use for files at these places: this process where only it can see them.

    Raises:
        UsageError: a cluster was asked for, and cannot see them.
    """
    hidden = [location for location in locations if scheme_of(location) in PROCESS_LOCAL]
    if not hidden:
        return name
    if name != LOCAL:
        raise UsageError(f"{hidden[0]} is seen by this process alone: leave out --engine {name}")
    return INLINE


def check_reachable(name: str) -> None:
    """Find out early that an engine cannot be had.

    Raises:
        UsageError: a package is missing.
        BuildError: nothing answers at the address.
    """
    if name.startswith(RAY):
        from imgprep.runners.ray_cluster import check_cluster

        check_cluster(name)


@dataclass(frozen=True, kw_only=True, slots=True)
class Run(Generic[T, S, R]):
    """What an engine is to do."""

    work: Work[T, S, R]
    setup: S
    tasks: int
    """How many there will be."""
    jobs: int | None = None
    """Tasks at a time; None is one on each processor that the engine has."""
    check: Callable[[], None] | None = None
    """Called on another machine before its tasks; raises if it cannot take part."""


def open_engine(name: str, run: Run[T, S, R]) -> Engine[T, R]:
    """The engine of that name, to be entered."""
    if name == INLINE:
        from imgprep.runners.inline import Inline

        return Inline(run.work, run.setup)
    if name.startswith(RAY):
        from imgprep.runners.ray import RayEngine

        return RayEngine(name, run)
    from imgprep.runners.pool import Pool

    return Pool(max(1, min(run.jobs or processors(), run.tasks)), run.work, run.setup)
