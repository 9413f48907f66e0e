"""Measure saved networks on a dataset, as the command ``evaluate`` does."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Literal

import torch

from imgprep.storage import Location
from train.config import InputConfig, RunConfig
from train.errors import ConfigError, DataError
from train.feed.dataset import TrainingSet, open_dataset
from train.feed.loader import EvalLoader, Share
from train.join import Warn, ignore, process_group
from train.net import Net, build_net, check_state, net_layout
from train.net.memory import keep_pages
from train.run.arithmetic import use_precision
from train.run.evaluate import Evaluation, evaluate_together
from train.run.launch import NO_GPU, find_hardware
from train.saved import checkpoint as checkpoints
from train.saved.checkpoint import Checkpoint
from train.saved.compatible import check_labels
from train.settings import from_json
from train.world import world_from

Views = Literal[1, 10]


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasureOptions:
    """How to measure: views, split, batch, device and cache."""

    views: Views = 1
    split: str = "val"
    batch_images: int = 64
    device: str = "auto"
    cache_folder: str | None = None
    """For a dataset at a URL, as in ``InputConfig``; None: the default of ``InputConfig``."""
    cache_gib: float | None = None


def measure(
    paths: Sequence[Path], dataset: Location, options: MeasureOptions, warn: Warn = ignore
) -> Evaluation:
    """Measure the networks in ``paths``, each alone and their class probabilities averaged.

    They may differ in architecture, crop size and mean. Under torchrun the images are divided
    among the processes; ``warn`` is told if they are late.

    Raises:
        CheckpointError: a checkpoint is damaged, or was trained on other classes.
        ConfigError: the records are smaller than the crop of a network.
        DataError, FormatError: the dataset cannot be read.
    """
    world = world_from(os.environ)
    device = ready_device(options.device, local_rank=world.local_rank, local_size=world.local_size)
    saved = [checkpoints.load(path) for path in paths]
    configs = [from_json(each.config) for each in saved]
    precisions = [config.precision for config in configs]
    use_precision("float32" if "float32" in precisions else precisions[0])
    data = open_dataset(dataset)
    nets = [
        saved_net(each, config, data, device) for each, config in zip(saved, configs, strict=True)
    ]
    if not data.records(options.split):
        raise DataError(f"{dataset}: no records in split {options.split!r}")
    groups: dict[tuple[object, ...], list[int]] = {}
    for number, config in enumerate(configs):
        groups.setdefault(input_view(config.input), []).append(number)
    with process_group(world, device, warn), ExitStack() as stack:
        inputs = []
        for numbers in groups.values():
            loader = EvalLoader(
                data,
                configs[numbers[0]].input.with_cache(options.cache_folder, options.cache_gib),
                Share(world.rank, world.size),
                batch_images=options.batch_images,
                device=device,
                split=options.split,
                views=options.views,
            )
            stack.callback(loader.close)
            inputs.append(([nets[number] for number in numbers], loader))
        count = data.records(options.split)
        found = evaluate_together(inputs, count=count, processes=world.size)
    named = dict(zip(chain(*groups.values()), found.each, strict=False))
    each = tuple(replace(one, name=str(paths[number])) for number, one in sorted(named.items()))
    return replace(found, class_names=data.labels.names, each=each)


def saved_net(saved: Checkpoint, config: RunConfig, data: TrainingSet, device: torch.device) -> Net:
    """Build the network of a checkpoint on one device.

    Raises:
        CheckpointError: it was trained on other classes than ``data`` has.
    """
    check_labels(saved, label_order_sha256=data.label_order_sha256, classes=data.classes)
    layout = net_layout(config.net, classes=saved.classes, image_px=config.input.crop_px)
    check_state(saved.model, layout)
    net = build_net(
        config.net,
        classes=saved.classes,
        devices=(device,),
        columns=False,
        seed=0,
        image_px=config.input.crop_px,
    )
    net.load_canonical_state(saved.model)
    return net


def input_view(config: InputConfig) -> tuple[object, ...]:
    """Return the settings that decide how a network sees an image at test time."""
    mean = (config.mean, config.mean_rgb, config.sd_rgb)
    return (config.crop_px, *mean, config.dtype, config.memory_format)


def ready_device(asked: str, *, local_rank: int = 0, local_size: int = 1) -> torch.device:
    """Choose the device to measure on and set torch up for it.

    ``local_size`` processes share the processors of this machine; this one is ``local_rank``.

    Raises:
        ConfigError: this machine does not have the device.
    """
    hardware = find_hardware()
    if asked == "cuda" and not hardware.gpus:
        raise ConfigError(NO_GPU)
    if asked != "cpu" and hardware.gpus:
        return torch.device(f"cuda:{local_rank}")
    torch.set_num_threads(max(1, hardware.cores // local_size))
    keep_pages()
    return torch.device("cpu")
