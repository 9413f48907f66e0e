"""What a run is going to do, worked out before it starts; ``--dry-run`` shows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from train.config import RunConfig
from train.feed.dataset import TrainingSet
from train.feed.remote.shards import check_cache
from train.net import net_layout
from train.net.alexnet import GroupedNet
from train.net.base import DROPPED
from train.net.layout import FLOAT_BYTES, NetLayout
from train.run.launch import Placement
from train.world import World

MIB = 2**20
COPIES_OF_WEIGHTS = 3
"""Weights, gradients, velocities."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The size of a run."""

    preset: str
    placement: Placement
    processes: int
    """On all machines."""
    classes: int
    parameters: int
    train_images: int
    val_images: int
    batch_images: int
    epochs: int
    steps_per_epoch: int
    steps: int
    link_bytes_per_step: int
    """Between the columns, or between the processes (each way, ring all-reduce), in a step."""
    memory_bytes_per_device: int
    """Weights, gradients, velocities and saved activations; libraries come on top."""
    cache: str
    """How the shards of a dataset at a URL are kept; empty for one on a local disk."""

    def to_json(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "preset": self.preset,
            "parallel": self.placement.parallel,
            "processes": self.processes,
            "ranks": [
                {"local_rank": rank, "devices": list(self.placement.devices(rank))}
                for rank in range(self.placement.processes)
            ],
            "classes": self.classes,
            "parameters": self.parameters,
            "train_images": self.train_images,
            "val_images": self.val_images,
            "batch_images": self.batch_images,
            "epochs": self.epochs,
            "steps_per_epoch": self.steps_per_epoch,
            "steps": self.steps,
            "link_bytes_per_step": self.link_bytes_per_step,
            "memory_bytes_per_device": self.memory_bytes_per_device,
            "cache": self.cache,
        }

    def render(self) -> str:
        """For people."""
        place = self.placement
        ranks = "; ".join(
            f"rank {rank} on {' + '.join(place.devices(rank))}" for rank in range(place.processes)
        )
        each = -(-self.batch_images // self.processes)
        return "\n".join(
            (
                f"run       preset {self.preset}, {self.classes} classes, "
                f"{self.parameters:,} parameters",
                f"devices   {place.parallel}: {self.processes} process"
                f"{'es' * (self.processes > 1)}; {ranks}",
                f"batch     {self.batch_images} images an update, {each} a process",
                f"length    {self.epochs} epochs of {self.steps_per_epoch:,} steps "
                f"({self.train_images:,} images); stops after {self.steps:,} steps at the latest",
                f"validate  {self.val_images:,} images",
                f"link      {self.link_bytes_per_step:,} bytes a step"
                + (" between the columns" if place.parallel == "columns" else ""),
                f"memory    about {self.memory_bytes_per_device / MIB:,.0f} MiB a device, "
                "without libraries and input buffers",
                *([f"cache     {self.cache}"] if self.cache else []),
            )
        )


def make_plan(config: RunConfig, data: TrainingSet, placement: Placement, world: World) -> Plan:
    """Work out the size of a run, from a network without data.

    Raises:
        ConfigError: the dataset is at a URL, and the cache is too small.
    """
    processes = world.size if world.launched else placement.processes
    classes = config.net.classes or data.classes
    layout = net_layout(config.net, classes=classes, image_px=config.input.crop_px)
    steps_per_epoch = -(-data.records("train") // config.optim.batch_images)
    rows = -(-config.optim.batch_images // processes // config.optim.accumulate)
    return Plan(
        preset=config.preset,
        placement=placement,
        processes=processes,
        classes=classes,
        parameters=layout.parameters,
        train_images=data.records("train"),
        val_images=data.records("val") if "val" in data.index.splits else 0,
        batch_images=config.optim.batch_images,
        epochs=config.optim.epochs,
        steps_per_epoch=steps_per_epoch,
        steps=min(config.steps or 2**63, config.optim.epochs * steps_per_epoch),
        link_bytes_per_step=_link_bytes(config, layout, placement, processes),
        memory_bytes_per_device=(
            COPIES_OF_WEIGHTS * FLOAT_BYTES * layout.parameters
            + rows * _saved_bytes(config, layout)
        )
        // placement.devices_per_process,
        cache=check_cache(data, config.input),
    )


def _link_bytes(config: RunConfig, layout: NetLayout, placement: Placement, processes: int) -> int:
    total = 0
    if placement.parallel == "columns":
        rows = -(-config.optim.batch_images // processes)
        total += 2 * rows * sum(layout.link_bytes_per_image().values())  # and back
    if processes > 1:
        total += 2 * FLOAT_BYTES * layout.parameters * (processes - 1) // processes
    return total


def _saved_bytes(config: RunConfig, layout: NetLayout) -> int:
    """Bytes of activations that the forward pass keeps for the backward pass, an image.

    One image goes through a network of weights that were never written, so they take no memory;
    on torch's device "meta" it would take two seconds, to import what it traces with.
    """
    net = GroupedNet(layout, config.net, torch.device("cpu"))
    weights = {parameter.untyped_storage()._cdata for parameter in net.parameters()}
    seen: dict[int, torch.UntypedStorage] = {}  # held, so that no two have one address

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            seen[storage._cdata] = storage
        return tensor

    image = torch.zeros((1, 3, config.input.crop_px, config.input.crop_px))
    mask = torch.zeros((1, layout.hidden_units), dtype=torch.bool)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        net(image, dict.fromkeys(DROPPED, (mask,)))
    return sum(storage.nbytes() for storage in seen.values())
