"""The time that a run needs, from a few updates timed on this machine."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from imgprep.progress import duration
from imgprep.wording import counted
from train.feed.loader import Batch
from train.net import build_net
from train.optim import schedule
from train.optim.sgd import Sgd
from train.run.arithmetic import use_precision
from train.run.job import FitJob
from train.run.replay import DIRECT_UPDATES
from train.run.step import Stepper
from train.world import World

TIMED_S = 3.0
"""Updates are timed for this long, after a first one (on a GPU three) that is not."""
CPU_ROWS = 32
"""Images of a timed update on a CPU: more take longer, in proportion."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TimedUpdates:
    """A few updates that were timed."""

    updates: int
    images: int
    """Images of each timed update."""
    seconds: float
    step_seconds: float
    """Time of an update with all images of one process."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepTiming:
    """What was timed, and the time that follows for the run."""

    timed: TimedUpdates
    data: TimedUpdates | None
    """For a run in columns: one of two processes of ``--parallel data``, without its exchange of
    gradients. Else None."""
    run_seconds: float
    """Time of all updates of the run."""

    def to_json(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "step_seconds": self.timed.step_seconds,
            "run_seconds": self.run_seconds,
            "data_step_seconds": None if self.data is None else self.data.step_seconds,
        }

    def render(self) -> str:
        """For people: one line, and one more for a run in columns."""
        timed = self.timed
        lines = [
            f"time      about {duration(self.run_seconds)} (h:mm:ss), "
            f"{1000 * timed.step_seconds:,.0f} ms per step, if input keeps up; timed: "
            f"{counted(timed.updates, 'update')} of {counted(timed.images, 'image')} in "
            f"{timed.seconds:.1f} s, without input and other processes"
        ]
        if self.data is not None:
            ratio = timed.step_seconds / self.data.step_seconds
            lines.append(
                f"columns   {ratio:.2f} times as long per step as --parallel data in two processes "
                f"({1000 * self.data.step_seconds:,.0f} ms, timed in one of them without the "
                "exchange of gradients)"
            )
        return "\n".join(lines)


def time_steps(job: FitJob) -> StepTiming:
    """Time updates of one process of the run with random images; reads and writes no files."""
    images, place = job.budget.batch_images, job.placement
    use_precision(job.config.precision, deterministic=job.config.deterministic)
    share = -(-min(images, job.budget.train_images) // job.budget.processes)
    columns = place.parallel == "columns"
    timed = _time(job, job.devices, share, threads=place.threads_per_process, columns=columns)
    data = None
    if columns:
        threads = max(1, place.threads_per_process // 2)
        data = _time(job, job.devices[:1], -(-share // 2), threads=threads, columns=False)
    run_seconds = timed.step_seconds * job.budget.steps
    return StepTiming(timed=timed, data=data, run_seconds=run_seconds)


def _time(
    job: FitJob, devices: tuple[torch.device, ...], share: int, *, threads: int, columns: bool
) -> TimedUpdates:
    """Time updates of ``share`` images on ``devices``."""
    config, device = job.config, devices[0]
    torch.set_num_threads(threads)
    rows = min(share, CPU_ROWS) if device.type == "cpu" else share
    net = build_net(
        config.net,
        classes=job.budget.classes,
        devices=devices,
        columns=columns,
        seed=config.seed,
        image_px=config.input.crop_px,
    )
    stepper = Stepper(net, Sgd(net, config.optim), config, World(), whole_images=rows)
    rates = schedule.rate(config.optim, schedule.start(config.optim), 0)
    batch = _random_batch(rows, job)

    def update(batch: Batch, number: int) -> None:
        stepper(batch, rates, global_step=number)
        for each in devices:
            if each.type == "cuda":
                torch.cuda.synchronize(each)

    if device.type == "cuda" or config.compile:  # compiled, and recorded
        for number in range(DIRECT_UPDATES + 1):
            update(batch, number)
    else:
        update(_random_batch(1, job), 0)
    updates, seconds, started = 0, 0.0, time.monotonic()
    while seconds < TIMED_S:
        updates += 1
        update(batch, updates)
        seconds = time.monotonic() - started
    return TimedUpdates(
        updates=updates,
        images=rows,
        seconds=seconds,
        step_seconds=seconds / updates * share / rows,
    )


def _random_batch(rows: int, job: FitJob) -> Batch:
    px, device = job.config.input.crop_px, job.devices[0]
    draw = torch.Generator().manual_seed(0)
    images = 50 * torch.randn((rows, 3, px, px), generator=draw)
    return Batch(
        images=images.to(device, getattr(torch, job.config.input.dtype)).contiguous(
            memory_format=torch.channels_last
        ),
        labels_n=torch.randint(job.data.classes, (rows,), generator=draw).to(device),
        record_n=np.arange(rows),
        first_row=0,
        global_images=rows,
    )
