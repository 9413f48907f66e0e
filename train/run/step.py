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
from train.net import MaskKey, Masks, Net
from train.optim.schedule import Rates
from train.optim.sgd import Sgd
from train.run.arithmetic import AUTOCAST_TYPES
from train.run.replay import (
    CudaRecording,
    Recording,
    ReplayedUpdate,
    RunAhead,
    StepInputs,
    cuda_event,
    why_not_recorded,
)
from train.world import World

TOP_K = 5
COMPILER = "inductor"
"""Backend of ``torch.compile``; tests set another."""


@dataclass(frozen=True, slots=True)
class StepSums:
    """Sums of one update over this process's rows; they stay on the device."""

    sums: Tensor
    """float64 (3,): cross-entropy, rows with the right class first, rows with it among five.
    Valid until the next update."""
    images: int


class Stepper:
    """Makes updates of one network.

    The loss is the mean over the *global* batch at its true size, the short last one too (2012
    source, layer.cu). The processes add up their parts, so the update does not depend on the
    number of processes, except for the rounding of sums.

    Only whole batches are recorded and compiled; the short last batch of an epoch is queued from
    Python, so that it costs neither.
    """

    def __init__(
        self,
        net: Net,
        sgd: Sgd,
        config: RunConfig,
        world: World,
        *,
        whole_images: int | None = None,
        recording: Recording | None = None,
    ) -> None:
        """``whole_images`` counts the images of a whole global batch; None: the setting.

        ``recording`` replays whole batches; None takes a CUDA graph where that is possible.
        """
        self._net = net
        self._sgd = sgd
        self._config = config
        self._processes = world.size
        self.device = net.devices[0]
        self._whole_images = whole_images or config.optim.batch_images
        self._autocast = AUTOCAST_TYPES.get(config.precision)
        self._module = _wrapped(net, config, world)
        self._scaler = torch.amp.GradScaler(
            self.device.type, enabled=config.precision == "fp16", init_scale=1024.0
        )
        on_gpu = self.device.type == "cuda"
        if on_gpu and recording is None and not why_not_recorded(config, net.devices, world.size):
            recording = CudaRecording(self.device)
        self._replayed = None if recording is None else ReplayedUpdate(self._update, recording)
        self._ahead = RunAhead(cuda_event if on_gpu else None)

    def __call__(self, batch: Batch, rates: Rates, *, global_step: int) -> StepSums:
        """Make update number ``global_step``, from 0, with this process's part of a batch."""
        inputs = StepInputs(
            images=batch.images,
            labels_n=batch.labels_n,
            masks=tuple(self._draw_masks(batch, global_step)),
            global_images=batch.global_images,
        )
        if batch.global_images != self._whole_images:
            with _not_compiled(self._config):
                sums = self._update(inputs, rates)
        elif self._replayed is not None:
            sums = self._replayed(inputs, rates)
        else:
            sums = self._update(inputs, rates)
        self._ahead.after_update()
        return StepSums(sums, len(batch.labels_n))

    def close(self) -> None:
        """Release the process group before it is destroyed, and the recording.

        If DistributedDataParallel were its last owner, it would join gloo's threads while holding
        the interpreter lock, which they may be waiting for, and the process would hang.
        """
        self._module = self._net
        self._replayed = None
        gc.collect()

    def scaler_state(self) -> dict[str, Any]:
        """State of the float16 loss scaling, for a checkpoint; empty for other types."""
        return self._scaler.state_dict()

    def load_scaler_state(self, state: dict[str, Any]) -> None:
        """Restore what ``scaler_state`` returned."""
        if state and self._scaler.is_enabled():
            self._scaler.load_state_dict(state)

    def _draw_masks(self, batch: Batch, global_step: int) -> Iterator[Masks]:
        """The masks of each part; of a process without rows, those of the first row."""
        rows = len(batch.labels_n)
        parts = list(_parts(rows, self._config.optim.accumulate)) or [slice(0, 1)]
        first_row = batch.first_row if rows else 0
        for part in parts:
            yield self._net.draw_masks(
                MaskKey(
                    seed=self._config.seed,
                    step=global_step,
                    first_row=first_row + part.start,
                    rows=part.stop - part.start,
                    global_rows=batch.global_images,
                )
            )

    def _update(self, inputs: StepInputs, rates: Rates) -> Tensor:
        """Make an update; all that it does on a GPU can be recorded."""
        sums = torch.zeros(3, dtype=torch.float64, device=self.device)
        parts = list(_parts(len(inputs.labels_n), self._config.optim.accumulate))
        for part, masks in zip(parts, inputs.masks, strict=False):
            with self._no_reduction(unless=part is parts[-1]):
                sums += self._backward(
                    inputs.images[part], inputs.labels_n[part], masks, inputs.global_images
                )
        if not parts:  # the others wait for this process's part of the sum, which is 0
            image = torch.zeros((1, *inputs.images.shape[1:]), device=self.device)
            self._scaler.scale(self._module(image, inputs.masks[0]).sum() * 0).backward()
        if self._config.optim.lars:  # which reads the gradients, and needs them without the factor
            self._scaler.unscale_(self._sgd)  # type: ignore[arg-type]
        # Skipped on the device when a float16 gradient overflowed. Sgd is not an Optimizer but has
        # its step().
        self._scaler.step(self._sgd, rates)  # type: ignore[arg-type]
        self._scaler.update()
        self._sgd.zero_grad()
        return sums

    def _backward(self, images: Tensor, labels_n: Tensor, masks: Masks, divisor: int) -> Tensor:
        with torch.autocast(
            self.device.type, dtype=self._autocast, enabled=self._autocast is not None
        ):
            logits_nk = self._module(images, masks)
        logits_nk = logits_nk.float()
        loss = cross_entropy(logits_nk, labels_n, reduction="sum")
        self._scaler.scale(loss * (self._processes / divisor)).backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            best = logits_nk.topk(min(TOP_K, logits_nk.shape[1]), dim=1).indices
            hits = best == labels_n[:, None]
            return torch.stack((loss.double(), hits[:, 0].sum().double(), hits.sum().double()))

    def _no_reduction(self, *, unless: bool) -> AbstractContextManager[Any]:
        if unless or not isinstance(self._module, DistributedDataParallel):
            return nullcontext()
        return self._module.no_sync()


def _wrapped(net: Net, config: RunConfig, world: World) -> nn.Module:
    module: nn.Module = net
    if config.compile:
        module = torch.compile(module, backend=COMPILER)  # type: ignore[assignment]
    if world.size == 1:
        return module
    one_gpu = net.devices[0].type == "cuda" and len(set(net.devices)) == 1
    return DistributedDataParallel(
        module,
        device_ids=[net.devices[0]] if one_gpu else None,
        gradient_as_bucket_view=True,
    )


def _not_compiled(config: RunConfig) -> AbstractContextManager[Any]:
    """Run a compiled network as it is written: compiling it for another size takes half a
    minute."""
    return torch.compiler.set_stance("force_eager") if config.compile else nullcontext()


def _parts(rows: int, count: int) -> Iterator[slice]:
    """Split ``range(rows)`` into at most ``count`` slices of nearly equal length, none empty."""
    for k in range(count):
        start, stop = rows * k // count, rows * (k + 1) // count
        if start < stop:
            yield slice(start, stop)
