"""A run from its command line to its end: settings, placement, parts, resume, loop."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from imgprep.storage import Location, absolute
from imgprep.storage.atomic import write_bytes
from train.config import RunConfig
from train.errors import CheckpointError, ConfigError
from train.feed.dataset import TrainingSet, open_dataset
from train.feed.loader import EvalLoader, Share, TrainLoader
from train.net import build_net
from train.net.memory import keep_pages
from train.optim import schedule
from train.optim.sgd import Sgd
from train.run.budget import Plan, make_plan
from train.run.launch import Placement, find_hardware, place
from train.run.logs import Length, RunLogs
from train.run.loop import Listener, Loop, Parts
from train.run.step import Stepper
from train.run.stop import StopSignal
from train.run.window import Window
from train.saved import checkpoint as checkpoints
from train.saved.checkpoint import Checkpoint
from train.saved.compatible import Expected, changed_settings, check_resume
from train.saved.run_folder import Origin, RunFolder, locked_run
from train.settings import merge, read_toml, resolve, to_toml
from train.world import World, process_group, world_from


@dataclass(frozen=True, kw_only=True, slots=True)
class FitJob:
    """A run that is about to start in this process."""

    config: RunConfig
    data: TrainingSet
    world: World
    placement: Placement
    plan: Plan
    out: Path

    @property
    def devices(self) -> tuple[torch.device, ...]:
        """Devices of this process."""
        return tuple(torch.device(name) for name in self.placement.devices(self.world.local_rank))


@dataclass(frozen=True, kw_only=True, slots=True)
class FitOutcome:
    """A finished run."""

    checkpoint: Path
    reason: str
    epochs: int
    steps: int
    best: Mapping[str, Any] | None
    """The validation with the lowest top-1 error, if there was one."""

    def to_json(self) -> dict[str, Any]:
        """For scripts."""
        return {**dataclasses.asdict(self), "checkpoint": str(self.checkpoint)}

    def render(self) -> str:
        """For people."""
        lines = [f"done: {self.reason} ({self.steps:,} updates)"]
        if self.best is not None:
            lines.append(
                f"lowest validation error: top-1 {self.best['top1_error']:.2%}, top-5 "
                f"{self.best['top5_error']:.2%} (centre crop, epoch {self.best['epoch']})"
            )
        lines.append(f"checkpoint: {self.checkpoint}")
        return "\n".join(lines)


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What the command line asks for."""

    dataset: Location
    out: Path
    preset: str | None = None
    config_file: Path | None = None
    flags: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Nested settings from flags."""
    processes: int | None = None


def prepare(request: Request) -> FitJob:
    """Resolve the settings and decide where the run goes; changes nothing.

    A folder that holds a run gives its settings; flags come over them.

    Raises:
        ConfigError: the settings or the devices do not fit.
        DataError, FormatError: the dataset cannot be trained on.
    """
    config = _settings(request)
    world = world_from(os.environ)
    placement = place(config, find_hardware(), world, request.processes)
    data = open_dataset(request.dataset)
    if config.input.crop_px > data.size_px:
        raise ConfigError(
            f"crops of {config.input.crop_px} px do not fit records of {data.size_px} px: set "
            "input.crop_px"
        )
    plan = make_plan(config, data, placement, world)
    return FitJob(
        config=config, data=data, world=world, placement=placement, plan=plan, out=request.out
    )


def _settings(request: Request) -> RunConfig:
    folder = RunFolder(request.out)
    stored = read_toml(folder.config) if folder.config.exists() else {}
    if stored and request.preset not in (None, stored.get("preset")):
        raise ConfigError(
            f"{request.out} was begun with preset {stored.get('preset')!r}, not "
            f"{request.preset!r}: leave --preset out, or name another --out"
        )
    file = read_toml(request.config_file) if request.config_file else {}
    return resolve(request.preset, merge(stored, file), request.flags)


def run(job: FitJob, listener: Listener, *, allow_reshard: bool = False) -> FitOutcome:
    """Train, or go on, until the run ends.

    Raises:
        CheckpointError: the folder's checkpoint belongs to another run.
        DivergedError, StoppedError: as ``Loop.run``.
        DestinationError, BusyError: the folder cannot be used.
    """
    torch.set_num_threads(job.placement.threads_per_process)
    if job.placement.device_type == "cpu":
        keep_pages()
    else:
        torch.cuda.set_device(job.devices[0])
    stop = StopSignal(on_gpu=job.placement.device_type == "cuda")
    with stop.listening(), process_group(job.world, job.devices[0]), _held(job):
        saved = _saved(job, allow_reshard=allow_reshard)
        if job.world.is_main:
            write_bytes(RunFolder(job.out).config, to_toml(job.config).encode())
            RunFolder(job.out).write_origin(_origin(job))
        with _loop(job, stop, listener) as loop:
            if saved is None:
                listener.line(f"{to_toml(job.config)}\n{job.plan.render()}")
                _warm_start(loop, job.config, listener)
            else:
                _resume(loop, saved, listener)
            reason = loop.run()
            return FitOutcome(
                checkpoint=job.out / checkpoints.LAST,
                reason=reason,
                epochs=loop.position.epoch,
                steps=loop.position.global_step,
                best=loop.best,
            )


def _origin(job: FitJob) -> Origin:
    names = [
        f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)
        for device in job.devices
    ]
    return Origin(
        dataset=absolute(job.data.index.store),
        fingerprint=job.data.fingerprint,
        parallel=job.placement.parallel,
        processes=job.world.size,
        devices=tuple(names),
    )


@contextmanager
def _held(job: FitJob) -> Iterator[None]:
    """Hold the run's folder in the main process; the others wait until it does."""
    if job.world.is_main:
        with locked_run(job.out):
            _barrier(job.world)
            yield
    else:
        _barrier(job.world)
        yield


