"""What a network takes each class for: counts by true and best class.

Suffixes: n images, k classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Pair:
    """Images of one class that were taken for another."""

    true: int
    taken_for: int
    images: int
    of: int
    """Images of the true class."""


@dataclass(frozen=True, slots=True, eq=False)
class Confusion:
    """``table_kk[true, taken for]``: images, int64 (classes, classes).

    The best class is the one with the highest probability, the first of those that tie; so an
    error here may differ from top-1 error, which counts a tie in part.
    """

    table_kk: NDArray[np.int64]

    @property
    def images(self) -> int:
        """All images."""
        return int(self.table_kk.sum())

    def class_images(self) -> NDArray[np.int64]:
        """Images of each class (k,)."""
        return np.asarray(self.table_kk.sum(1))

    def errors(self) -> NDArray[np.float64]:
        """Fraction of each class that was taken for another (k,); NaN of no images."""
        images = self.class_images()
        right = self.table_kk.diagonal()
        with np.errstate(invalid="ignore"):
            return np.asarray(1 - right / np.where(images > 0, images, np.nan))

    def worst(self, count: int) -> list[int]:
        """Up to ``count`` classes with the highest error, worst first; ties by label. Classes
        without an image or without an error are none of them."""
        errors = np.nan_to_num(self.errors(), nan=0.0)
        order = np.argsort(-errors, kind="stable")[:count]
        return [int(label) for label in order if errors[label] > 0]

    def involved(self, count: int) -> list[int]:
        """Up to ``count`` classes: the worst, then those that they and others are taken for."""
        found = [*self.worst(count), *(pair.taken_for for pair in self.pairs(count))]
        return list(dict.fromkeys(found))[:count]

    def pairs(self, count: int) -> list[Pair]:
        """The ``count`` largest confusions of two classes; ties by label."""
        wrong = self.table_kk.copy()
        np.fill_diagonal(wrong, 0)
        order = np.argsort(-wrong, axis=None, kind="stable")[:count]
        images = self.class_images()
        places = (divmod(int(place), len(wrong)) for place in order)
        return [
            Pair(true, other, int(wrong[true, other]), int(images[true]))
            for true, other in places
            if wrong[true, other] > 0
        ]

    def mistakes(self, label: int, count: int) -> list[Pair]:
        """What one class is most often taken for."""
        row = self.table_kk[label].copy()
        row[label] = 0
        of = int(self.table_kk[label].sum())
        order = np.argsort(-row, kind="stable")[:count]
        return [Pair(label, int(k), int(row[k]), of) for k in order if row[k] > 0]

    def among(self, labels: Sequence[int]) -> NDArray[np.int64]:
        """Rows of ``labels``, columns of ``labels`` and one more of all other classes."""
        rows = self.table_kk[np.asarray(labels, np.int64)]
        inside = rows[:, np.asarray(labels, np.int64)]
        return np.concatenate(
            [inside, rows.sum(1, keepdims=True) - inside.sum(1, keepdims=True)], 1
        )


class ConfusionCounter:
    """Counts batch by batch, on the device of the first."""

    def __init__(self) -> None:
        self._table_kk: Tensor | None = None

    def add(self, probability_nk: Tensor, labels_n: Tensor) -> None:
        """Count images by their scores (n, k) and labels (n,)."""
        classes = probability_nk.shape[1]
        if self._table_kk is None:
            shape = (classes, classes)
            self._table_kk = torch.zeros(shape, dtype=torch.int64, device=probability_nk.device)
        flat = labels_n * classes + probability_nk.argmax(1)
        self._table_kk.view(-1).index_add_(0, flat, torch.ones_like(flat))

    def total(self) -> Confusion:
        """The counts so far; ValueError if there were none."""
        if self._table_kk is None:
            raise ValueError("nothing was counted")
        return Confusion(self._table_kk.cpu().numpy())
