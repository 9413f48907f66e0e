"""Small checkpoints for tests."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import torch

from train.config import OptimConfig, RunConfig
from train.optim import schedule
from train.saved.checkpoint import BatchSplit, Checkpoint, Position


def make_checkpoint(config: RunConfig | None = None, **changes: Any) -> Checkpoint:
    """A checkpoint of a tiny net."""
    config = config or RunConfig(optim=OptimConfig(step_epochs=(3, 5)))
    draw = torch.Generator().manual_seed(1)
    model = {
        "conv1.weight": torch.randn((96, 3, 11, 11), generator=draw),
        "conv1.bias": torch.randn(96, generator=draw),
    }
    velocities = {name: torch.randn(w.shape, generator=draw) for name, w in model.items()}
    checkpoint = Checkpoint(
        model=model,
        velocities=velocities,
        schedule=schedule.start(config.optim).to_json(),
        position=Position(epoch=2, step_in_epoch=3, global_step=23),
        seeds={"run": config.seed},
        config=asdict(config),
        dataset_fingerprint="f" * 64,
        label_order_sha256="a" * 64,
        classes=4,
        world=BatchSplit(data_processes=2, batch_images=config.optim.batch_images, accumulate=1),
        history=[{"epoch": 1, "top1_error": 0.5, "top5_error": None}],
        best={"epoch": 1, "top1_error": 0.5},
        window=[1.0, 2.0, 0.5, 8.0],
    )
    return replace(checkpoint, **changes)
