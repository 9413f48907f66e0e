"""The processes of a run on one machine: started together, ended together, and with this process.

Plain child processes instead of torchrun: a stop prints one message and no traceback, and the
children end when this process is killed.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta

from train import program
from train.errors import RunStoppedError, TrainError
from train.run.stop import SIGNALS

LAUNCHER_VARIABLE = "IMGPREP_TRAIN_LAUNCHER"
"""Environment variable with the number of the process that started a rank."""
HOST = "127.0.0.1"
POLL_S = 0.1
GRACE_S = 30.0
"""Time that ranks get to save after a request to stop."""
PR_SET_PDEATHSIG = 1


def run_ranks(arguments: Sequence[str], processes: int) -> int:
    """Run ``python -m train`` with these arguments in every process; returns the exit code.

    The first signal is passed on, so that the ranks save and end; a second one kills them.

    Raises:
        RunStoppedError: a signal ended the ranks before there was anything to save.
        TrainError: a rank was killed.
    """
    from torch._C._distributed_c10d import TCPStore

    store = TCPStore(HOST, 0, None, True, timedelta(seconds=60), wait_for_workers=False)
    environments = [_environment(rank, processes, store.port) for rank in range(processes)]
    command = [sys.executable, "-m", "train", *arguments]
    ranks: list[subprocess.Popen[bytes]] = []
    with _passed_on(ranks) as received:
        try:
            for environment in environments:
                if not received:
                    ranks.append(subprocess.Popen(command, env=environment, start_new_session=True))
            failed = _first_failed(ranks)
        finally:
            _end(ranks)
    if failed is None:
        return 0
    code = ranks[failed].returncode
    if code > 0:
        return code  # that rank has said why
    if received:
        raise RunStoppedError("stopped before the first update: there was nothing to save")
    raise TrainError(
        f"the process of rank {failed} was killed by {signal.Signals(-code).name}; run the same "
        "command again to resume"
    )


def end_with_launcher(environment: Mapping[str, str]) -> None:
    """Make the system send SIGTERM to this process when its launcher ends. Linux only.

    Raises:
        TrainError: the launcher has already ended.
    """
    launcher = environment.get(LAUNCHER_VARIABLE)
    if sys.platform != "linux" or (launcher is None and "TORCHELASTIC_RUN_ID" not in environment):
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if launcher is not None and launcher != str(os.getppid()):
        raise TrainError("the process that started this one has ended")


def _environment(rank: int, processes: int, port: int) -> dict[str, str]:
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes}
    return {
        "OMP_NUM_THREADS": "1",  # a rank sets its threads later
        **os.environ,
        **{name: str(number) for name, number in numbers.items()},
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": HOST,
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # this process serves the port, not rank 0
        LAUNCHER_VARIABLE: str(os.getpid()),
        program.COMMAND_VARIABLE: program.command(),
        "PYTHONSAFEPATH": "1",  # the user's folder may contain a train.py
    }


@contextmanager
def _passed_on(ranks: list[subprocess.Popen[bytes]]) -> Iterator[list[int]]:
    """Pass signals on to ``ranks``; yields the list of those received."""
    received: list[int] = []

    def handle(number: int, frame: object) -> None:
        received.append(number)
        for rank in ranks:
            if rank.poll() is None:
                rank.terminate() if len(received) == 1 else rank.kill()

    before: list[Callable[..., object] | int | None]
    before = [signal.signal(number, handle) for number in SIGNALS]
    try:
        yield received
    finally:
        for number, handler in zip(SIGNALS, before, strict=True):
            signal.signal(number, handler)


def _first_failed(ranks: Sequence[subprocess.Popen[bytes]]) -> int | None:
    """Wait until a rank has failed and return it, or None once all have succeeded."""
    while True:
        codes = [rank.poll() for rank in ranks]
        failed = next((rank for rank, code in enumerate(codes) if code), None)
        if failed is not None or None not in codes:
            return failed
        time.sleep(POLL_S)


def _end(ranks: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ask all ranks to end, and kill those that do not."""
    for rank in ranks:
        if rank.poll() is None:
            rank.terminate()
    deadline = time.monotonic() + GRACE_S
    while any(rank.poll() is None for rank in ranks) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    for rank in ranks:
        if rank.poll() is None:
            rank.kill()
        rank.wait()
