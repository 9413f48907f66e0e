"""Predictions and nearest neighbours of a trained network, as in the paper's figure 4: the counts.

The photographs, guesses and neighbours are those of the page of a run (``train.show.report``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from imgprep.pages.page import Table
from train.run.error_text import per_cent
from train.show.guesses import BEST
from train.show.report import Measured


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictionCounts:
    """What the figure shows, in numbers."""

    photographs: int
    first: int
    """Photographs whose right class is the network's first."""
    among_five: int
    neighbours: int
    """Nearest training photographs of all photographs together."""
    same_class: int
    """Neighbours of the class of their photograph."""
    expected: float
    """Share of the same class among neighbours drawn at random, from classes of equal size."""

    def to_json(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "photographs": self.photographs,
            "right_first": self.first,
            "right_among_five": self.among_five,
            "neighbours": self.neighbours,
            "neighbours_of_same_class": self.same_class,
            "expected_share_of_same_class": self.expected,
        }

    def sentence(self) -> str:
        """Say the counts."""
        five = f" and among the first five of {self.among_five}" if self.expected < 1 / BEST else ""
        share = self.same_class / max(1, self.neighbours)
        return (
            f"The right class comes first for {self.first} of {self.photographs} photographs{five}."
            f" Of their nearest training photographs by fc7, {per_cent(share, 0)} have the same "
            f"class; at random it would be {per_cent(self.expected, 0)}."
        )


def prediction_counts(measured: Measured) -> PredictionCounts:
    """Count right guesses and neighbours of the same class."""
    places = [guess.place for guess in measured.guesses]
    same = [near.label == each.label for each in measured.neighbourhoods for near in each.nearest]
    return PredictionCounts(
        photographs=len(places),
        first=sum(place == 1 for place in places),
        among_five=sum(place is not None for place in places),
        neighbours=len(same),
        same_class=int(np.sum(same)),
        expected=1 / measured.data.classes,
    )


def guesses_table(measured: Measured, names: Sequence[str]) -> Table:
    """Tabulate the best classes of each photograph."""
    best = min(BEST, measured.data.classes)
    rows = [
        [
            names[each.label],
            *(f"{names[guess.label]} {per_cent(guess.probability, 0)}" for guess in each.best),
        ]
        for each in measured.guesses
    ]
    return Table(
        head=["class", *(f"guess {k}" for k in range(1, best + 1))],
        rows=rows,
        caption="The best classes of each photograph and their probabilities",
        numbers=False,
    )


def neighbours_table(measured: Measured, names: Sequence[str]) -> Table:
    """Tabulate the classes and distances of the neighbours."""
    count = max((len(each.nearest) for each in measured.neighbourhoods), default=0)
    rows = [
        [
            names[each.label],
            *(f"{names[near.label]} {near.distance:.2f}" for near in each.nearest),
        ]
        for each in measured.neighbourhoods
    ]
    return Table(
        head=["class", *(f"neighbour {k}" for k in range(1, count + 1))],
        rows=rows,
        caption="The nearest training photographs of each photograph: class and distance",
        numbers=False,
    )
