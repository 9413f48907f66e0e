"""Pairs of training steps on one device, in one process and in turn: ours, and the usual way.

Both sides have the same batch in memory, the same number types and the same switches of cuDNN. A
block of steps ends when the device has finished it, so a block takes as long as the slower of the
device and of Python, which queues the work.
"""

# ruff: noqa: T201
from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench_step_peers.steps import LRN_SHAPE, PX, lrn_block, stock_net, torchvision_net
from train.config import Precision

Step = Callable[[], object]


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """One step to time."""

    what: str
    """``ours`` or a peer: ``stock``, ``no-lrn``, ``torchvision``, ``lrn``, ``lrn-stock``."""
    preset: str = "paper"
    settings: tuple[tuple[str, Any], ...] = ()
    """Of the net, on top of the preset."""
    columns: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Two steps that take turns, and the ratio of their speeds that we require."""

    name: str
    ours: Side
    other: Side
    batch: int = 128
    precision: Precision = "tf32"
    required: float | None = None


PLAIN = (("lrn", False), ("spatial_norm", False))
PAPER, SOURCE = Side(what="ours"), Side(what="ours", preset="source-2012")
NO_LRN = Side(what="no-lrn")
COMPARISONS = (
    Comparison(name="no-lrn", ours=PAPER, other=NO_LRN, required=0.93),
    Comparison(name="our-no-lrn", ours=PAPER, other=Side(what="ours", settings=PLAIN)),
    Comparison(
        name="source-no-norms",
        ours=SOURCE,
        other=Side(what="ours", preset="source-2012", settings=PLAIN),
        required=0.88,
    ),
    Comparison(
        name="bf16-1024", ours=PAPER, other=NO_LRN, batch=1024, precision="bf16", required=0.90
    ),
    Comparison(name="tf32-1024", ours=PAPER, other=NO_LRN, batch=1024),
    Comparison(name="float32", ours=PAPER, other=NO_LRN, precision="float32"),
    Comparison(name="stock", ours=PAPER, other=Side(what="stock")),
    Comparison(name="torchvision", ours=PAPER, other=Side(what="torchvision")),
    Comparison(name="columns", ours=Side(what="ours", columns=True), other=PAPER, required=0.95),
    Comparison(
        name="lrn-alone",
        ours=Side(what="lrn"),
        other=Side(what="lrn-stock"),
        precision="float32",
        required=8.0,
    ),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """What a comparison found."""

    name: str
    batch: int
    precision: str
    ours_images_per_s: float
    other_images_per_s: float
    ratio: float
    """Median of the ratios of neighbouring blocks: ours / the other."""
    ratios: tuple[float, ...]
    required: float | None
    ours_queue_ms: float
    """Python's time to queue one step; on a CPU the whole step."""
    other_queue_ms: float

    @property
    def is_met(self) -> bool:
        """Whether the ratio is the required one."""
        return self.required is None or self.ratio >= self.required


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """How much to measure."""

    device: str
    rounds: int = 5
    block_s: float = 0.2
    warm_steps: int = 8
    """Until libraries have chosen their algorithms and our step is recorded."""
    queued_steps: int = 6
    """Queued without waiting, to time Python alone: fewer than ours lets Python run ahead."""
    width_divisor: int = 1
    images_divisor: int = 1


REHEARSAL = Scale(
    device="cpu",
    rounds=1,
    block_s=0.0,
    warm_steps=1,
    queued_steps=1,
    width_divisor=16,
    images_divisor=256,
)
"""Everything once, on a CPU, with narrow nets and few images."""


