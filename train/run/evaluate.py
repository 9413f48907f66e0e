"""The error of a network, or of several averaged; each record of a split counts exactly once.

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
from train.run.error_text import error_text
from train.run.metrics import TopK, TopKCounter, summed

LOSS_UNIT = 2**20
"""Losses are summed as integers, in this fraction of a nat, so that the order does not matter."""


class BatchLike(Protocol):
    """A batch of the evaluation loader."""

    @property
    def images_v(self) -> Iterable[Tensor]:
        """Images (n, 3, crop, crop), view by view."""

    @property
    def labels_n(self) -> Tensor: ...
    @property
    def record_n(self) -> NDArray[np.int64]: ...


OnBatch = Callable[[NDArray[np.int64], Tensor, Tensor], None]
"""Called with each batch: records (n,), mean probabilities float32 (n, k), labels (n,)."""


class NetLike(Protocol):
    """Logits of images, without dropout masks."""

    def __call__(self, images: Tensor, masks: None, /) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The result of a measurement. Errors are fractions."""

    counts: TopK
    loss: float
    """Mean of -ln(probability of the right class), nats; NaN if that of any image is NaN."""
    views: int
    """Views averaged per image."""
    networks: int
    class_names: tuple[str, ...] = ()
    """By label; empty: unknown."""

    @property
    def count(self) -> int:
        """Images measured."""
        return self.counts.count

    @property
    def top1_error(self) -> float:
        """Over all images."""
        return self.counts.top1_error

    @property
    def top5_error(self) -> float:
        """Over all images."""
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
                {
                    "class": k,
                    "name": self._name(k),
                    "count": count,
                    "top1_error": top1,
                    "top5_error": top5,
                }
                for k, (count, top1, top5) in enumerate(self._classes())
            ]
        return value

    def render(self, *, per_class: bool = False) -> str:
        """For people."""
        what = "centre crop" if self.views == 1 else f"{self.views} views"
        if self.networks > 1:
            what += f", {self.networks} networks averaged"
        lines = [
            f"{error_text(self.top1_error, self.top5_error, self.counts.classes)}, "
            f"loss {self.loss:.4f} ({self.count:,} images, {what})"
        ]
        if per_class:
            classes, widest = self._classes(), max(map(len, self.class_names), default=0)
            lines += [
                f"class {k:>5}  {self._name(k) or '':<{widest}}  {count:>7,} "
                f"image{'s' * (count != 1)}"
                + ("" if top1 is None else f"  {error_text(top1, top5 or 0.0, len(classes))}")
                for k, (count, top1, top5) in enumerate(classes)
            ]
        return "\n".join(lines)

    def _name(self, label: int) -> str | None:
        return self.class_names[label] if label < len(self.class_names) else None

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
    on_batch: OnBatch | None = None,
) -> Evaluation:
    """Measure ``nets``, averaged, on this process's part of a split.

    Every process must call it, and gets the result over the whole split. ``count`` is the number
    of records in the split; ``on_batch`` is called after each batch.

    Raises:
        DataError: a record is missing or was measured twice.
    """
    sums: _EvaluationSums | None = None
    seen = torch.zeros(count, dtype=torch.int64)
    views = 0
    for batch in loader:
        probability_nk, views = _mean_probability(nets, batch.images_v)
        if sums is None:
            sums = _EvaluationSums(probability_nk.shape[1], probability_nk.device)
        sums.add(probability_nk, batch.labels_n)
        if on_batch is not None:
            on_batch(batch.record_n, probability_nk, batch.labels_n)
        _mark(seen, batch.record_n)
    if processes > 1:  # a process without records does not know the number of classes
        agreed = torch.tensor([sums.classes if sums else 0, views])
        dist.all_reduce(agreed, dist.ReduceOp.MAX)
        if sums is None:
            sums = _EvaluationSums(int(agreed[0]), torch.device("cpu"))
        views = int(agreed[1])
    _check_seen(summed(seen, processes))
    if sums is None:
        raise DataError("nothing to measure: the split has no records")
    return Evaluation(*sums.total(processes), views, len(nets))


class _EvaluationSums:
    """Integer sums of credit and loss, on a device."""

    def __init__(self, classes: int, device: torch.device) -> None:
        self.classes = classes
        self._counter = TopKCounter(classes, device)
        self._loss_2 = torch.zeros(2, dtype=torch.int64, device=device)
        """Loss in ``LOSS_UNIT``, and the number of images whose loss is not finite."""

    def add(self, probability_nk: Tensor, labels_n: Tensor) -> None:
        self._counter.add(probability_nk, labels_n)
        own_n = probability_nk.gather(1, labels_n[:, None])[:, 0]
        # a probability may round to 0; the smallest float keeps its logarithm finite
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
    """Mean of the softmax over views and nets, float32 (n, k), and the number of views."""
    total: Tensor | None = None
    count = 0
    for images in views:
        count += 1
        for net in nets:
            probability_nk = net(images.float(), None).float().softmax(1)
            total = probability_nk if total is None else total + probability_nk
    if total is None:
        raise ValueError("a batch has no views, or there are no networks")
    return total / (count * len(nets)), count


def _mark(seen: Tensor, record_n: NDArray[np.int64]) -> None:
    records = torch.from_numpy(np.asarray(record_n, np.int64))
    if len(records) and not 0 <= int(records.min()) <= int(records.max()) < len(seen):
        raise DataError(f"the loader yielded a record beyond the {len(seen):,} of the split")
    seen.index_add_(0, records, torch.ones_like(records))


def _check_seen(seen: Tensor) -> None:
    missing, twice = int((seen == 0).sum()), int((seen > 1).sum())
    if missing or twice:
        raise DataError(
            f"of the split's {len(seen):,} records {missing:,} were not measured and {twice:,} "
            "more than once: this is a fault of the loader, and the error is unknown"
        )
