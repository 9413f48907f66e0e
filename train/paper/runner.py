"""Runs the jobs of a plan as processes, several side by side, each on processors of its own.

A job that has finished is taken; one that was interrupted is resumed by its own command. If one
fails, the jobs that need it are left out and the others continue.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from imgprep.progress import duration
from imgprep.storage.atomic import json_bytes, read_json
from imgprep.wording import counted
from train import program
from train.errors import RunStoppedError
from train.paper.files import cannot_write, write_new
from train.paper.machine import Machine
from train.paper.plan import Job
from train.run.ranks import GRACE_S, LAUNCHER_VARIABLE, POLL_S
from train.run.stop import SIGNALS

LOGS = "logs"
Line = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """A job that did not finish."""

    job: Job
    reason: str


@dataclass(slots=True)
class _Running:
    job: Job
    process: subprocess.Popen[bytes]
    place: int
    started: float
    output: Path
    log: Path


@dataclass(slots=True)
class Runner:
    """Runs jobs in the folder ``out``; ``line`` gets lines of progress."""

    out: Path
    machine: Machine
    line: Line
    failures: dict[str, Failure] = field(default_factory=dict)
    _running: list[_Running] = field(default_factory=list)

    def run(self, jobs: Sequence[Job]) -> None:
        """Run all jobs that have not finished.

        Raises:
            RunStoppedError: SIGTERM or Ctrl-C; the jobs have saved.
            DestinationError: ``out`` cannot be written.
        """
        waiting = [job for job in jobs if not job.done]
        done = {job.name for job in jobs if job.done}
        progress = Progress(line=self.line, jobs=jobs, before=frozenset(done))
        with _signals() as received:
            try:
                while (waiting or self._running) and not received:
                    waiting = self._start(waiting, done)
                    if not self._end(done, progress):
                        time.sleep(POLL_S)
            finally:
                self._stop()
        if received:
            self._end(done, progress, stopped=True)
            raise RunStoppedError(
                f"stopped with {len(done)} of {counted(len(jobs), 'command')} done: run the same "
                "command again to resume"
            )

    def _start(self, waiting: list[Job], done: set[str]) -> list[Job]:
        """Start jobs in free places; returns those that still wait."""
        rest = []
        for job in waiting:
            lost = next((name for name in job.needs if name in self.failures), None)
            if lost is not None:
                self._fail(job, f"it needs {lost}, which failed")
            elif len(self._running) < self.machine.side_by_side and done.issuperset(job.needs):
                self._running.append(self._process(job))
            else:
                rest.append(job)
        return rest

    def _process(self, job: Job) -> _Running:
        place = min(set(range(self.machine.side_by_side)) - {each.place for each in self._running})
        log, output = self.out / LOGS / f"{job.name}.log", self.out / LOGS / f"{job.name}.out"
        words = [sys.executable, "-m", "train", *job.arguments, "--json", *_quiet(job)]
        environment = {
            **os.environ,
            "PYTHONSAFEPATH": "1",  # the user's folder may contain a train.py
            "OMP_NUM_THREADS": "1",  # a run sets its threads later
            program.COMMAND_VARIABLE: program.command(),
            LAUNCHER_VARIABLE: str(os.getpid()),  # a run ends when this process is killed
        }
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("ab") as stderr, output.open("wb") as stdout:
                process = subprocess.Popen(
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=stdout,
                    stderr=stderr,
                    env=environment,
                    start_new_session=True,  # Ctrl-C reaches this process only
                )
        except OSError as exc:
            raise cannot_write(log, exc) from exc
        own = self.machine.processors
        if own:
            with suppress(OSError):  # it has ended already
                os.sched_setaffinity(process.pid, own[place])
        return _Running(job, process, place, time.monotonic(), output, log)

    def _end(self, done: set[str], progress: Progress, *, stopped: bool = False) -> bool:
        """Note the jobs that have ended, or were ``stopped``; returns whether any has."""
        ended = [each for each in self._running if each.process.poll() is not None]
        for each in ended:
            self._running.remove(each)
            seconds = time.monotonic() - each.started
            if each.process.returncode == 0:
                value = {
                    "command": each.job.command,
                    "seconds": round(seconds, 1),
                    "output": read_json(each.output, "what a command printed"),
                }
                write_new(each.job.result, json_bytes(value))
                done.add(each.job.name)
                progress.done(each.job, seconds, side_by_side=self.machine.side_by_side)
            elif stopped:
                continue  # it has saved, and its command resumes
            elif each.process.returncode in (-signal.SIGTERM, -signal.SIGKILL):
                name = signal.Signals(-each.process.returncode).name
                self._fail(each.job, f"killed by {name}")
            else:
                self._fail(each.job, _last_line(each.log))
        return bool(ended)

    def _fail(self, job: Job, reason: str) -> None:
        self.failures[job.name] = Failure(job=job, reason=reason)
        self.line(f"failed: {job.name}: {reason}")

    def _stop(self) -> None:
        """Ask all jobs to save and end, and kill those that do not."""
        for each in self._running:
            if each.process.poll() is None:
                each.process.terminate()
        deadline = time.monotonic() + GRACE_S
        for each in self._running:
            try:
                each.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                each.process.kill()
                each.process.wait()


@dataclass(slots=True)
class Progress:
    """Lines of progress with the time left, from the time that finished jobs of a kind took."""

    line: Line
    jobs: Sequence[Job]
    before: frozenset[str]
    """Jobs that had finished before."""
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.before:
            many = counted(len(self.before), "command")
            self.line(f"{many} of {len(self.jobs)}: already done, taken as they are")

    def done(self, job: Job, seconds: float, *, side_by_side: int) -> None:
        """Count a job."""
        self.seconds[job.name] = seconds
        finished = self.before | set(self.seconds)
        left = [each for each in self.jobs if each.name not in finished]
        mean = sum(self.seconds.values()) / len(self.seconds)
        self.line(
            f"[{len(finished)}/{len(self.jobs)}] {job.name}: {duration(seconds)}; about "
            f"{duration(mean * len(left) / side_by_side)} left"
        )


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGTERM and SIGINT while jobs run."""
    received: list[int] = []

    def note(number: int, frame: object) -> None:
        received.append(number)

    before = [signal.signal(kind, note) for kind in SIGNALS]
    try:
        yield received
    finally:
        for kind, handler in zip(SIGNALS, before, strict=True):
            signal.signal(kind, handler)


def _quiet(job: Job) -> tuple[str, ...]:
    return ("--quiet",) if job.arguments[0] == "fit" else ()


def _last_line(log: Path) -> str:
    """Return the last line that a command printed on stderr."""
    try:
        lines = log.read_bytes()[-4096:].decode("utf-8", "replace").split("\n")
    except OSError as exc:
        return f"{log}: cannot read: {exc.strerror}"
    said = next((line for line in reversed(lines) if line.strip()), "it printed nothing")
    return f"{said.strip()} (log: {log})"
