"""Means over the updates between two lines of the log."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from train.world import World


@dataclass(frozen=True, slots=True)
class Means:
    """What one line of the log shows: means over the images since the previous line."""

    images: int
    loss: float
    """Cross-entropy, nats per image."""
    top1_error: float
    top5_error: float
    """Fractions; measured in training, so under crops, noise and dropout."""
    images_per_second: float
    """Of all processes, extrapolated from this one's share."""
    wait_ms: float
    """Per step: time spent waiting for input."""
    step_ms: float
    """Per step: all other time."""


class StepMeter:
    """Sums updates on the device; waits for the device only when ``means`` is called."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.reset()

    def reset(self) -> None:
        """Set all sums to 0 and restart the clock."""
        self._sums = torch.zeros(4, dtype=torch.float64, device=self._device)
        self.restart_clock()

    def restart_clock(self) -> None:
        """Leave time already spent, such as a validation, out of the rates."""
        self._steps = 0
        self._rows = 0
        self._wait_seconds = 0.0
        self._started = time.monotonic()

    def add(self, sums: Tensor, images: int, wait_seconds: float) -> None:
        """Add one update: ``sums`` as in ``StepSums``."""
        self._sums[:3] += sums
        self._sums[3] += images
        self._steps += 1
        self._rows += images
        self._wait_seconds += wait_seconds

    def totals(self, world: World) -> list[float]:
        """Sums over all processes, for a checkpoint; waits for the device."""
        sums = self._sums.clone()
        if world.size > 1:
            torch.distributed.all_reduce(sums)
        return [float(value) for value in sums.tolist()]

    def load(self, totals: list[float], world: World) -> None:
        """Resume from ``totals``; the main process holds them from now on."""
        self.reset()
        if world.is_main:
            self._sums += torch.tensor(totals, dtype=torch.float64, device=self._device)

    def means(self, world: World) -> Means:
        """Means over all processes; waits for the device."""
        loss, top1, top5, images = self.totals(world)
        seconds = max(time.monotonic() - self._started, 1e-9)
        steps = max(self._steps, 1)
        count = max(images, 1)
        return Means(
            images=round(images),
            loss=loss / count,
            top1_error=1 - top1 / count,
            top5_error=1 - top5 / count,
            images_per_second=self._rows * world.size / seconds,
            wait_ms=1000 * self._wait_seconds / steps,
            step_ms=1000 * (seconds - self._wait_seconds) / steps,
        )
