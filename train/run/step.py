"""One update: forward, loss, backward, step; for one device, two columns or many processes."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from train.config import RunConfig
from train.feed.loader import Batch
from train.net import MaskKey, Net
from train.optim.schedule import Rates
from train.optim.sgd import Sgd
from train.run.arithmetic import AUTOCAST_TYPES
from train.world import World

TOP_K = 5


@dataclass(frozen=True, slots=True)
class StepSums:
    """Sums of one update over this process's rows; they stay on the device."""

    sums: Tensor
    """float64 (3,): cross-entropy, rows with the right class first, rows with it among five."""
    images: int


class Stepper:
    """Makes updates of one network.

    The loss is the mean over the *global* batch at its true size, the short last one too (2012
    source, layer.cu). The processes add up their parts, so the update does not depend on the
    number of processes, except for the rounding of sums.
    """

    def __init__(self, net: Net, sgd: Sgd, config: RunConfig, world: World) -> None:
        self._net = net
        self._sgd = sgd
        self._config = config
        self._processes = world.size
        self.device = net.devices[0]
        self._autocast = AUTOCAST_TYPES.get(config.precision)
        self._module = _wrapped(net, config, world)
        self._scaler = torch.amp.GradScaler(
            self.device.type, enabled=config.precision == "fp16", init_scale=1024.0
        )

    def __call__(self, batch: Batch, rates: Rates, *, global_step: int) -> StepSums:
        """Make update number ``global_step``, from 0, with this process's part of a batch."""
        sums = torch.zeros(3, dtype=torch.float64, device=self.device)
        rows = len(batch.labels_n)
        parts = list(_parts(rows, self._config.optim.accumulate))
        for part in parts:
            key = MaskKey(
                seed=self._config.seed,
                step=global_step,
                first_row=batch.first_row + part.start,
                rows=part.stop - part.start,
                global_rows=batch.global_images,
            )
            with self._no_reduction(unless=part is parts[-1]):
                sums += self._backward(
                    batch.images[part], batch.labels_n[part], key, batch.global_images
                )
        if not rows:  # the others wait for this process's part of the sum, which is 0
            with self._no_reduction(unless=True):
                self._backward_nothing(batch, global_step)
        self._update(rates)
        return StepSums(sums, rows)

    def close(self) -> None:
        """Release the process group before it is destroyed.

        If DistributedDataParallel were its last owner, it would join gloo's threads while holding
        the interpreter lock, which they may be waiting for, and the process would hang.
        """
        self._module = self._net
        gc.collect()

    def scaler_state(self) -> dict[str, Any]:
        """State of the float16 loss scaling, for a checkpoint; empty for other types."""
        return self._scaler.state_dict()

    def load_scaler_state(self, state: dict[str, Any]) -> None:
        """Restore what ``scaler_state`` returned."""
        if state and self._scaler.is_enabled():
            self._scaler.load_state_dict(state)

    def _backward(self, images: Tensor, labels_n: Tensor, key: MaskKey, divisor: int) -> Tensor:
        with torch.autocast(
            self.device.type,
            dtype=self._autocast,
            enabled=self._autocast is not None,
        ):
            logits_nk = self._module(images, self._net.draw_masks(key))
        logits_nk = logits_nk.float()
        loss = cross_entropy(logits_nk, labels_n, reduction="sum")
        self._scaler.scale(loss * (self._processes / divisor)).backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            best = logits_nk.topk(min(TOP_K, logits_nk.shape[1]), dim=1).indices
            hits = best == labels_n[:, None]
            return torch.stack((loss.double(), hits[:, 0].sum().double(), hits.sum().double()))

    def _backward_nothing(self, batch: Batch, global_step: int) -> None:
        image = torch.zeros((1, *batch.images.shape[1:]), device=self.device)
        key = MaskKey(
            seed=self._config.seed,
            step=global_step,
            first_row=0,
            rows=1,
            global_rows=batch.global_images,
        )
        (self._module(image, self._net.draw_masks(key)).sum() * 0).backward()

    def _update(self, rates: Rates) -> None:
        # Skipped when a float16 gradient overflowed. Sgd is not an Optimizer but has its step().
        self._scaler.step(self._sgd, rates)  # type: ignore[arg-type]
        self._scaler.update()
        self._sgd.zero_grad()

    def _no_reduction(self, *, unless: bool) -> AbstractContextManager[Any]:
        if unless or not isinstance(self._module, DistributedDataParallel):
            return nullcontext()
        return self._module.no_sync()


def is_out_of_memory(error: Exception) -> bool:
    """Whether Python or torch raised ``error`` because a device has too little memory."""
    words = ("DefaultCPUAllocator", "out of memory")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


def _wrapped(net: Net, config: RunConfig, world: World) -> nn.Module:
    module: nn.Module = net
    if config.compile:
        module = torch.compile(module)  # type: ignore[assignment]
    if world.size == 1:
        return module
    one_gpu = net.devices[0].type == "cuda" and len(set(net.devices)) == 1
    return DistributedDataParallel(
        module,
        device_ids=[net.devices[0]] if one_gpu else None,
        gradient_as_bucket_view=True,
    )


def _parts(rows: int, count: int) -> Iterator[slice]:
    """Split ``range(rows)`` into at most ``count`` slices of nearly equal length, none empty."""
    for k in range(count):
        start, stop = rows * k // count, rows * (k + 1) // count
        if start < stop:
            yield slice(start, stop)
