"""The loop over epochs and updates: step, log, validate and save until the run ends."""

from __future__ import annotations

import dataclasses
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from train.config import RunConfig
from train.errors import DivergedError, RunStoppedError
from train.feed.dataset import TrainingSet
from train.feed.loader import Batch, EvalLoader, TrainLoader
from train.net import Net
from train.optim import schedule
from train.optim.schedule import Rates, ScheduleState
from train.optim.sgd import Sgd
from train.run.evaluate import Evaluation, evaluate
from train.run.logs import RunLogs
from train.run.meter import StepMeter
from train.run.step import Stepper
from train.run.stop import StopSignal
from train.saved import checkpoint as checkpoints
from train.saved.checkpoint import BatchSplit, Checkpoint, Position
from train.world import World

CHANCE_MARGIN = 0.02
"""A loss within this fraction of ln(classes) counts as chance."""


class TextOutput(Protocol):
    """Receives lines of progress and warnings; the command line prints them."""

    def line(self, text: str) -> None: ...
    def warn(self, text: str) -> None: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class RunComponents:
    """The components of a run; none is replaced while it trains."""

    config: RunConfig
    data: TrainingSet
    world: World
    folder: Path
    classes: int
    net: Net
    sgd: Sgd
    stepper: Stepper
    train: TrainLoader
    val: EvalLoader | None
    logs: RunLogs
    stop: StopSignal
    output: TextOutput


