"""The run budget: size, memory and traffic of a run, computed before it starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from imgprep.wording import counted
from train.config import RunConfig
from train.feed.dataset import TrainingSet
from train.feed.remote.shards import check_cache
from train.net import empty_net, net_layout
from train.net.layout import FLOAT_BYTES, NetLayout
from train.run.launch import Placement
from train.world import World

MIB = 2**20
COPIES_OF_WEIGHTS = 3
"""Weights, gradients, velocities."""
COPIES_FOR_CHECKPOINT = 2
"""Weights and velocities that a thread writes; they are in memory of the host."""
BACKWARD_FACTOR = 2.1
"""All memory of the activations, relative to those that the forward pass keeps: the backward pass
adds gradients and work space. Measured on a CPU at 64 and 128 images, in full width and in a
quarter of it: 1.9 to 2.3."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunBudget:
    """The size of a run."""

    preset: str
    placement: Placement
    processes: int
    """Processes on all machines."""
    classes: int
    parameters: int
    train_images: int
    val_images: int
    batch_images: int
    epochs: int
    steps_per_epoch: int
    steps: int
    link_bytes_per_step: int
    """Sent per step between the columns, or between processes (ring all-reduce, each way)."""
    memory_bytes_per_device: int
    """Weights, gradients, velocities, activations with their gradients, the batch, and on a CPU the
    copy that is written as a checkpoint; libraries need more on top."""
    cache: str
    """How the shards of a dataset at a URL are cached; empty for a local dataset."""

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
        """For people: one line per subject."""
        place = self.placement
        ranks = "; ".join(
            f"rank {rank} on {' + '.join(place.devices(rank))}" for rank in range(place.processes)
        )
        batch = min(self.batch_images, self.train_images)
        each = -(-batch // self.processes)
        between = "columns" if place.parallel == "columns" else "processes"
        return "\n".join(
            (
                f"network   preset {self.preset}, {self.classes:,} classes, "
                f"{self.parameters:,} parameters",
                f"devices   parallel {place.parallel}, "
                f"{counted(self.processes, 'process', 'processes')}: {ranks}",
                f"images    {self.train_images:,} for training, {self.val_images:,} for validation",
                f"batch     {batch:,} images per update, {each:,} per process",
                f"length    {counted(self.epochs, 'epoch')} of "
                f"{counted(self.steps_per_epoch, 'step')}; "
                f"at most {counted(self.steps, 'step')} in all",
                f"memory    about {self.memory_bytes_per_device / MIB:,.0f} MiB per device, "
                "plus libraries and input buffers",
                *(
                    [f"traffic   {self.link_bytes_per_step:,} bytes per step between {between}"]
                    if self.link_bytes_per_step
                    else []
                ),
                *([f"cache     {self.cache}"] if self.cache else []),
            )
        )


def make_budget(
    config: RunConfig, data: TrainingSet, placement: Placement, world: World
) -> RunBudget:
    """Compute the size of a run from its network, without reading records.

    Raises:
        ConfigError: the dataset is at a URL and the cache is too small.
    """
    processes = world.size if world.launched else placement.processes
    classes = config.net.classes or data.classes
    layout = net_layout(config.net, classes=classes, image_px=config.input.crop_px)
    steps_per_epoch = -(-data.records("train") // config.optim.batch_images)
    batch_images = min(config.optim.batch_images, data.records("train"))
    rows = -(-batch_images // processes // config.optim.accumulate)
    return RunBudget(
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
        memory_bytes_per_device=_memory_bytes(config, layout, placement, rows),
        cache=check_cache(data, config.input),
    )


def _link_bytes(config: RunConfig, layout: NetLayout, placement: Placement, processes: int) -> int:
    total = 0
    if placement.parallel == "columns":
        rows = -(-config.optim.batch_images // processes)
        total += 2 * rows * sum(layout.link_bytes_per_image().values())  # forward and backward
    if processes > 1:
        total += 2 * FLOAT_BYTES * layout.parameters * (processes - 1) // processes
    return total


def _memory_bytes(config: RunConfig, layout: NetLayout, placement: Placement, rows: int) -> int:
    """Bytes on each device while ``rows`` images go through it at a time."""
    copies = COPIES_OF_WEIGHTS
    if placement.device_type == "cpu":
        copies += COPIES_FOR_CHECKPOINT
    images = 3 * config.input.crop_px**2 * FLOAT_BYTES * rows * config.optim.accumulate
    activations = int(BACKWARD_FACTOR * rows * _saved_bytes(config, layout))
    weights = copies * FLOAT_BYTES * layout.parameters
    return (weights + images + activations) // placement.devices_per_process


def _saved_bytes(config: RunConfig, layout: NetLayout) -> int:
    """Bytes of activations per image that the forward pass keeps for the backward pass.

    One image goes through a network whose weights are never written and so take no memory.
    torch's "meta" device would need two seconds to import its tracing modules.
    """
    net = empty_net(layout, config.net, torch.device("cpu"))
    weights = {parameter.untyped_storage()._cdata for parameter in net.parameters()}
    seen: dict[int, torch.UntypedStorage] = {}  # kept alive, so that no address is reused

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            seen[storage._cdata] = storage
        return tensor

    image = torch.zeros((1, 3, config.input.crop_px, config.input.crop_px))
    mask = torch.zeros((1, layout.hidden_units), dtype=torch.bool)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        net(image, dict.fromkeys(layout.hidden, (mask,)))
    return sum(storage.nbytes() for storage in seen.values())
