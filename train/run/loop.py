"""The loop over epochs and updates: step, log, save and validate until the run ends."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

from imgprep.errors import ImgprepError
from train.errors import DivergedError, PeerLostError, RunStoppedError
from train.feed.loader import Batch, EvalBatch, EvalLoader
from train.join import is_lost_peer
from train.optim import schedule
from train.optim.schedule import Rates, ScheduleState
from train.run.chance import chance_warning
from train.run.components import RunComponents
from train.run.evaluate import evaluate
from train.run.finite import network_is_finite
from train.run.meter import StepMeter
from train.run.saving import SaveAs
from train.run.state import RunState, checkpoint_of, done_text, history_entry
from train.saved import checkpoint as checkpoints
from train.saved.checkpoint import Checkpoint, Position
from train.world import World

RESUME = "run the same command again to resume"


@dataclass(slots=True)
class Loop:
    """A run in progress: its components, and all state that changes.

    While an epoch is validated, the position is still after its last update. So a run that ends
    there resumes with the validation.
    """

    components: RunComponents
    progress: ScheduleState
    meter: StepMeter
    position: Position = field(default_factory=Position)
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] | None = None
    _batch: Batch | None = None
    """The batch of the last update."""
    _warned: bool = False

    def resume(self, saved: Checkpoint) -> None:
        """Resume from a checkpoint that ``check_resume`` accepted."""
        parts = self.components
        parts.net.load_canonical_state(saved.model)
        parts.sgd.load_velocities(parts.net.local(saved.velocities))
        parts.stepper.load_scaler_state(saved.scaler)
        self.position = saved.position
        parts.saver.resumed_from(saved.position)
        state = ScheduleState.from_json(saved.schedule)
        self.progress = schedule.resumed(parts.config.optim, state, self._epochs_done)
        self.meter.load(saved.window, parts.world)
        self.history = list(saved.history)
        self.best = saved.best

    def run(self) -> str:
        """Train to the end; returns the reason for the end.

        Raises:
            DivergedError: the loss or the network is not finite.
            RunStoppedError: SIGTERM or Ctrl-C; the state is saved.
            PeerLostError: another process has ended; the state is saved.
            DataError: a record cannot be read; the state is saved.
            DestinationError: a checkpoint could not be written.
        """
        try:
            while (reason := self._end_reason(self.position)) is None:
                if self._train_epoch():
                    self._end_epoch()
            self.components.saver.wait()
        except RuntimeError as exc:
            if not is_lost_peer(self.components.world, exc):
                raise
            self._save_alone()
            raise PeerLostError(
                f"lost contact with the other processes; {self._saved_text}: {RESUME}"
            ) from exc
        return reason

    @property
    def _epochs_done(self) -> float:
        steps: int = self.components.train.steps_per_epoch
        return self.position.epoch + self.position.step_in_epoch / steps

    @property
    def _rates(self) -> Rates:
        return schedule.rate(self.components.config.optim, self.progress, self._epochs_done)

    @property
    def _saved_text(self) -> str:
        """What is saved, once it is on disk."""
        saver = self.components.saver
        saver.wait()
        if saver.saved_at is None:
            return "nothing is saved yet"
        return f"saved at step {saver.saved_at.global_step:,}"

    def _end_reason(self, position: Position) -> str | None:
        """Why the run ends at ``position``; None if it continues."""
        config = self.components.config
        if position.step_in_epoch == self.components.train.steps_per_epoch:
            return None  # this epoch is not validated yet
        if position.epoch >= config.optim.epochs:
            return done_text(config.optim.epochs, "epoch")
        if config.steps is not None and position.global_step >= config.steps:
            return done_text(config.steps, "step")
        if self.progress.finished:
            return "the validation error has stopped falling"
        return None

    def _train_epoch(self) -> bool:
        """Train until the epoch is complete, or the run ends within it; returns whether it is."""
        parts = self.components
        steps = parts.train.steps_per_epoch
        if self.position.step_in_epoch == steps:
            return True
        self.meter.restart_clock()
        batches = parts.train.epoch(self.position.epoch, self.position.step_in_epoch)
        while self.position.step_in_epoch < steps:
            asked_at = time.monotonic()
            batch = self._next(batches)
            self._step(batch, time.monotonic() - asked_at)
            if self.position.step_in_epoch == steps:
                return True
            if parts.stop.asked(parts.world):
                self._save()
                self._stop()
            if self._end_reason(self.position) is not None:
                self._save()
                return False
        return True

    def _next(self, batches: Iterator[Batch]) -> Batch:
        try:
            return next(batches)
        except ImgprepError as exc:
            self._end_by_fault(exc)

    def _step(self, batch: Batch, wait_seconds: float) -> None:
        parts = self.components
        done = parts.stepper(batch, self._rates, global_step=self.position.global_step)
        self._batch = batch
        self.meter.add(done.sums, done.images, wait_seconds)
        self.position = self.position.next_step()
        parts.stop.listen()
        if parts.stepper.device.type == "cpu":  # on a GPU, reading the loss would wait for it
            self._check_loss(float(done.sums[0]))
        if self.position.global_step % parts.config.log_every_steps == 0:
            self._log()
        every = parts.config.checkpoint_every_steps
        if every is not None and self.position.global_step % every == 0:
            # The validation of an epoch may withdraw the save at its end.
            whole = self.position.step_in_epoch == parts.train.steps_per_epoch
            self._save(keep_previous=whole)

    def _end_epoch(self) -> None:
        """Save, validate, and save again with the result."""
        parts, config = self.components, self.components.config
        after = self.position.next_epoch()
        best = False
        last = self._end_reason(after) is not None
        if parts.val is not None and (last or after.epoch % config.eval_every_epochs == 0):
            if parts.saver.saved_at != self.position:
                self._save(keep_previous=True)
            if parts.stop.asked(parts.world, now=True):
                self._stop()
            best = self._validate(parts.val, after)
        self.position = after
        self._save(best=best, epoch_end=True)
        if self._end_reason(after) is None and parts.stop.asked(parts.world, now=True):
            self._stop()

    def _validate(self, loader: EvalLoader, after: Position) -> bool:
        """Measure the centre crop; returns whether the top-1 error is the lowest so far."""
        parts = self.components
        batches, processes = self._until_stop(loader), parts.world.size
        try:
            found = evaluate((parts.net,), batches, count=loader.records, processes=processes)
        except RunStoppedError:
            raise
        except ImgprepError as exc:
            self._end_by_fault(exc)
        if not math.isfinite(found.loss):
            if parts.world.is_main:  # last.pt is then the one before this epoch
                parts.saver.withdraw()
            raise self._diverged(f"the validation loss is {found.loss}")
        self.progress = schedule.after_validation(
            parts.config.optim, self.progress, self._epochs_done, found.top1_error
        )
        entry = history_entry(after, found)
        self.history.append(entry)
        parts.output.line(parts.logs.epoch(after, found, self._rates.lr_weights))
        if self.best is not None and self.best["top1_error"] <= found.top1_error:
            return False
        self.best = entry
        return True

    def _until_stop(self, loader: EvalLoader) -> Iterator[EvalBatch]:
        """The batches of a validation, which a stop request ends between two of them.

        The processes compare notes as often as the one with the fewest batches can.
        """
        parts = self.components
        common = (loader.records // parts.world.size - 1) // parts.config.eval_batch_images
        written_by = max(1, len(loader) // 4)
        for number, batch in enumerate(loader):
            if number == written_by:  # so that little is lost if the validation is killed
                parts.saver.wait()
            if 0 < number <= common and parts.stop.asked(parts.world):
                self._stop()
            yield batch

    def _stop(self) -> NoReturn:
        raise RunStoppedError(f"stopped and {self._saved_text}: {RESUME}")

    def _end_by_fault(self, fault: ImgprepError) -> NoReturn:
        """End the run because its data cannot be read; save what it has learned."""
        if not self.components.world.is_main:
            raise fault
        self._save_alone()
        raise type(fault)(f"{fault}\n{self._saved_text}; after the repair, {RESUME}") from fault

    def _log(self) -> None:
        parts = self.components
        means = self.meter.means(parts.world)
        self.meter.reset()
        self._check_loss(means.loss)
        parts.output.line(parts.logs.step(self.position, means, self._rates.lr_weights))
        late = self.position.global_step >= parts.config.chance_warning_steps
        if late and parts.world.is_main and not self._warned:
            warning = chance_warning(means.loss, parts.classes, self.position.global_step)
            if warning is not None:
                self._warned = True
                parts.output.warn(warning)

    def _check_loss(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise self._diverged(f"the loss is {loss}")

    def _diverged(self, what: str) -> DivergedError:
        last, good = self.components.folder / checkpoints.LAST, "none yet"
        if (saved := self.components.saver.on_disk()) is not None:
            good = f"{last}, step {saved.global_step:,}"
        return DivergedError(
            f"{what} at step {self.position.global_step:,}, learning rate "
            f"{self._rates.lr_weights:g}. Last good checkpoint: {good}. Run again with a lower --lr"
        )

    def _save(
        self, *, best: bool = False, epoch_end: bool = False, keep_previous: bool = False
    ) -> None:
        """Save the state if it is finite: all processes call it, the main one writes."""
        parts = self.components
        totals = self.meter.totals(parts.world)
        self._check_network(totals, parts.world)
        how = SaveAs(
            best=best,
            epoch_end=epoch_end,
            keep_previous=keep_previous,
            keep=parts.config.keep_checkpoints,
        )
        if parts.world.is_main:
            self._write(totals, how)
        else:
            parts.saver.saved_at = self.position

    def _save_alone(self) -> None:
        """Save in the main process, if there is something new, when the others may have ended.

        The next line of the log then lacks their images since the previous line.
        """
        parts = self.components
        if not parts.world.is_main or self.position == (parts.saver.saved_at or Position()):
            return
        totals = self.meter.totals(World())
        self._check_network(totals, World())
        self._write(totals, SaveAs(keep=parts.config.keep_checkpoints))

    def _write(self, totals: list[float], how: SaveAs) -> None:
        """Copy the state, and let a thread write it."""
        parts = self.components
        parts.logs.flush()
        state = RunState(self.progress, self.position, self.history, self.best)
        parts.saver.save(checkpoint_of(parts, state, totals), how)

    def _check_network(self, totals: list[float], world: World) -> None:
        self._check_loss(totals[0])
        if not network_is_finite(self.components, self._batch, world):
            raise self._diverged("the network is not finite after the update")
