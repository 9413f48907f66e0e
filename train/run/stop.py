"""SIGTERM and Ctrl-C: finish the update, save, leave; all processes after the same update."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch

from train.world import World

STEPS_BETWEEN_TALKS_ON_GPU = 8
"""Updates on a GPU take milliseconds: asking the other processes after each would cost."""


class StopSignal:
    """Remembers that somebody asked this process to stop. A second Ctrl-C ends it at once."""

    def __init__(self, *, on_gpu: bool) -> None:
        self._asked = False
        self._every = STEPS_BETWEEN_TALKS_ON_GPU if on_gpu else 1
        self._calls = 0

    @contextmanager
    def listening(self) -> Iterator[StopSignal]:
        """Take the signals over, and give them back at the end."""
        kinds = (signal.SIGTERM, signal.SIGINT)
        before = [signal.signal(kind, self._hear) for kind in kinds]
        try:
            yield self
        finally:
            for kind, handler in zip(kinds, before, strict=True):
                signal.signal(kind, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self._asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._asked = True

    def asked(self, world: World) -> bool:
        """Whether to stop after this update: the same answer in every process.

        All processes must call it after the same updates.
        """
        if world.size == 1:
            return self._asked
        self._calls += 1
        if self._calls % self._every:
            return False
        flag = torch.tensor([int(self._asked)])  # on the CPU: gloo carries it
        torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
        return bool(flag.item())
