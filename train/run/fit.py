"""A run from start to end: settings, placement, components, resume, loop."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from imgprep.storage import absolute
from imgprep.storage.atomic import write_bytes
from train.config import RunConfig
from train.errors import CheckpointError, PeerLostError, TrainError
from train.feed.graph_spec import with_threads
from train.feed.loader import EvalLoader, Share, TrainLoader
from train.join import is_lost_peer, process_group
from train.net import build_net
from train.net.init import precision_warning
from train.net.memory import keep_pages
from train.optim import schedule
from train.optim.sgd import Sgd
from train.run.arithmetic import use_precision
from train.run.components import RunComponents, TextOutput
from train.run.error_text import error_text
from train.run.finite import all_finite
from train.run.job import FitJob
from train.run.logs import RunLogs, RunSize
from train.run.loop import Loop
from train.run.memory_error import is_torch_out_of_memory
from train.run.meter import StepMeter
from train.run.saving import Saver
from train.run.step import Stepper
from train.run.stop import StopSignal
from train.saved import checkpoint as checkpoints
from train.saved.checkpoint import Checkpoint
from train.saved.compatible import ExpectedRun, changed_settings, check_resume
from train.saved.run_folder import Origin, RunFolder, locked_run
from train.settings import to_toml
from train.world import World


@dataclass(frozen=True, kw_only=True, slots=True)
class FitOutcome:
    """A finished run."""

    checkpoint: Path
    reason: str
    epochs: int
    steps: int
    classes: int
    best: Mapping[str, Any] | None
    """The validation with the lowest top-1 error, if there was one."""

    def to_json(self) -> dict[str, Any]:
        """For scripts."""
        value = {**dataclasses.asdict(self), "checkpoint": str(self.checkpoint)}
        del value["classes"]
        return value

    def render(self) -> str:
        """For people."""
        lines = [f"done: {self.reason}"]
        if self.best is not None:
            errors = error_text(self.best["top1_error"], self.best["top5_error"], self.classes)
            lines.append(f"best validation: {errors} (centre crop, epoch {self.best['epoch']})")
        lines.append(f"checkpoint: {self.checkpoint}")
        return "\n".join(lines)


def run(
    job: FitJob, output: TextOutput, *, allow_reshard: bool = False, verbose: bool = False
) -> FitOutcome:
    """Train or resume until the run ends.

    Raises:
        CheckpointError: the folder's checkpoint belongs to another run.
        DivergedError, RunStoppedError: as ``Loop.run``.
        DestinationError, BusyError: the folder cannot be used.
    """
    torch.set_num_threads(job.placement.threads_per_process)
    use_precision(job.config.precision, deterministic=job.config.deterministic)
    if job.placement.device_type == "cpu":
        keep_pages()
    else:
        torch.cuda.set_device(job.devices[0])
    stop = StopSignal(on_gpu=job.placement.device_type == "cuda")
    try:
        with closing(stop), process_group(job.world, job.devices[0], output.warn), _locked(job):
            saved = _load_saved(job, allow_reshard=allow_reshard)
            with _open_loop(job, stop, output) as loop:
                return _run(job, loop, saved, output, verbose=verbose)
    except (MemoryError, RuntimeError) as exc:
        if is_torch_out_of_memory(exc):
            raise TrainError(
                f"out of memory on {' and '.join(map(str, job.devices))}: use a smaller "
                f"--batch-size than {job.config.optim.batch_images}, or a larger --accumulate than "
                f"{job.config.optim.accumulate}"
            ) from exc
        if not is_lost_peer(job.world, exc):
            raise
        raise PeerLostError("another process of the run has ended; its message says why") from exc


def _run(
    job: FitJob, loop: Loop, saved: Checkpoint | None, output: TextOutput, *, verbose: bool
) -> FitOutcome:
    if job.world.is_main:
        write_bytes(RunFolder(job.out).config, to_toml(job.config).encode())
        RunFolder(job.out).write_origin(_origin(job))
    if saved is None:
        output.line(job.summary(verbose=verbose))
        if job.world.is_main:
            _warn_of_precision(job.config, output)
        _warm_start(loop, job.config, output)
    else:
        _resume(loop, saved, output)
    reason = loop.run()
    return FitOutcome(
        checkpoint=job.out / checkpoints.LAST,
        reason=reason,
        epochs=loop.position.epoch,
        steps=loop.position.global_step,
        classes=job.budget.classes,
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
def _locked(job: FitJob) -> Iterator[None]:
    """Lock the run's folder in the main process; the others wait until it is locked."""
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
def _open_loop(job: FitJob, stop: StopSignal, output: TextOutput) -> Iterator[Loop]:
    """Build all components of a run; close them at the end."""
    config, devices = job.config, job.devices
    net = build_net(
        config.net,
        classes=job.budget.classes,
        devices=devices,
        columns=job.placement.parallel == "columns",
        seed=config.seed,
        image_px=config.input.crop_px,
    )
    sgd = Sgd(net, config.optim)
    train, val = _open_loaders(job)
    size = RunSize(
        epochs=config.optim.epochs,
        steps_per_epoch=train.steps_per_epoch,
        classes=job.budget.classes,
    )
    logs = RunLogs(job.out, enabled=job.world.is_main, size=size)
    components = RunComponents(
        config=config,
        data=job.data,
        world=job.world,
        folder=job.out,
        classes=job.budget.classes,
        net=net,
        sgd=sgd,
        stepper=Stepper(
            net,
            sgd,
            config,
            job.world,
            whole_images=min(config.optim.batch_images, job.budget.train_images),
        ),
        saver=Saver(job.out, net, sgd),
        train=train,
        val=val,
        logs=logs,
        stop=stop,
        output=output,
    )
    try:
        yield Loop(components, schedule.start(config.optim), StepMeter(devices[0]))
    finally:
        components.saver.close()
        components.stepper.close()
        logs.close()
        train.close()
        if val is not None:
            val.close()


