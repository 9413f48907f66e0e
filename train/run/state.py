"""The state of a run between two updates, as a checkpoint and as text."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from imgprep.wording import counted
from train.optim.schedule import ScheduleState
from train.run.components import RunComponents
from train.run.evaluate import Evaluation
from train.saved.checkpoint import BatchSplit, Checkpoint, Position


@dataclass(frozen=True, slots=True)
class RunState:
    """What changes in a run, apart from the tensors."""

    progress: ScheduleState
    position: Position
    history: list[dict[str, Any]]
    """All validations so far."""
    best: dict[str, Any] | None
    """The validation with the lowest top-1 error."""


def checkpoint_of(parts: RunComponents, state: RunState, totals: list[float]) -> Checkpoint:
    """Copy the state of a run for ``Saver.save``; ``totals`` are those of the meter.

    Raises:
        DestinationError: the checkpoint before could not be written.
    """
    config = parts.config
    weights, negative_velocities = parts.saver.take()
    return Checkpoint(
        model=weights,
        velocities=negative_velocities,
        schedule=state.progress.to_json(),
        position=state.position,
        seeds={"run": config.seed},
        config=dataclasses.asdict(config),
        dataset_fingerprint=parts.data.fingerprint,
        label_order_sha256=parts.data.label_order_sha256,
        classes=parts.classes,
        world=BatchSplit(parts.world.size, config.optim.batch_images, config.optim.accumulate),
        history=list(state.history),
        best=state.best,
        scaler=parts.stepper.scaler_state(),
        window=totals,
    )


def done_text(count: int, noun: str) -> str:
    """``1 epoch is done``, ``2 epochs are done``."""
    return f"{counted(count, noun)} {'is' if count == 1 else 'are'} done"


def history_entry(position: Position, found: Evaluation) -> dict[str, Any]:
    """What a checkpoint keeps of a validation."""
    return {
        "epoch": position.epoch,
        "global_step": position.global_step,
        "top1_error": found.top1_error,
        "top5_error": found.top5_error,
    }
