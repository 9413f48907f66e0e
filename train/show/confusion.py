"""Confusion matrix: counts of images by true class and by the class that the network ranks best.

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
    """``table_kk[true, taken for]``: image counts, int64 (classes, classes).

    The best class is the one with the highest probability; of a tie, the first. So an error here
    may differ from the top-1 error, which counts ties in part.
    """

    table_kk: NDArray[np.int64]

    @property
    def images(self) -> int:
        """Number of images."""
        return int(self.table_kk.sum())

    def class_images(self) -> NDArray[np.int64]:
        """Return the number of images of each class (k,)."""
        return np.asarray(self.table_kk.sum(1))

    def errors(self) -> NDArray[np.float64]:
        """Return the fraction of each class that was misclassified (k,); NaN without images."""
        images = self.class_images()
        right = self.table_kk.diagonal()
        with np.errstate(invalid="ignore"):
            return np.asarray(1 - right / np.where(images > 0, images, np.nan))

    def worst(self, count: int) -> list[int]:
        """Return up to ``count`` classes with the highest error, worst first; ties by label.

        Classes without images or without errors are left out.
        """
        errors = np.nan_to_num(self.errors(), nan=0.0)
        order = np.argsort(-errors, kind="stable")[:count]
        return [int(label) for label in order if errors[label] > 0]

    def involved(self, count: int) -> list[int]:
        """Return up to ``count`` classes: the worst, then those that images are mistaken for."""
        found = [*self.worst(count), *(pair.taken_for for pair in self.pairs(count))]
        return list(dict.fromkeys(found))[:count]

    def pairs(self, count: int) -> list[Pair]:
        """Return the ``count`` most frequent confusions of two classes; ties by label."""
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
        """Return the classes that ``label`` is most often mistaken for."""
        row = self.table_kk[label].copy()
        row[label] = 0
        of = int(self.table_kk[label].sum())
        order = np.argsort(-row, kind="stable")[:count]
        return [Pair(label, int(k), int(row[k]), of) for k in order if row[k] > 0]

    def among(self, labels: Sequence[int]) -> NDArray[np.int64]:
        """Return rows for ``labels``; columns for ``labels`` and one for all other classes."""
        rows = self.table_kk[np.asarray(labels, np.int64)]
        inside = rows[:, np.asarray(labels, np.int64)]
        return np.concatenate(
            [inside, rows.sum(1, keepdims=True) - inside.sum(1, keepdims=True)], 1
        )


class ConfusionCounter:
    """Counts batch by batch, on the device of the first batch."""

    def __init__(self) -> None:
        self._table_kk: Tensor | None = None

    def add(self, probability_nk: Tensor, labels_n: Tensor) -> None:
        """Count a batch: scores (n, k) and labels (n,)."""
        classes = probability_nk.shape[1]
        if self._table_kk is None:
            shape = (classes, classes)
            self._table_kk = torch.zeros(shape, dtype=torch.int64, device=probability_nk.device)
        flat = labels_n * classes + probability_nk.argmax(1)
        self._table_kk.view(-1).index_add_(0, flat, torch.ones_like(flat))

    def total(self) -> Confusion:
        """Return the counts so far; ValueError if no batch was counted."""
        if self._table_kk is None:
            raise ValueError("nothing was counted")
        return Confusion(self._table_kk.cpu().numpy())
