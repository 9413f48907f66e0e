"""SIGTERM and Ctrl-C: all processes finish the same update or validation batch, save, and end."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

from train.join import any_process
from train.world import World

STEPS_BETWEEN_CHECKS_ON_GPU = 8
"""Updates on a GPU take milliseconds, so the processes do not compare notes after each one."""
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignal:
    """Remembers a request to stop. A second Ctrl-C ends the process at once.

    Until ``listen`` is called, the signals end the process as usual.
    """

    def __init__(self, *, on_gpu: bool) -> None:
        self._asked = False
        self._every = STEPS_BETWEEN_CHECKS_ON_GPU if on_gpu else 1
        self._calls = 0
        self._before: dict[signal.Signals, Callable[..., Any] | int | None] = {}

    def listen(self) -> None:
        """Handle the signals from now on: there is something to save."""
        if not self._before:
            self._before = {kind: signal.signal(kind, self._handle) for kind in SIGNALS}

    def close(self) -> None:
        """Restore the earlier handlers."""
        for kind, handler in self._before.items():
            signal.signal(kind, handler)
        self._before = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._asked = True

    def asked(self, world: World, *, now: bool = False) -> bool:
        """Whether to stop at this point; the same answer in every process.

        All processes must call it at the same points. On a GPU they compare notes only at every
        8th call, unless ``now``.
        """
        self._calls += 1
        if world.size > 1 and not now and self._calls % self._every:
            return False
        return any_process(world, self._asked)
