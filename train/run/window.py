"""What is summed between two lines of the log."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from train.world import World


@dataclass(frozen=True, slots=True)
class Means:
    """One line of the log: means over the images since the line before."""

    images: int
    loss: float
    """Cross-entropy, nats an image."""
    top1_error: float
    top5_error: float
    """Fractions; in training, so under crops, noise and dropout."""
    images_per_second: float
    """Of all processes, as this one's share tells."""
    wait_ms: float
    """Of a step: waiting for input."""
    step_ms: float
    """Of a step: all the rest."""


class Window:
    """Adds up updates; costs no wait for the device until ``means`` is asked for."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.reset()

    def reset(self) -> None:
        """Begin anew, and start the clock."""
        self._sums = torch.zeros(4, dtype=torch.float64, device=self._device)
        self.restart_clock()

    def restart_clock(self) -> None:
        """Leave what went before, such as a validation, out of the rates."""
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
        """Go on from ``totals``, which the main process holds from now on."""
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
