"""The inline runner does the tasks of the local runner in this process."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import pytest

from imgprep.errors import DestinationError, UsageError
from imgprep.runners.choose import check_runner, open_runner, runner_for
from imgprep.runners.runner import (
    INLINE,
    LOCAL,
    RAY,
    Progress,
    Tick,
    WorkerStoppedError,
    Workload,
)

stopped = threading.Event()


def square(task: int, setup: int, tick: Tick) -> Callable[[], tuple[int, int]]:
    """Report ``setup`` images, one of them bad; return the square and the process id."""
    for number in range(setup):
        tick(f"bad {task}" if number == 1 else None)
    return lambda: (task * task, os.getpid())


def fail(task: int, setup: type[Exception], tick: Tick) -> Callable[[], int]:
    tick(None)
    raise setup("the disk is full")


def endless(task: int, setup: None, tick: Tick) -> Callable[[], int]:
    try:
        while True:
            tick(None)
    except WorkerStoppedError:
        stopped.set()
        raise


@pytest.mark.parametrize("name", [LOCAL, INLINE])
def test_inline_reports_what_the_pool_reports(name: str) -> None:
    with open_runner(name, Workload(work=square, setup=3, tasks=5, jobs=2)) as runner:
        events = list(runner.run(range(5)))
    reports = [event for event in events if isinstance(event, Progress)]
    assert sum(event.done for event in reports) == 10
    assert sorted(wrong for event in reports for wrong in event.bad) == [
        f"bad {n}" for n in range(5)
    ]
    results = sorted(event for event in events if isinstance(event, tuple))
    assert [value for value, _ in results] == [0, 1, 4, 9, 16]
    assert {pid == os.getpid() for _, pid in results} == {name == INLINE}


@pytest.mark.parametrize(
    ("raised", "comes"), [(DestinationError, DestinationError), (ValueError, Exception)]
)
def test_an_error_of_a_task_keeps_its_type(raised: type[Exception], comes: type[Exception]) -> None:
    with (
        open_runner(INLINE, Workload(work=fail, setup=raised, tasks=1)) as runner,
        pytest.raises(comes, match="the disk is full"),
    ):
        list(runner.run([1]))


def test_leaving_the_block_stops_the_task() -> None:
    """As Ctrl-C does: the main thread receives it while the task is running."""
    stopped.clear()

    def interrupted() -> None:
        with open_runner(INLINE, Workload(work=endless, setup=None, tasks=1)) as runner:
            assert isinstance(next(iter(runner.run([1]))), Progress)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert stopped.is_set()
    assert not [thread for thread in threading.enumerate() if thread.name == "inline"]


def test_the_locations_decide_the_runner() -> None:
    assert runner_for(LOCAL, "/data", "memory://out") == INLINE
    assert runner_for(LOCAL, "/data", "s3://bucket/out") == LOCAL
    assert runner_for(RAY, "/data", "/out") == RAY
    with pytest.raises(UsageError, match="only this process can see memory://in"):
        runner_for("ray://head:10001", "memory://in", "/out")


@pytest.mark.parametrize("name", ["", "Ray", "ray:", "ray://", "ray://head", "ray://:1", "inline"])
def test_unknown_runners_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="ray://HEAD:PORT"):
        check_runner(name)
    assert check_runner("ray://10.0.0.1:10001") == "ray://10.0.0.1:10001"