def _barrier(world: World) -> None:
    if world.size > 1:
        torch.distributed.barrier()


@contextmanager
def _loop(job: FitJob, stop: StopSignal, listener: Listener) -> Iterator[Loop]:
    """All parts of a run, closed at the end."""
    config, devices = job.config, job.devices
    net = build_net(
        config.net,
        classes=job.plan.classes,
        devices=devices,
        columns=job.placement.parallel == "columns",
        seed=config.seed,
        image_px=config.input.crop_px,
    )
    sgd = Sgd(net, config.optim)
    share = Share(job.world.rank, job.world.size)
    threads = config.input.threads or job.placement.threads_per_process
    input_config = dataclasses.replace(config.input, threads=threads)
    train = TrainLoader(
        job.data,
        input_config,
        share,
        batch_images=config.optim.batch_images,
        seed=config.seed,
        device=devices[0],
    )
    val = None
    if job.plan.val_images:
        batch_images = config.eval_batch_images
        val = EvalLoader(
            job.data, input_config, share, batch_images=batch_images, device=devices[0]
        )
    length = Length(epochs=config.optim.epochs, steps_per_epoch=train.steps_per_epoch)
    logs = RunLogs(job.out, enabled=job.world.is_main, length=length)
    parts = Parts(
        config=config,
        data=job.data,
        world=job.world,
        folder=job.out,
        classes=job.plan.classes,
        net=net,
        sgd=sgd,
        stepper=Stepper(net, sgd, config, job.world),
        train=train,
        val=val,
        logs=logs,
        stop=stop,
        listener=listener,
    )
    try:
        yield Loop(parts, schedule.start(config.optim), Window(devices[0]))
    finally:
        parts.stepper.close()
        logs.close()
        train.close()
        if val is not None:
            val.close()


def _saved(job: FitJob, *, allow_reshard: bool) -> Checkpoint | None:
    """The checkpoint to go on from, if there is one and it is this run's."""
    path = RunFolder(job.out).last
    if not path.exists():
        return None
    saved = checkpoints.load(path)
    expected = Expected(
        config=job.config,
        dataset_fingerprint=job.data.fingerprint,
        label_order_sha256=job.data.label_order_sha256,
        classes=job.plan.classes,
        data_processes=job.world.size,
    )
    check_resume(saved, expected, allow_reshard=allow_reshard)
    return saved


def _warm_start(loop: Loop, config: RunConfig, listener: Listener) -> None:
    """Take over the weights of another network, where they fit (2012 source, initw.py)."""
    if config.warm_start is None:
        return
    theirs = checkpoints.load(Path(config.warm_start)).model
    ours = loop.parts.net.canonical_state()
    fits = [name for name in ours if name in theirs and theirs[name].shape == ours[name].shape]
    if not fits:
        raise CheckpointError(f"{config.warm_start}: no layer fits this network")
    loop.parts.net.load_canonical_state({**ours, **{name: theirs[name] for name in fits}})
    left = [name for name in ours if name not in fits]
    listener.line(f"weights of {config.warm_start}; begun anew: {', '.join(left) or 'none'}")


def _resume(loop: Loop, saved: Checkpoint, listener: Listener) -> None:
    config = loop.parts.config
    loop.resume(saved)
    loop.parts.logs.cut(saved.position)
    listener.line(f"goes on at epoch {saved.position.epoch}, step {saved.position.global_step:,}")
    for change in changed_settings(saved, config):
        listener.line(f"  changed: {change}")