@dataclass(slots=True)
class Loop:
    """A run in progress: its components, and all state that changes."""

    components: RunComponents
    progress: ScheduleState
    meter: StepMeter
    position: Position = field(default_factory=Position)
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] | None = None
    _saved_at: Position | None = None
    _warned: bool = False

    def resume(self, saved: Checkpoint) -> None:
        """Resume from a checkpoint that ``check_resume`` accepted."""
        parts = self.components
        parts.net.load_canonical_state(saved.model)
        parts.sgd.load_velocities(parts.net.local(saved.velocities))
        parts.stepper.load_scaler_state(saved.scaler)
        self.position = self._saved_at = saved.position
        state = ScheduleState.from_json(saved.schedule)
        self.progress = schedule.resumed(parts.config.optim, state, self._epochs_done)
        self.meter.load(saved.window, parts.world)
        self.history = list(saved.history)
        self.best = saved.best

    def run(self) -> str:
        """Train to the end; returns the reason for the end.

        Raises:
            DivergedError: the loss is no longer a number.
            RunStoppedError: SIGTERM or Ctrl-C; the state is saved.
        """
        while (reason := self._ended()) is None:
            self._epoch()
        return reason

    @property
    def _epochs_done(self) -> float:
        steps: int = self.components.train.steps_per_epoch
        return self.position.epoch + self.position.step_in_epoch / steps

    @property
    def _rates(self) -> Rates:
        return schedule.rate(self.components.config.optim, self.progress, self._epochs_done)

    def _ended(self) -> str | None:
        config = self.components.config
        if self.position.epoch >= config.optim.epochs:
            return f"{config.optim.epochs} epochs are done"
        if config.steps is not None and self.position.global_step >= config.steps:
            return f"{config.steps:,} steps are done"
        if self.progress.finished:
            return "the validation error has stopped falling"
        return None

    def _epoch(self) -> None:
        self.meter.restart_clock()
        asked_at = time.monotonic()
        for batch in self.components.train.epoch(self.position.epoch, self.position.step_in_epoch):
            self._step(batch, time.monotonic() - asked_at)
            if self.position.step_in_epoch == self.components.train.steps_per_epoch:
                break
            if self.components.stop.asked(self.components.world):
                self._save()
                raise RunStoppedError(
                    f"stopped and saved at step {self.position.global_step:,}: run the same "
                    "command again to resume"
                )
            if self._ended() is not None:
                self._save()
                return
            asked_at = time.monotonic()
        self._end_epoch()

    def _step(self, batch: Batch, wait_seconds: float) -> None:
        parts = self.components
        done = parts.stepper(batch, self._rates, global_step=self.position.global_step)
        self.meter.add(done.sums, done.images, wait_seconds)
        self.position = self.position.next_step()
        if parts.stepper.device.type == "cpu":  # on a GPU, reading the loss would wait for it
            self._check_finite(float(done.sums[0]))
        if self.position.global_step % parts.config.log_every_steps == 0:
            self._log()
        every = parts.config.checkpoint_every_steps
        if every is not None and self.position.global_step % every == 0:
            self._save()

    def _end_epoch(self) -> None:
        self.position = self.position.next_epoch()
        parts, config = self.components, self.components.config
        last = self._ended() is not None
        best = False
        if parts.val is not None and (last or self.position.epoch % config.eval_every_epochs == 0):
            best = self._validate(parts.val)
        self._save(best=best, epoch_end=True)

    def _validate(self, loader: EvalLoader) -> bool:
        """Measure the centre crop; returns whether the top-1 error is the lowest so far."""
        parts = self.components
        found = evaluate(
            (parts.net,), loader, count=parts.data.records("val"), processes=parts.world.size
        )
        self.progress = schedule.after_validation(
            parts.config.optim, self.progress, self._epochs_done, found.top1_error
        )
        entry = _history_entry(self.position, found)
        self.history.append(entry)
        parts.output.line(parts.logs.epoch(self.position, found, self._rates.lr_weights))
        if self.best is not None and self.best["top1_error"] <= found.top1_error:
            return False
        self.best = entry
        return True

    def _log(self) -> None:
        parts = self.components
        means = self.meter.means(parts.world)
        self.meter.reset()
        self._check_finite(means.loss)
        parts.output.line(parts.logs.step(self.position, means, self._rates.lr_weights))
        self._warn_at_chance(means.loss)

    def _check_finite(self, loss: float) -> None:
        if math.isfinite(loss):
            return
        good = "none yet"
        if self._saved_at is not None:
            good = (
                f"{self.components.folder / checkpoints.LAST}, step {self._saved_at.global_step:,}"
            )
        raise DivergedError(
            f"the loss is {loss} at step {self.position.global_step:,}, learning rate "
            f"{self._rates.lr_weights:g}. Last good checkpoint: {good}. Run again with a lower --lr"
        )

    def _warn_at_chance(self, loss: float) -> None:
        classes = self.components.classes
        chance = math.log(classes)
        late = self.position.global_step >= self.components.config.chance_warning_steps
        if self._warned or not late or abs(loss - chance) > CHANCE_MARGIN * chance:
            return
        self._warned = True
        self.components.output.warn(
            f"after {self.position.global_step:,} steps the loss is {loss:.3f}, still at chance "
            f"(ln {classes} = {chance:.3f}). Try --preset source-2012 (weights of 0.03 in conv3-5) "
            "with net.dropout=vanilla, another --seed, or wait longer"
        )

    def _save(self, *, best: bool = False, epoch_end: bool = False) -> None:
        """Save the state: all processes call it, the main one writes."""
        parts = self.components
        totals = self.meter.totals(parts.world)
        self._check_finite(totals[0])
        self._saved_at = self.position
        if not parts.world.is_main:
            return
        parts.logs.flush()
        checkpoints.save(
            parts.folder,
            self._checkpoint(totals),
            best=best,
            epoch_end=epoch_end,
            keep=parts.config.keep_checkpoints,
        )

    def _checkpoint(self, totals: list[float]) -> Checkpoint:
        parts, config = self.components, self.components.config
        return Checkpoint(
            model=parts.net.canonical_state(),
            velocities=parts.net.canonical(parts.sgd.velocities()),
            schedule=self.progress.to_json(),
            position=self.position,
            seeds={"run": config.seed},
            config=dataclasses.asdict(config),
            dataset_fingerprint=parts.data.fingerprint,
            label_order_sha256=parts.data.label_order_sha256,
            classes=parts.classes,
            world=BatchSplit(parts.world.size, config.optim.batch_images, config.optim.accumulate),
            history=self.history,
            best=self.best,
            scaler=self.components.stepper.scaler_state(),
            window=totals,
        )


def _history_entry(position: Position, found: Evaluation) -> dict[str, Any]:
    return {
        "epoch": position.epoch,
        "global_step": position.global_step,
        "top1_error": found.top1_error,
        "top5_error": found.top5_error,
    }
