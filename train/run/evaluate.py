"""The error of a network, or of several averaged: each record of a split counted exactly once.

Class probabilities (softmax in float32) are averaged over the views of an image and over the
networks, as in the paper (4.1) and its source (layer.cu 1809-1821): not logits, not logarithms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from train.errors import DataError
from train.run.metrics import TopK, TopKCounter, summed

LOSS_UNIT = 2**20
"""Losses are added up in integers of this part of a nat: the same for any order."""


class BatchLike(Protocol):
    """What the evaluation loader gives."""

    @property
    def images_v(self) -> Iterable[Tensor]:
        """Images (n, 3, crop, crop), view by view."""

    @property
    def labels_n(self) -> Tensor: ...
    @property
    def record_n(self) -> NDArray[np.int64]: ...


Watch = Callable[[NDArray[np.int64], Tensor, Tensor], None]
"""Is shown each batch: records (n,), mean probabilities float32 (n, k), labels (n,)."""


class NetLike(Protocol):
    """Logits of images, without dropout masks."""

    def __call__(self, images: Tensor, masks: None, /) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a measurement found. Errors are fractions."""

    counts: TopK
    loss: float
    """Mean of minus the logarithm of the probability of the right class; NaN if one was NaN."""
    views: int
    """Views of each image that were averaged."""
    networks: int

    @property
    def count(self) -> int:
        """Images."""
        return self.counts.count

    @property
    def top1_error(self) -> float:
        """Of all images."""
        return self.counts.top1_error

    @property
    def top5_error(self) -> float:
        """Of all images."""
        return self.counts.top5_error

    def to_json(self, *, per_class: bool = False) -> dict[str, Any]:
        """For scripts; a class without images has null errors."""
        value: dict[str, Any] = {
            "top1_error": self.top1_error,
            "top5_error": self.top5_error,
            "count": self.count,
            "loss": self.loss if math.isfinite(self.loss) else None,
            "views": self.views,
            "networks": self.networks,
        }
        if per_class:
            value["per_class"] = [
                {"class": k, "count": count, "top1_error": top1, "top5_error": top5}
                for k, (count, top1, top5) in enumerate(self._classes())
            ]
        return value

    def render(self, *, per_class: bool = False) -> str:
        """For people."""
        what = "centre crop" if self.views == 1 else f"{self.views} views"
        if self.networks > 1:
            what += f", {self.networks} networks averaged"
        lines = [
            f"top-1 error {self.top1_error:.2%}, top-5 error {self.top5_error:.2%}, "
            f"loss {self.loss:.4f} ({self.count:,} images, {what})"
        ]
        if per_class:
            lines += [
                f"class {k:>5}  {count:>7,} images"
                + ("" if top1 is None else f"  top-1 {top1:7.2%}  top-5 {top5:7.2%}")
                for k, (count, top1, top5) in enumerate(self._classes())
            ]
        return "\n".join(lines)

    def _classes(self) -> list[tuple[int, float | None, float | None]]:
        counts = self.counts
        columns = counts.class_counts(), counts.class_errors(1), counts.class_errors(5)
        return list(zip(*columns, strict=True))


@torch.no_grad()
def evaluate(
    nets: Sequence[NetLike],
    loader: Iterable[BatchLike],
    *,
    count: int,
    processes: int = 1,
    watch: Watch | None = None,
) -> Evaluation:
    """Measure ``nets``, averaged, on what ``loader`` yields: this process's part of a split.

    Every process must call it, and gets the whole. ``count``: records of the split. ``watch`` sees
    what was measured, batch by batch.

    Raises:
        DataError: a record is missing, or came twice.
    """
    sums: _Sums | None = None
    seen = torch.zeros(count, dtype=torch.int64)
    views = 0
    for batch in loader:
        probability_nk, views = _mean_probability(nets, batch.images_v)
        if sums is None:
            sums = _Sums(probability_nk.shape[1], probability_nk.device)
        sums.add(probability_nk, batch.labels_n)
        if watch is not None:
            watch(batch.record_n, probability_nk, batch.labels_n)
        _mark(seen, batch.record_n)
    if processes > 1:  # one of them may have had nothing, not even a number of classes
        agreed = torch.tensor([sums.classes if sums else 0, views])
        dist.all_reduce(agreed, dist.ReduceOp.MAX)
        if sums is None:
            sums = _Sums(int(agreed[0]), torch.device("cpu"))
        views = int(agreed[1])
    _check_seen(summed(seen, processes))
    if sums is None:
        raise DataError("there is nothing to measure: the split has no records")
    return Evaluation(*sums.total(processes), views, len(nets))


class _Sums:
    """Integer sums on a device."""

    def __init__(self, classes: int, device: torch.device) -> None:
        self.classes = classes
        self._counter = TopKCounter(classes, device)
        self._loss_2 = torch.zeros(2, dtype=torch.int64, device=device)
        """Loss in ``LOSS_UNIT``, and how many images had none that is finite."""

    def add(self, probability_nk: Tensor, labels_n: Tensor) -> None:
        self._counter.add(probability_nk, labels_n)
        own_n = probability_nk.gather(1, labels_n[:, None])[:, 0]
        # a probability may round to 0: its logarithm is then that of the smallest float
        loss_n = -own_n.clamp(min=torch.finfo(torch.float32).tiny).double().log()
        finite_n = loss_n.isfinite()
        units_n = torch.where(finite_n, loss_n * LOSS_UNIT, 0.0).round().to(torch.int64)
        self._loss_2 += torch.stack((units_n.sum(), (~finite_n).sum()))

    def total(self, processes: int) -> tuple[TopK, float]:
        """Counts, and the mean loss."""
        counts = self._counter.total(processes)
        units, invalid = summed(self._loss_2, processes).tolist()
        valid = counts.count and not invalid
        return counts, units / LOSS_UNIT / counts.count if valid else math.nan


def _mean_probability(nets: Sequence[NetLike], views: Iterable[Tensor]) -> tuple[Tensor, int]:
    """Mean over views and nets of the softmax, float32 (n, k), and how many views there were."""
    total: Tensor | None = None
    count = 0
    for images in views:
        count += 1
        for net in nets:
            probability_nk = net(images.float(), None).float().softmax(1)
            total = probability_nk if total is None else total + probability_nk
    if total is None:
        raise ValueError("a batch without views, or no networks")
    return total / (count * len(nets)), count


def _mark(seen: Tensor, record_n: NDArray[np.int64]) -> None:
    records = torch.from_numpy(np.asarray(record_n, np.int64))
    if len(records) and not 0 <= int(records.min()) <= int(records.max()) < len(seen):
        raise DataError(f"a record beyond the {len(seen):,} of the split was measured")
    seen.index_add_(0, records, torch.ones_like(records))


def _check_seen(seen: Tensor) -> None:
    missing, twice = int((seen == 0).sum()), int((seen > 1).sum())
    if missing or twice:
        raise DataError(
            f"of the split's {len(seen):,} records {missing:,} were not measured and {twice:,} "
            "more than once: the loader is at fault, and no error can be stated"
        )
