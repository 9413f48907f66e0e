"""Top-1 and top-5 errors in exact integers, equal for any batch size and number of processes.

Suffixes: n images, k classes; ``_2`` the two measures, top-1 and top-5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import torch
import torch.distributed as dist
from torch import Tensor

TOP_KS = (1, 5)
EXACT_TIES = 16


def credit_unit(classes: int) -> int:
    """The integer that one correctly classified image adds.

    A multiple of 1 to 16 and of ``classes``, so that ties of up to 16 classes, and of all, share
    their credit exactly. Ties of other sizes are rounded down by less than 1 / 720,720 of an
    image, each on its own, so that sums still do not depend on their order.
    """
    return math.lcm(*range(1, EXACT_TIES + 1), classes)


def topk_credit(scores_nk: Tensor, labels_n: Tensor) -> Tensor:
    """Credit of each image for top-1 and top-5, in units of ``credit_unit``: int64 (2, n).

    If b classes score higher than the label's and t tie with it (itself included), the label is
    among the best ``top`` in ``(top - b) / t`` of the ways to order the tie, clamped to 0 and 1
    (layer_kernels.cu 96-119 of the 2012 source). An image with a NaN score counts as wrong.
    Scores may be logits or probabilities; nothing waits for the device.
    """
    unit = credit_unit(scores_nk.shape[1])
    own_n1 = scores_nk.gather(1, labels_n[:, None])
    beaten_by_n = (scores_nk > own_n1).sum(1)
    tied_n = (scores_nk == own_n1).sum(1)
    valid_n = ~scores_nk.isnan().any(1)
    rows = []
    for top in TOP_KS:
        places_n = (top - beaten_by_n).clamp(min=0).minimum(tied_n)
        credit_n = places_n * unit // tied_n.clamp(min=1)
        rows.append(torch.where(valid_n, credit_n, 0))
    return torch.stack(rows)


@dataclass(frozen=True, slots=True)
class TopK:
    """Counts of images per class.

    ``table_3k`` is int64 (3, classes) on the CPU: images, top-1 credit, top-5 credit.
    """

    table_3k: Tensor

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.table_3k.shape[1]

    @property
    def count(self) -> int:
        """Images counted."""
        return int(self.table_3k[0].sum())

    @property
    def top1_error(self) -> float:
        """Fraction of images whose class does not have the best score; NaN without images."""
        return self._error(1)

    @property
    def top5_error(self) -> float:
        """Fraction of images whose class is not among the best five; NaN without images."""
        return self._error(2)

    def class_counts(self) -> list[int]:
        """Images of each class."""
        return [int(each) for each in self.table_3k[0].tolist()]

    def class_errors(self, top: int) -> list[float | None]:
        """Top-1 or top-5 error of each class; None where it has no image."""
        row = 1 + TOP_KS.index(top)
        pairs = zip(self.table_3k[row].tolist(), self.class_counts(), strict=True)
        return [self._fraction(credit, count) if count else None for credit, count in pairs]

    def _error(self, row: int) -> float:
        count = self.count
        return self._fraction(int(self.table_3k[row].sum()), count) if count else math.nan

    def _fraction(self, credit: int, count: int) -> float:
        return float(1 - Fraction(credit, count * credit_unit(self.classes)))


class TopKCounter:
    """Sums credit on a device; waits for the device only when ``total`` is called."""

    def __init__(self, classes: int, device: torch.device) -> None:
        self.table_3k = torch.zeros((3, classes), dtype=torch.int64, device=device)

    @torch.no_grad()
    def add(self, scores_nk: Tensor, labels_n: Tensor) -> None:
        """Count a batch: scores (n, classes), labels int64 (n,)."""
        credit_2n = topk_credit(scores_nk, labels_n)
        ones_1n = torch.ones_like(labels_n)[None]
        self.table_3k.index_add_(1, labels_n, torch.cat((ones_1n, credit_2n)))

    def total(self, processes: int = 1) -> TopK:
        """The counts of all ``processes`` together; every one of them must call it."""
        return TopK(summed(self.table_3k, processes))


def summed(counts: Tensor, processes: int) -> Tensor:
    """Exact sum of an integer tensor over ``processes``, on the CPU; every one must call it.

    It uses the CPU backend (gloo), because the sum is read on the CPU and a process that had
    nothing to count does not know the device of the others.
    """
    assert not counts.is_floating_point(), "sums of floats depend on their order"
    total = counts.to("cpu", copy=True)
    if processes > 1:
        dist.all_reduce(total)
    return total
