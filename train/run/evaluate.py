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
    name: str = ""
    """Of the network; empty: not given."""
    each: tuple[Evaluation, ...] = ()
    """The result of each network alone, if several were averaged."""

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
        if self.each:
            value["each"] = [{"name": one.name, **one.to_json()} for one in self.each]
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
        lines = [f"{one.name}: {one._errors()}, loss {one.loss:.4f}" for one in self.each]
        lines += [f"{self._errors()}, loss {self.loss:.4f} ({self.count:,} images, {what})"]
        if per_class:
            classes, widest = self._classes(), max(map(len, self.class_names), default=0)
            lines += [
                f"class {k:>5}  {self._name(k) or '':<{widest}}  {count:>7,} "
                f"image{'s' * (count != 1)}"
                + ("" if top1 is None else f"  {error_text(top1, top5 or 0.0, len(classes))}")
                for k, (count, top1, top5) in enumerate(classes)
            ]
        return "\n".join(lines)

    def _errors(self) -> str:
        return error_text(self.top1_error, self.top5_error, self.counts.classes)

    def _name(self, label: int) -> str | None:
        return self.class_names[label] if label < len(self.class_names) else None

    def _classes(self) -> list[tuple[int, float | None, float | None]]:
        counts = self.counts
        columns = counts.class_counts(), counts.class_errors(1), counts.class_errors(5)
        return list(zip(*columns, strict=True))


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
    inputs = [(nets, loader)]
    return evaluate_together(inputs, count=count, processes=processes, on_batch=on_batch)


@torch.no_grad()
def evaluate_together(
    inputs: Sequence[tuple[Sequence[NetLike], Iterable[BatchLike]]],
    *,
    count: int,
    processes: int = 1,
    on_batch: OnBatch | None = None,
) -> Evaluation:
    """Measure networks that see the same records through different loaders, in one pass.

    The loaders yield the same records in the same batches. ``each`` of the result has the networks
    in the order of ``inputs``; the rest is as in ``evaluate``.

    Raises:
        DataError: a record is missing or was measured twice.
    """
    networks = sum(len(nets) for nets, _ in inputs)
    sums: list[_EvaluationSums] | None = None
    seen = torch.zeros(count, dtype=torch.int64)
    views = 0
    for batches in zip(*(loader for _, loader in inputs), strict=True):
        first = batches[0]
        own = []
        for (nets, _), batch in zip(inputs, batches, strict=True):
            probabilities, views = _mean_probabilities(nets, batch.images_v)
            own += probabilities
        mean_nk = torch.stack(own).mean(0) if len(own) > 1 else own[0]
        if sums is None:
            sums = _sums(networks, mean_nk.shape[1], mean_nk.device)
        for one, probability_nk in zip(sums, (mean_nk, *own), strict=False):
            one.add(probability_nk, first.labels_n)
        if on_batch is not None:
            on_batch(first.record_n, mean_nk, first.labels_n)
        _mark(seen, first.record_n)
    if processes > 1:  # a process without records does not know the number of classes
        agreed = torch.tensor([sums[0].classes if sums else 0, views])
        dist.all_reduce(agreed, dist.ReduceOp.MAX)
        if sums is None:
            sums = _sums(networks, int(agreed[0]), torch.device("cpu"))
        views = int(agreed[1])
    _check_seen(summed(seen, processes))
    if sums is None:
        raise DataError("nothing to measure: the split has no records")
    total, *each = [one.total(processes) for one in sums]
    return Evaluation(
        *total, views, networks, each=tuple(Evaluation(*one, views, 1) for one in each)
    )


def _sums(networks: int, classes: int, device: torch.device) -> list[_EvaluationSums]:
    """Return empty sums for the average, and, if there are several networks, for each of them."""
    return [_EvaluationSums(classes, device) for _ in range(1 + networks * (networks > 1))]


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


def _mean_probabilities(
    nets: Sequence[NetLike], views: Iterable[Tensor]
) -> tuple[list[Tensor], int]:
    """Mean of the softmax over views, float32 (n, k) for each net, and the number of views."""
    totals: list[Tensor] = []
    count = 0
    for images in views:
        count += 1
        found = [net(images.float(), None).float().softmax(1) for net in nets]
        totals = found if count == 1 else [a + b for a, b in zip(totals, found, strict=True)]
    if not totals:
        raise ValueError("a batch has no views, or there are no networks")
    return [total / count for total in totals], count


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
