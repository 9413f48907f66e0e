"""The three scales: what all runs of a scale have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from train.paper.item import Scale, ScaleName

SMALL_IMAGES = 13_000
"""Images that a run at the small scale sees, over all epochs."""
PHOTOS_LIMIT = 3_000
"""Photographs of each split at the small scale, of a larger dataset."""
CLASSES_LIMIT = 10
"""Classes at the small scale, of a larger dataset."""
CIFAR_LIMIT = 2_000
"""Images of each split of CIFAR-10 at the small scale."""
CIFAR_IMAGES = 20_000
"""Images that a run of figure 1 sees at the small scale."""
SMALL_EPOCHS = (4, 40)
"""Fewest and most epochs of it."""
VALIDATIONS = 10
"""About so many validations in a run at the small scale."""
MEDIUM_EPOCHS = 30
FULL_SEEDS = 1
CIFAR_EPOCHS = 30
"""Epochs of figure 1 at the other scales."""


def scale_of(
    name: ScaleName, *, train_images: int, overrides: Mapping[str, Any] | None = None
) -> Scale:
    """Return the settings of a scale for a dataset with ``train_images``, its limits applied.

    ``overrides`` are dotted settings of every run.
    """
    more = dict(overrides or {})
    asked = more.get("optim.epochs")
    epochs = asked if isinstance(asked, int) and asked > 0 else None
    scale = {"small": _small, "medium": _medium, "full": _full}[name](train_images, epochs)
    return replace(scale, settings={**scale.settings, **more}, cifar={**scale.cifar, **more})


def _small(train_images: int, asked_epochs: int | None) -> Scale:
    least, most = SMALL_EPOCHS
    epochs = asked_epochs or min(most, max(least, SMALL_IMAGES // train_images))
    quiet = epochs - max(1, epochs // 4)
    return Scale(
        name="small",
        preset="source-2012",
        settings={
            "optim.epochs": epochs,
            "optim.batch_images": 16,
            "optim.lr": 0.003,
            "optim.schedule": "steps",
            "optim.step_epochs": [quiet],
            "optim.conv1_slow_epoch": None,
            "optim.conv1_freeze_epoch": None,
            "input.lighting_stop_epoch": quiet,
            "input.crop_px": 96,
            "input.crop_chunk": 1,
            "input.shuffle": True,
            "net.width_divisor": 8,
            "net.init_sd": 0.03,
            "net.init_sd_conv345": 0.085,
            "parallel": "none",
            "keep_checkpoints": 1,
            "log_every_steps": 5,
            "eval_every_epochs": max(1, epochs // VALIDATIONS),
        },
        cifar=_small_cifar(train_images, asked_epochs),
        seeds=3,
        record_px=112,
        cifar_limit=CIFAR_LIMIT,
        photos_limit=PHOTOS_LIMIT,
        classes_limit=CLASSES_LIMIT,
    )


def _medium(train_images: int, asked_epochs: int | None) -> Scale:
    return Scale(
        name="medium",
        preset="source-2012",
        settings={
            "optim.epochs": MEDIUM_EPOCHS,
            "input.crop_chunk": 1,
            "input.shuffle": True,
            "keep_checkpoints": 1,
        },
        cifar=_cifar(asked_epochs or CIFAR_EPOCHS),
        seeds=3,
        record_px=None,
    )


def _full(train_images: int, asked_epochs: int | None) -> Scale:
    return Scale(
        name="full",
        preset="source-2012",
        settings={"keep_checkpoints": 1},
        cifar=_cifar(asked_epochs or CIFAR_EPOCHS),
        seeds=FULL_SEEDS,
        record_px=None,
    )


def _cifar(epochs: int) -> dict[str, Any]:
    """Figure 1: no regularisation of any kind, a constant rate."""
    return {
        "net.architecture": "cifar4",
        "net.lrn": False,
        "input.crop_px": 32,
        "input.crop": "centre",
        "input.flip": False,
        "input.lighting": "off",
        "input.lighting_stop_epoch": None,
        "input.crop_chunk": 1,
        "input.shuffle": True,
        "optim.epochs": epochs,
        "optim.schedule": "constant",
        "optim.weight_decay": 0.0,
        "optim.step_epochs": [],
        "optim.bias_drops": None,
        "optim.conv1_slow_epoch": None,
        "optim.conv1_freeze_epoch": None,
        "parallel": "none",
        "keep_checkpoints": 1,
        "eval_every_epochs": epochs,
    }


def _small_cifar(train_images: int, asked_epochs: int | None) -> dict[str, Any]:
    epochs = asked_epochs or min(
        SMALL_EPOCHS[1], max(10, CIFAR_IMAGES // min(train_images, CIFAR_LIMIT))
    )
    narrow = {"net.width_divisor": 2, "optim.batch_images": 32, "log_every_steps": 5}
    return {**_cifar(epochs), **narrow}
