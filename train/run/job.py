"""What a training run will do: settings, dataset and placement, before anything is written."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from imgprep.storage import Location
from train.config import RunConfig
from train.errors import ConfigError
from train.feed.dataset import TrainingSet, open_dataset
from train.older_runs import with_precision, with_schedule_epochs
from train.run.arithmetic import resolve_precision
from train.run.budget import RunBudget, make_budget
from train.run.launch import Placement, find_hardware, place
from train.run.replay import why_not_recorded
from train.saved.run_folder import CONFIG, RunFolder
from train.settings import merge, read_toml, resolve, to_toml
from train.world import World, world_from


@dataclass(frozen=True, kw_only=True, slots=True)
class FitRequest:
    """What the command line asks for."""

    dataset: Location
    out: Path
    preset: str | None = None
    config_file: Path | None = None
    flags: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Nested settings from flags."""
    processes: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class FitJob:
    """A run that is about to start in this process."""

    config: RunConfig
    data: TrainingSet
    world: World
    placement: Placement
    budget: RunBudget
    out: Path

    @property
    def devices(self) -> tuple[torch.device, ...]:
        """Devices of this process."""
        return tuple(torch.device(name) for name in self.placement.devices(self.world.local_rank))

    def summary(self, *, verbose: bool = False) -> str:
        """The run in about ten lines; with ``verbose``, all settings before them."""
        optim, data = self.config.optim, self.data
        untried = _untried(self.placement, self.budget)
        lines = (
            f"dataset   {data.location}: {data.encoding} records {data.sides}",
            self.budget.render(),
            f"step      {self._step_text()}",
            *([f"untried   {untried}"] if untried else []),
            f"rate      {optim.lr:g}, schedule {optim.schedule}; momentum {optim.momentum:g}, "
            f"weight decay {optim.weight_decay:g}",
            f"settings  kept in {self.out / CONFIG}; --verbose prints all of them",
        )
        return "\n".join(([to_toml(self.config)] if verbose else []) + list(lines))

    def _step_text(self) -> str:
        """Arithmetic of an update, and on a GPU whether it is replayed."""
        words = [f"precision {self.config.precision}"]
        if self.config.deterministic:
            words.append("deterministic")
        if self.placement.device_type == "cuda":
            reason = why_not_recorded(self.config, self.devices, self.budget.processes)
            words.append(f"queued by Python: {reason}" if reason else "replayed as a CUDA graph")
        return ", ".join(words)


def _untried(placement: Placement, budget: RunBudget) -> str:
    """What nobody has tried of the way that a run uses GPUs; empty: nothing."""
    if placement.device_type != "cuda":
        return ""
    if placement.parallel == "columns" and budget.processes > 1:
        return (
            "processes of two GPUs each: DistributedDataParallel then makes two NCCL communicators "
            "per process"
        )
    return "more than one GPU" if placement.devices_per_process * budget.processes > 1 else ""


def prepare(request: FitRequest) -> FitJob:
    """Resolve the settings and place the run on devices; writes nothing.

    If the folder already holds a run, its settings are used, and flags override them.

    Raises:
        ConfigError: the settings do not fit the dataset or the devices.
        DataError, FormatError: the dataset cannot be trained on.
    """
    config = _settings(request)
    world = world_from(os.environ)
    placement = place(config, find_hardware(), world, request.processes)
    on_gpu = placement.device_type == "cuda"
    precision = resolve_precision(config.precision, on_gpu=on_gpu)
    config = dataclasses.replace(config, precision=precision)
    data = open_dataset(request.dataset)
    if config.input.crop_px > data.size_px:
        raise ConfigError(
            f"input.crop_px is {config.input.crop_px}, but the records are {data.size_px} px: set "
            f"input.crop_px to {data.size_px} or less"
        )
    if config.net.classes is not None and config.net.classes < data.classes:
        raise ConfigError(
            f"--classes {config.net.classes}, but the dataset has {data.classes} classes: use "
            f"--classes auto, or {data.classes} or more"
        )
    budget = make_budget(config, data, placement, world)
    return FitJob(
        config=config, data=data, world=world, placement=placement, budget=budget, out=request.out
    )


def _settings(request: FitRequest) -> RunConfig:
    folder = RunFolder(request.out)
    stored = read_toml(folder.config) if folder.config.exists() else {}
    stored = with_precision(with_schedule_epochs(stored))
    if stored and request.preset not in (None, stored.get("preset")):
        raise ConfigError(
            f"{request.out} was started with preset {stored.get('preset')!r}, not "
            f"{request.preset!r}: omit --preset, or use another --out"
        )
    file = read_toml(request.config_file) if request.config_file else {}
    return resolve(request.preset, merge(stored, with_precision(file)), request.flags)