def _open_loaders(job: FitJob) -> tuple[TrainLoader, EvalLoader | None]:
    """Open this process's share of both splits; None for one without images."""
    config, device = job.config, job.devices[0]
    share = Share(job.world.rank, job.world.size)
    threads = job.placement.threads_per_process
    input_config = with_threads(config.input, device.type, available=threads)
    train = TrainLoader(
        job.data,
        input_config,
        share,
        batch_images=config.optim.batch_images,
        seed=config.seed,
        device=device,
    )
    val = None
    if job.budget.val_images:
        batch_images = config.eval_batch_images
        val = EvalLoader(job.data, input_config, share, batch_images=batch_images, device=device)
    return train, val


def _load_saved(job: FitJob, *, allow_reshard: bool) -> Checkpoint | None:
    """The checkpoint to resume from; None for a new run."""
    path = RunFolder(job.out).last
    if not path.exists():
        return None
    saved = checkpoints.load(path)
    if not all_finite([*saved.model.values(), *saved.velocities.values()]):
        raise CheckpointError(
            f"{path}: its network is not finite, so the run had diverged: copy an earlier "
            "epoch_NNN.pt to last.pt and resume with a lower --lr, or use another --out"
        )
    expected = ExpectedRun(
        config=job.config,
        dataset_fingerprint=job.data.fingerprint,
        label_order_sha256=job.data.label_order_sha256,
        classes=job.budget.classes,
        data_processes=job.world.size,
    )
    check_resume(saved, expected, allow_reshard=allow_reshard)
    return saved


def _warm_start(loop: Loop, config: RunConfig, output: TextOutput) -> None:
    """Copy the weights of another network where the shapes fit (2012 source, initw.py)."""
    if config.warm_start is None:
        return
    theirs = checkpoints.load(Path(config.warm_start)).model
    ours = loop.components.net.canonical_state()
    fits = [name for name in ours if name in theirs and theirs[name].shape == ours[name].shape]
    if not fits:
        raise CheckpointError(f"{config.warm_start}: none of its layers fits this network")
    loop.components.net.load_canonical_state({**ours, **{name: theirs[name] for name in fits}})
    fresh = [name for name in ours if name not in fits]
    output.line(
        f"copied weights from {config.warm_start}; newly initialised: {', '.join(fresh) or 'none'}"
    )


def _warn_of_precision(config: RunConfig, output: TextOutput) -> None:
    warning = precision_warning(config.net, config.precision)
    if warning and config.warm_start is None:
        output.warn(warning)


def _resume(loop: Loop, saved: Checkpoint, output: TextOutput) -> None:
    config = loop.components.config
    loop.resume(saved)
    loop.components.logs.cut(saved.position)
    output.line(f"resuming at epoch {saved.position.epoch}, step {saved.position.global_step:,}")
    for change in changed_settings(saved, config):
        output.line(f"  changed: {change}")
