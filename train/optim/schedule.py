"""The learning rate as a pure function of settings, progress and validation errors so far.

There are four kinds. ``plateau`` divides by ten when the validation error stalls (paper, section
5). ``steps`` does so at given epochs, which the author chose by hand (lab notes of
layer-params-145). ``dexp`` is the author's later automatic schedule: equal steps down to the last
rate (layer-params-170). ``constant`` keeps the rate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from math import ceil, isfinite
from typing import Any

from train.config import OptimConfig
from train.errors import CheckpointError

DEXP_BIAS_TARGET_FACTOR = 10.0
DEXP_BIAS_STEPS = 2
"""``dexp`` divides the biases' rate by 10 for the second half (layer-params-170.cfg of 2012)."""
CONV1 = "conv1"
CONV1_SLOW_FACTOR = 0.1


@dataclass(frozen=True, slots=True)
class Rates:
    """Learning rates of one update. Rate 0 means no update at all, without decay or momentum
    (weights.cu 148 of the 2012 source)."""

    lr_weights: float
    lr_biases: float
    layer_factors: Mapping[str, float] = field(default_factory=dict)
    """Multipliers of single layers: 0 freezes a layer. Layers not listed have 1."""

    def of(self, layer: str, kind: str) -> float:
        """Return the rate of a layer's ``weight`` or ``bias``."""
        rate = self.lr_biases if kind == "bias" else self.lr_weights
        return rate * self.layer_factors.get(layer, 1.0)


@dataclass(frozen=True, slots=True)
class Override:
    """A learning rate that the user set on resuming, kept for the record."""

    epoch: float
    old_lr: float
    new_lr: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleState:
    """State of the schedule; equal settings, state and epoch give equal rates."""

    asked_lr: float
    """``OptimConfig.lr`` as last set: another value on resuming is an override."""
    base_lr: float
    """Rate before any drop, so that later drops keep their factors after an override."""
    drops: int = 0
    best_error: float | None = None
    waiting_since: float = 0.0
    """Epochs finished at the last improvement or drop."""
    finished: bool = False
    """A plateau schedule has stalled again after its last drop, so the run ends."""
    errors: tuple[tuple[float, float], ...] = ()
    """Finished epochs and top-1 error of every validation."""
    overrides: tuple[Override, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Convert to plain numbers, lists and dicts."""
        state = asdict(self)
        state["errors"] = [list(each) for each in self.errors]
        state["overrides"] = list(state["overrides"])
        return state

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ScheduleState:
        """Invert ``to_json``.

        Raises:
            CheckpointError: ``value`` does not come from ``to_json``.
        """
        try:
            parts = dict(value)
            errors = tuple((float(epoch), float(error)) for epoch, error in parts.pop("errors"))
            overrides = tuple(Override(**each) for each in parts.pop("overrides"))
            return cls(errors=errors, overrides=overrides, **parts)
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            raise CheckpointError(f"the schedule's state is malformed: {exc!r}") from exc


def start(config: OptimConfig) -> ScheduleState:
    """Return the state before the first update."""
    return ScheduleState(asked_lr=config.lr, base_lr=config.lr)


def rate(config: OptimConfig, state: ScheduleState, epoch: float) -> Rates:
    """Work out the rates after ``epoch`` finished epochs; fractions count, as in the 2012 source.

    ``dexp`` is spread over ``config.schedule_epochs``, and keeps its last rate after them.
    """
    lr = state.base_lr
    return Rates(
        lr_weights=lr * _decay(config, state, epoch),
        lr_biases=lr * config.lr_bias_multiplier * _bias_decay(config, state, epoch),
        layer_factors=_layer_factors(config, epoch),
    )


def after_validation(
    config: OptimConfig, state: ScheduleState, epoch: float, top1_error: float
) -> ScheduleState:
    """Return the state after the validation that follows ``epoch`` finished epochs.

    An error improves on the best if it is lower by more than ``plateau_min_gain``; smaller gains
    add up, because they leave the best unchanged. ``plateau_epochs`` without an improvement cause
    a drop, or the end once there were ``lr_drops`` drops. Other kinds only record the error.
    """
    if not isfinite(top1_error):
        raise ValueError(f"the top-1 error must be a finite number; got {top1_error}")
    state = replace(state, errors=(*state.errors, (float(epoch), float(top1_error))))
    if state.best_error is None or state.best_error - top1_error > config.plateau_min_gain:
        return replace(state, best_error=float(top1_error), waiting_since=float(epoch))
    if config.schedule != "plateau" or epoch - state.waiting_since < config.plateau_epochs:
        return state
    if state.drops < config.lr_drops:
        return replace(state, drops=state.drops + 1, waiting_since=float(epoch))
    return replace(state, finished=True)


def resumed(config: OptimConfig, state: ScheduleState, epoch: float) -> ScheduleState:
    """Return the state of a resumed run. A new ``config.lr`` becomes the rate of the weights from
    now on, later drops start from it, and the change is recorded."""
    if config.lr == state.asked_lr:
        return state
    decay = _decay(config, state, epoch)
    change = Override(epoch=float(epoch), old_lr=state.base_lr * decay, new_lr=config.lr)
    return replace(
        state,
        asked_lr=config.lr,
        base_lr=config.lr / decay,
        waiting_since=float(epoch),
        finished=False,
        overrides=(*state.overrides, change),
    )


def _decay(config: OptimConfig, state: ScheduleState, epoch: float) -> float:
    if config.schedule == "dexp":
        return _dexp(config, epoch, config.dexp_target_factor, config.dexp_steps)
    return config.lr_factor ** _drops(config, state, epoch)


def _bias_decay(config: OptimConfig, state: ScheduleState, epoch: float) -> float:
    if config.schedule == "dexp":
        return _dexp(config, epoch, DEXP_BIAS_TARGET_FACTOR, DEXP_BIAS_STEPS)
    drops = _drops(config, state, epoch)
    return config.lr_factor ** min(drops, drops if config.bias_drops is None else config.bias_drops)


def _drops(config: OptimConfig, state: ScheduleState, epoch: float) -> int:
    if config.schedule == "plateau":
        return state.drops
    if config.schedule == "steps":
        return sum(epoch >= step for step in config.step_epochs)
    return 0


def _dexp(config: OptimConfig, epoch: float, target_factor: float, steps: int) -> float:
    """Go from 1 to ``1 / target_factor`` in ``steps`` equal parts, by a constant ratio.

    The update at a boundary still has the old rate (``progress <= (i + 1) / n``, lr.cu of the 2012
    source).
    """
    if steps == 1:
        return 1.0
    assert config.schedule_epochs is not None
    step = min(max(ceil(epoch * steps / config.schedule_epochs) - 1, 0), steps - 1)
    return float(target_factor ** (-step / (steps - 1)))


def _layer_factors(config: OptimConfig, epoch: float) -> dict[str, float]:
    if config.conv1_freeze_epoch is not None and epoch >= config.conv1_freeze_epoch:
        return {CONV1: 0.0}
    if config.conv1_slow_epoch is not None and epoch >= config.conv1_slow_epoch:
        return {CONV1: CONV1_SLOW_FACTOR}
    return {}
