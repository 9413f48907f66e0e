"""The time that a run needs, from a few updates timed on this machine."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from imgprep.progress import duration
from train.feed.loader import Batch
from train.net import build_net
from train.optim import schedule
from train.optim.sgd import Sgd
from train.run.job import FitJob
from train.run.step import FLOAT_TYPES, Stepper
from train.world import World

TIMED_S = 3.0
"""Updates are timed for this long, after a first one of one image that is not."""
CPU_ROWS = 32
"""Images of a timed update on a CPU: more take longer, in proportion."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepTiming:
    """What was timed, and the time that follows for the run."""

    updates: int
    images: int
    """Of each timed update."""
    timed_seconds: float
    step_seconds: float
    """Of an update with the images of one process."""
    run_seconds: float
    """Of all updates of the run."""

    def to_json(self) -> dict[str, Any]:
        """For scripts."""
        return {"step_seconds": self.step_seconds, "run_seconds": self.run_seconds}

    def render(self) -> str:
        """For people: one line."""
        return (
            f"time      about {duration(self.run_seconds)} (h:mm:ss), "
            f"{1000 * self.step_seconds:,.0f} ms per step, if input keeps up; timed: "
            f"{self.updates} update{'s' * (self.updates != 1)} of {self.images} images in "
            f"{self.timed_seconds:.1f} s, without input and other processes"
        )


def time_steps(job: FitJob) -> StepTiming:
    """Time updates of one process of the run with random images; reads and writes no files."""
    config, device = job.config, job.devices[0]
    torch.set_num_threads(job.placement.threads_per_process)
    share = -(-min(job.budget.batch_images, job.budget.train_images) // job.budget.processes)
    rows = min(share, CPU_ROWS) if device.type == "cpu" else share
    net = build_net(
        config.net,
        classes=job.budget.classes,
        devices=job.devices,
        columns=job.placement.parallel == "columns",
        seed=config.seed,
        image_px=config.input.crop_px,
    )
    sgd = Sgd(net, config.optim)
    stepper = Stepper(net, sgd, config, World())
    rates = schedule.rate(config.optim, schedule.start(config.optim), 0)
    batch = _random_batch(rows, job)

    def update(batch: Batch, number: int) -> None:
        stepper(batch, rates, global_step=number)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    update(_random_batch(1, job), 0)
    updates, seconds, started = 0, 0.0, time.monotonic()
    while seconds < TIMED_S:
        updates += 1
        update(batch, updates)
        seconds = time.monotonic() - started
    step_seconds = seconds / updates * share / rows
    return StepTiming(
        updates=updates,
        images=rows,
        timed_seconds=seconds,
        step_seconds=step_seconds,
        run_seconds=step_seconds * job.budget.steps,
    )


def _random_batch(rows: int, job: FitJob) -> Batch:
    px, device = job.config.input.crop_px, job.devices[0]
    draw = torch.Generator().manual_seed(0)
    images = 50 * torch.randn((rows, 3, px, px), generator=draw)
    return Batch(
        images=images.to(device, FLOAT_TYPES[job.config.input.dtype]).contiguous(
            memory_format=torch.channels_last
        ),
        labels_n=torch.randint(job.data.classes, (rows,), generator=draw).to(device),
        record_n=np.arange(rows),
        first_row=0,
        global_images=rows,
    )
