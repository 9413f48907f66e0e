"""What an epoch shows, and in which order, computed for the next epoch while this one runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from train.feed.augment import EpochDraws


@dataclass(frozen=True, slots=True, eq=False)
class EpochPlan:
    """The order and the random choices of an epoch, both by position."""

    epoch: int
    order_n: NDArray[np.int64]
    draws: EpochDraws


class EpochPlanner:
    """Computes plans one epoch ahead in its own thread.

    A plan of ImageNet takes 60 MB and 0.7 s (measured on one core): time for 80 batches on a GPU.
    """

    def __init__(self, make: Callable[[int], EpochPlan]) -> None:
        self._make = make
        self._thread: ThreadPoolExecutor | None = None

    def plans(self, epoch: int) -> Iterator[EpochPlan]:
        """Yield the plans of ``epoch`` and of all epochs after it, without end."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "imgprep-plan")
        plan = self._make(epoch)
        while True:
            following = self._thread.submit(self._make, plan.epoch + 1)
            yield plan
            plan = following.result()

    def close(self) -> None:
        """End the thread; ``plans`` starts it again."""
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None
