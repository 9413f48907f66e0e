"""The five best classes of a few photographs, as in the paper's figure 4 (left)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

BEST = 5


@dataclass(frozen=True, slots=True)
class Guess:
    """A class, and the probability that the network gives it."""

    label: int
    probability: float


@dataclass(frozen=True, slots=True)
class Guesses:
    """The network's best classes for one record."""

    record: int
    label: int
    """The right class."""
    best: tuple[Guess, ...]
    """Up to five, best first; ties by label."""

    @property
    def place(self) -> int | None:
        """Rank of the right class among the best, from 1; None if it is not among them."""
        labels = [guess.label for guess in self.best]
        return labels.index(self.label) + 1 if self.label in labels else None


class GuessKeeper:
    """Keeps the best classes of chosen records while the batches of an evaluation pass."""

    def __init__(self, records: Sequence[int] | NDArray[np.int64]) -> None:
        self._wanted = [int(record) for record in records]
        self._found: dict[int, Guesses] = {}

    def add(self, record_n: NDArray[np.int64], probability_nk: Tensor, labels_n: Tensor) -> None:
        """Keep what is wanted of a batch."""
        for row in np.flatnonzero(np.isin(record_n, self._wanted)).tolist():
            best, order = probability_nk[row].sort(descending=True, stable=True)
            record = int(record_n[row])
            self._found[record] = Guesses(
                record,
                int(labels_n[row]),
                tuple(
                    Guess(int(label), float(value))
                    for label, value in zip(order[:BEST], best[:BEST], strict=True)
                ),
            )

    def total(self) -> list[Guesses]:
        """Return the guesses found, in the order of the chosen records."""
        return [self._found[record] for record in self._wanted if record in self._found]
