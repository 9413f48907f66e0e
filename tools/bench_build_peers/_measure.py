"""Runs a command and measures its process tree: wall clock, CPU and memory."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

SAMPLE_SECONDS = 0.05
ORPHAN_SECONDS = 10.0
KILL_SECONDS = 2.0
PR_SET_CHILD_SUBREAPER = 36
SESSION_FIELD = 3
"""Index of the session id in /proc/PID/stat, after the closing bracket of the command."""


class RunError(Exception):
    """A contestant failed; the message holds the end of its output."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """The measurements of one run of a command."""

    wall_seconds: float
    """From the start of the process to its end."""
    cpu_seconds: float
    """User and system time of all processes of the tree."""
    peak_pss_bytes: int | None
    """Largest sum of the tree's proportional set sizes; None if memory was not sampled."""
    stdout: str


def adopt_orphans() -> None:
    """Become the parent of processes that a command leaves behind, so that they are counted."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def session_pids(session: int) -> list[int]:
    """Return the processes of a session, which each measured tree leads."""
    pids = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError, IndexError):
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                if int(fields[SESSION_FIELD]) == session:
                    pids.append(int(folder.name))
    return pids


def tree_pss_bytes(session: int) -> int:
    """Return the sum of the proportional set sizes of a session's processes."""
    total = 0
    for pid in session_pids(session):
        with suppress(OSError):
            for line in Path("/proc", str(pid), "smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
                    break
    return total


class PssSampler(threading.Thread):
    """Records the largest memory sum of a tree while it runs."""

    def __init__(self, session: int) -> None:
        super().__init__(daemon=True)
        self.peak_bytes = 0
        self._session = session
        self._done = threading.Event()

    def run(self) -> None:
        while not self._done.wait(SAMPLE_SECONDS):
            self.peak_bytes = max(self.peak_bytes, tree_pss_bytes(self._session))

    def stop(self) -> int:
        self._done.set()
        self.join()
        return self.peak_bytes


def _kill(session: int) -> None:
    for pid in session_pids(session):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _reap_orphans(session: int) -> float:
    """Wait for the processes that the leader left behind; return their CPU seconds."""
    cpu_seconds = 0.0
    deadline = time.monotonic() + ORPHAN_SECONDS
    while True:
        try:
            pid, _, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return cpu_seconds
        if pid:
            cpu_seconds += usage.ru_utime + usage.ru_stime
        elif time.monotonic() > deadline + KILL_SECONDS:
            return cpu_seconds
        elif time.monotonic() > deadline:
            _kill(session)
            time.sleep(0.1)
        else:
            time.sleep(0.005)


def run_command(argv: list[str], log: Path, *, memory: bool, timeout_seconds: float) -> Measured:
    """Run and measure ``argv``; stderr goes to ``log``, and stdout to a file beside it.

    Raises:
        RunError: its exit code was not 0, or it took too long.
    """
    stdout_path = log.with_suffix(".stdout")
    with log.open("wb") as stderr, stdout_path.open("wb") as stdout:
        started = time.perf_counter()
        process = subprocess.Popen(
            argv, stdout=stdout, stderr=stderr, stdin=subprocess.DEVNULL, start_new_session=True
        )
        sampler = PssSampler(process.pid) if memory else None
        timer = threading.Timer(timeout_seconds, _kill, [process.pid])
        timer.start()
        if sampler:
            sampler.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
            wall_seconds = time.perf_counter() - started
        except BaseException:
            _kill(process.pid)
            raise
        finally:
            timer.cancel()
            peak = sampler.stop() if sampler else None
    process.returncode = os.waitstatus_to_exitcode(status)
    cpu_seconds = usage.ru_utime + usage.ru_stime + _reap_orphans(process.pid)
    if process.returncode != 0:
        tail = (stdout_path.read_text(errors="replace") + log.read_text(errors="replace"))[-2000:]
        why = f"ended with exit code {process.returncode}"
        if wall_seconds >= timeout_seconds:
            why = f"was stopped after {timeout_seconds:.0f} s"
        raise RunError(f"{' '.join(argv)}\n{why}:\n{tail}")
    return Measured(
        wall_seconds=wall_seconds,
        cpu_seconds=cpu_seconds,
        peak_pss_bytes=peak,
        stdout=stdout_path.read_text(errors="replace"),
    )
