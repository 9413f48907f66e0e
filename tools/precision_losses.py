#!/usr/bin/env python3
"""Losses of 100 updates in each precision, beside those in float32, for ten seeds.

    .venv/bin/python tools/precision_losses.py [--device cuda] [--seeds N] [--steps N] [--width N]

The images are made here: a pattern for each class, and noise. On a CPU use ``--width 16``.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

CLASSES = 10
LAST = 10
"""The loss of a run is the mean over its last updates, so many of them."""


def precisions_of(device_type: str) -> list[str]:
    """The precisions that this machine computes, ``float32`` first."""
    from train.errors import ConfigError
    from train.run.arithmetic import resolve_precision

    found = []
    for name in ("float32", "tf32", "bf16", "fp16"):
        try:
            found.append(resolve_precision(name, on_gpu=device_type == "cuda"))
        except ConfigError:
            continue
    return [str(each) for each in found]


def losses_by_precision(
    device_name: str, *, seeds: int = 10, steps: int = 100, images: int = 128, width: int = 1
) -> dict[str, list[float]]:
    """Train a run for each precision and seed; returns the loss of each, nats per image.

    ``width`` divides all widths of the ``source-2012`` net.
    """
    names = precisions_of(device_name)
    return {
        name: [_loss(device_name, name, seed, steps, (images, width)) for seed in range(seeds)]
        for name in names
    }


def _loss(device_name: str, precision: str, seed: int, steps: int, size: tuple[int, int]) -> float:
    import torch

    from train.net import build_net
    from train.optim import schedule
    from train.optim.sgd import Sgd
    from train.presets import preset
    from train.run.arithmetic import use_precision
    from train.run.step import Stepper
    from train.world import World

    images, width = size
    use_precision(precision)  # type: ignore[arg-type]
    config = preset("source-2012")
    net_config = config.net
    if width > 1:  # as much signal as in full width
        net_config = dataclasses.replace(
            net_config, width_divisor=width, init_sd=0.04, init_sd_conv345=0.12
        )
    config = dataclasses.replace(
        config,
        seed=seed,
        precision=precision,  # type: ignore[arg-type]
        net=net_config,
        optim=dataclasses.replace(config.optim, batch_images=images),
    )
    device = torch.device(device_name)
    net = build_net(config.net, classes=CLASSES, devices=[device], columns=False, seed=seed)
    stepper = Stepper(net, Sgd(net, config.optim), config, World())
    rates = schedule.rate(config.optim, schedule.start(config.optim), 0.0)
    last = []
    for number, batch in enumerate(_batches(device, images, seed, steps)):
        sums = stepper(batch, rates, global_step=number).sums
        if number >= steps - LAST:
            last.append(sums[0].clone())
    stepper.close()
    return float(torch.stack(last).mean()) / images


def _batches(device: Any, images: int, seed: int, steps: int) -> Iterator[Any]:
    """Batches of photographs' range, each image a pattern of its class under noise."""
    import numpy as np
    import torch
    from torch.nn.functional import interpolate

    from train.feed.loader import Batch

    draw = torch.Generator().manual_seed(seed)
    small = 80 * torch.randn((CLASSES, 3, 7, 7), generator=draw)
    patterns = interpolate(small, size=224, mode="bilinear").to(device)
    on_device = torch.Generator(device=device).manual_seed(seed)
    for _ in range(steps):
        labels = torch.randint(CLASSES, (images,), generator=draw).to(device)
        noise = torch.randn((images, 3, 224, 224), generator=on_device, device=device)
        pixels = (patterns[labels] + 40 * noise).contiguous(memory_format=torch.channels_last)
        yield Batch(pixels, labels, np.arange(images), 0, images)


def table(losses: dict[str, list[float]]) -> list[str]:
    """Lines of a table: for each precision its losses, and the largest distance from float32's."""
    lines = ["| precision | loss of each seed | mean | largest distance from float32 |"]
    lines.append("|---|---|---|---|")
    for name, found in losses.items():
        away = max(abs(a - b) for a, b in zip(found, losses["float32"], strict=True))
        each = ", ".join(f"{loss:.4f}" for loss in found)
        lines.append(f"| {name} | {each} | {statistics.mean(found):.4f} | {away:.4f} |")
    return lines


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--width", type=int, default=1, help="divisor of all widths")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    found = losses_by_precision(
        options.device,
        seeds=options.seeds,
        steps=options.steps,
        images=options.images,
        width=options.width,
    )
    print("\n".join(table(found)))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
