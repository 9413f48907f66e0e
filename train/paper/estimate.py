"""The time and disk that a plan needs, from updates timed on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgprep.progress import duration
from imgprep.wording import counted, readable_bytes
from train.paper.command import Prepared
from train.paper.machine import processors_of_one_run
from train.paper.plan import Job
from train.run.job import FitJob, FitRequest
from train.run.job import prepare as prepare_fit
from train.run.timing import time_steps
from train.settings import from_assignments

START_S = 8.0
"""Time for a command to start and end, without its updates."""
CHECKPOINTS = 3
"""Checkpoints of a run on disk at most: last, best, and one being written."""
BYTES_PER_PARAMETER = 8
"""Weights and velocities, float32."""
DAY_S = 86_400


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """What a plan needs."""

    runs: int
    evaluations: int
    done: int
    """Of both, those that have finished."""
    side_by_side: int
    seconds: float
    disk_bytes: int
    step_seconds: dict[str, float]
    """Time of an update of the first run on each dataset."""
    commands: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "runs": self.runs,
            "evaluations": self.evaluations,
            "done": self.done,
            "side_by_side": self.side_by_side,
            "seconds": self.seconds,
            "disk_bytes": self.disk_bytes,
            "step_seconds": self.step_seconds,
            "commands": list(self.commands),
        }

    def render(self) -> str:
        """For people."""
        days = self.seconds / DAY_S
        long = f"{days:.1f} days" if days >= 2 else f"{duration(self.seconds)} (h:mm:ss)"
        timed = ", ".join(
            f"{1000 * seconds:,.0f} ms an update on {name}"
            for name, seconds in self.step_seconds.items()
        )
        return "\n".join(
            (
                *self.commands,
                f"commands  {counted(self.runs, 'run')} and "
                f"{counted(self.evaluations, 'evaluation')}, {self.done} of them done; "
                f"{self.side_by_side} at a time",
                f"time      about {long}, if input keeps up ({timed or 'nothing to time'})",
                f"disk      about {readable_bytes(self.disk_bytes)} of checkpoints",
            )
        )


def estimate(prepared: Prepared) -> Estimate:
    """Time an update of one run on each dataset; writes nothing into the runs' folders."""
    plan = prepared.plan
    timed: dict[str, float] = {}
    seconds, disk = 0.0, 0
    for spec, job in plan.runs.values():
        fit = _fit_job(job)
        if spec.data not in timed:
            with processors_of_one_run(prepared.machine):
                timed[spec.data] = time_steps(_fit_job(job)).timed.step_seconds
        disk += CHECKPOINTS * BYTES_PER_PARAMETER * fit.budget.parameters
        if not job.done:
            seconds += START_S + fit.budget.steps * timed[spec.data]
    waiting = [job for _, job in plan.evaluations.values() if not job.done]
    seconds += START_S * len(waiting)
    jobs = plan.jobs
    return Estimate(
        runs=len(plan.runs),
        evaluations=len(plan.evaluations),
        done=sum(job.done for job in jobs),
        side_by_side=prepared.machine.side_by_side,
        seconds=seconds / prepared.machine.side_by_side,
        disk_bytes=disk,
        step_seconds=timed,
        commands=tuple(job.command for job in jobs),
    )


def _fit_job(job: Job) -> FitJob:
    """Resolve the settings of a run as its command does."""
    words = list(job.arguments)
    values = [words[k + 1] for k, word in enumerate(words) if word == "--set"]
    return prepare_fit(
        FitRequest(
            dataset=words[1],
            out=Path(words[words.index("--out") + 1]),
            config_file=Path(words[words.index("--config") + 1]),
            flags=from_assignments(tuple(values)),
        )
    )
