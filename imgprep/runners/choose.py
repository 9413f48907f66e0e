"""Choose a runner by its name and by the locations of the files, and open it."""

from __future__ import annotations

import re
from typing import TypeVar

from imgprep.errors import UsageError
from imgprep.processors import processors
from imgprep.runners.runner import INLINE, LOCAL, RAY, Runner, Workload
from imgprep.storage.urls import PROCESS_LOCAL, scheme_of

T = TypeVar("T")
S = TypeVar("S")
R = TypeVar("R")

_RAY_CLIENT = re.compile(r"ray://[A-Za-z0-9.\-\[\]:]+:[0-9]{1,5}")


def check_runner(name: str) -> str:
    """Return the name of a runner unchanged.

    Raises:
        UsageError: there is no runner of that name.
    """
    if name not in (LOCAL, RAY) and not _RAY_CLIENT.fullmatch(name):
        raise UsageError(f"unknown runner {name!r}: use local, ray or ray://HEAD:PORT")
    return name


def runner_for(name: str, *locations: str) -> str:
    """The runner to use for files at these locations: inline where only this process sees them.

    Raises:
        UsageError: a cluster was asked for, but other processes cannot see the files.
    """
    hidden = [location for location in locations if scheme_of(location) in PROCESS_LOCAL]
    if not hidden:
        return name
    if name != LOCAL:
        raise UsageError(
            f"only this process can see {hidden[0]}: leave out --runner {name}, or use a location "
            "that all machines can read"
        )
    return INLINE


def check_reachable(name: str) -> None:
    """Find out before any work whether a runner can be used.

    Raises:
        UsageError: a package is missing.
        BuildError: nothing answers at the address.
    """
    if name.startswith(RAY):
        from imgprep.runners.ray_cluster import check_cluster

        check_cluster(name)


def open_runner(name: str, load: Workload[T, S, R]) -> Runner[T, R]:
    """The runner of that name, to be used in a ``with`` statement."""
    if name == INLINE:
        from imgprep.runners.inline import InlineRunner

        return InlineRunner(load.work, load.setup)
    if name.startswith(RAY):
        from imgprep.runners.ray import RayRunner

        return RayRunner(name, load)
    from imgprep.runners.pool import Pool

    return Pool(max(1, min(load.jobs or processors(), load.tasks)), load.work, load.setup)