def compare(comparison: Comparison, scale: Scale) -> Timing:
    """Time blocks of both sides in turn."""
    from train.run.arithmetic import use_precision

    use_precision(comparison.precision)
    batch = max(2, comparison.batch // scale.images_divisor)
    sides = [
        step_of(side, batch, comparison.precision, scale)
        for side in (comparison.ours, comparison.other)
    ]
    queue_ms, counts = [], []
    for step in sides:
        for _ in range(scale.warm_steps):
            step()
        block_s = time_block(step, scale.queued_steps, scale.device)
        queue_ms.append(time_block(step, scale.queued_steps, "none") / scale.queued_steps * 1e3)
        synchronise(scale.device)
        counts.append(max(2, round(scale.block_s / block_s * scale.queued_steps)))
    pairs = []
    for number in range(scale.rounds):
        order = (0, 1) if number % 2 else (1, 0)
        found = {k: time_block(sides[k], counts[k], scale.device) / counts[k] for k in order}
        pairs.append((found[0], found[1]))
    ratios = tuple(other_s / ours_s for ours_s, other_s in pairs)
    return Timing(
        name=comparison.name,
        batch=batch,
        precision=comparison.precision,
        ours_images_per_s=batch / statistics.median(ours_s for ours_s, _ in pairs),
        other_images_per_s=batch / statistics.median(other_s for _, other_s in pairs),
        ratio=statistics.median(ratios),
        ratios=ratios,
        required=comparison.required,
        ours_queue_ms=queue_ms[0],
        other_queue_ms=queue_ms[1],
    )


def time_block(step: Step, count: int, device: str) -> float:
    """Seconds of ``count`` steps until ``device`` has finished them."""
    synchronise(device)
    started = time.perf_counter()
    for _ in range(count):
        step()
    synchronise(device)
    return time.perf_counter() - started


def synchronise(device: str) -> None:
    """Wait until the GPU has finished what is queued."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def step_of(side: Side, batch: int, precision: Precision, scale: Scale) -> Step:
    """Make one side's step, with its network and batch on the device."""
    if side.what in ("lrn", "lrn-stock"):
        shape = (batch, LRN_SHAPE[0] // scale.width_divisor, *LRN_SHAPE[1:])
        return lrn_block(side.what, shape, scale.device)
    if side.what == "ours":
        return our_step(side, batch, precision, scale)
    return peer_step(side.what, batch, precision, scale)


def our_step(side: Side, batch: int, precision: Precision, scale: Scale) -> Step:
    """An update as the trainer makes it, on one batch again and again."""
    import numpy as np
    import torch

    from train.config import RunConfig
    from train.feed.loader import Batch
    from train.net import build_net
    from train.optim import schedule
    from train.optim.sgd import Sgd
    from train.presets import preset
    from train.run.step import Stepper
    from train.world import World

    base = preset(side.preset)
    config: RunConfig = dataclasses.replace(
        base,
        precision=precision,
        net=dataclasses.replace(base.net, width_divisor=scale.width_divisor, **dict(side.settings)),
        optim=dataclasses.replace(base.optim, batch_images=batch),
    )
    device = torch.device(scale.device)
    devices = [device] * (2 if side.columns else 1)
    net = build_net(config.net, classes=1000, devices=devices, columns=side.columns, seed=0)
    stepper = Stepper(net, Sgd(net, config.optim), config, World())
    rates = schedule.rate(config.optim, schedule.start(config.optim), 0.0)
    images, labels_n = noise(batch, device)
    fed = Batch(
        images=images,
        labels_n=labels_n,
        record_n=np.arange(batch),
        first_row=0,
        global_images=batch,
    )
    count = 0

    def step() -> None:
        nonlocal count
        stepper(fed, rates, global_step=count)
        count += 1

    return step


def peer_step(what: str, batch: int, precision: Precision, scale: Scale) -> Step:
    """The same update as one writes it in torch: eager, channels last, fused SGD."""
    import torch
    from torch.nn.functional import cross_entropy

    from train.run.arithmetic import AUTOCAST_TYPES

    divisor = scale.width_divisor
    net = (
        torchvision_net(divisor)
        if what == "torchvision"
        else stock_net(lrn=what == "stock", width_divisor=divisor)
    )
    net = net.to(scale.device).to(memory_format=torch.channels_last)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, 0, 0.01)
    sgd = torch.optim.SGD(net.parameters(), 1e-4, momentum=0.9, weight_decay=5e-4, fused=True)
    images, labels_n = noise(batch, torch.device(scale.device))
    autocast = AUTOCAST_TYPES.get(precision)

    def step() -> None:
        sgd.zero_grad(set_to_none=True)
        with torch.autocast(scale.device, dtype=autocast, enabled=autocast is not None):
            logits = net(images)
        torch.autograd.backward(cross_entropy(logits.float(), labels_n))
        sgd.step()

    return step


def noise(batch: int, device: Any) -> tuple[Any, Any]:
    """Random images with the range of centred pixels, and random labels, on a device."""
    import torch

    images = (torch.randn(batch, 3, PX, PX, device=device) * 60).contiguous(
        memory_format=torch.channels_last
    )
    return images, torch.randint(1000, (batch,), device=device)


def show(found: Timing) -> None:
    """Print a comparison in two lines."""
    required = "" if found.required is None else f", required {found.required:.2f}"
    verdict = "" if found.required is None else (" met" if found.is_met else " MISSED")
    print(
        f"{found.name:<16} batch {found.batch:>5} {found.precision:<8} ours / the other = "
        f"{found.ratio:.3f} ({min(found.ratios):.3f} to {max(found.ratios):.3f}{required}){verdict}"
    )
    print(
        f"    ours {found.ours_images_per_s:,.0f} img/s, queued in {found.ours_queue_ms:.2f} ms; "
        f"the other {found.other_images_per_s:,.0f} img/s, {found.other_queue_ms:.2f} ms",
        flush=True,
    )
