"""SIGTERM and Ctrl-C: all processes finish the same update, save, and end."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch

from train.world import World

STEPS_BETWEEN_CHECKS_ON_GPU = 8
"""Updates on a GPU take milliseconds, so the processes do not compare notes after each one."""


class StopSignal:
    """Remembers a request to stop. A second Ctrl-C ends the process at once."""

    def __init__(self, *, on_gpu: bool) -> None:
        self._asked = False
        self._every = STEPS_BETWEEN_CHECKS_ON_GPU if on_gpu else 1
        self._calls = 0

    @contextmanager
    def listening(self) -> Iterator[StopSignal]:
        """Handle the signals inside the block; restore the earlier handlers afterwards."""
        kinds = (signal.SIGTERM, signal.SIGINT)
        before = [signal.signal(kind, self._handle) for kind in kinds]
        try:
            yield self
        finally:
            for kind, handler in zip(kinds, before, strict=True):
                signal.signal(kind, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._asked = True

    def asked(self, world: World) -> bool:
        """Whether to stop after this update; the same answer in every process.

        All processes must call it after the same updates.
        """
        if world.size == 1:
            return self._asked
        self._calls += 1
        if self._calls % self._every:
            return False
        flag = torch.tensor([int(self._asked)])  # on the CPU, where gloo sends it
        torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
        return bool(flag.item())
