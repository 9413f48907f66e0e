"""The schedule of the learning rate: golden numbers, drops, overrides, saving."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.config import OptimConfig
from train.errors import CheckpointError, ConfigError
from train.optim.schedule import Rates, ScheduleState, after_validation, rate, resumed, start
from train.presets import source_2010, source_2012


def weights_rate(config: OptimConfig, epoch: float, state: ScheduleState | None = None) -> float:
    return rate(config, state or start(config), epoch).lr_weights


def validated(config: OptimConfig, errors: list[float]) -> ScheduleState:
    """Return the state after one validation per epoch."""
    state = start(config)
    for epoch, error in enumerate(errors, start=1):
        state = after_validation(config, state, epoch, error)
    return state


def test_dexp_falls_in_the_authors_four_equal_steps() -> None:
    config = OptimConfig(schedule="dexp", epochs=96)
    found = [weights_rate(config, epoch + 0.5) for epoch in range(96)]
    expected = [0.01, 0.0015874, 0.00025198, 0.00004]
    assert found[::24] == pytest.approx(expected, rel=1e-4)
    assert found == [each for each in found[::24] for _ in range(24)]


@pytest.mark.parametrize(("epochs", "boundary"), [(96, 24), (90, 45), (4, 3), (90, 22.5)])
def test_dexp_changes_one_update_after_a_boundary(epochs: int, boundary: float) -> None:
    """As ``progress <= (i + 1) / n`` in lr.cu does: the update at the boundary has the old rate."""
    config = OptimConfig(schedule="dexp", epochs=epochs)
    before, at, after = (
        weights_rate(config, boundary + updates / 10_009) for updates in (-1, 0, 1)
    )
    assert before == at
    assert after == pytest.approx(at / 250 ** (1 / 3))


def test_more_epochs_leave_the_steps_of_dexp_where_they_are() -> None:
    whole = OptimConfig(schedule="dexp", epochs=90)
    longer = replace(whole, epochs=135)
    for epoch in (0, 22.6, 45, 89.9, 90, 134):
        assert rate(longer, start(longer), epoch) == rate(whole, start(whole), min(epoch, 90))
    assert weights_rate(OptimConfig(schedule="dexp", epochs=135), 90) > weights_rate(longer, 90)


def test_dexp_divides_the_biases_rate_by_ten_for_the_second_half() -> None:
    config = OptimConfig(schedule="dexp", epochs=90, lr_bias_multiplier=2.0)
    found = [rate(config, start(config), epoch + 0.5).lr_biases for epoch in range(90)]
    assert found == pytest.approx([0.02] * 45 + [0.002] * 45)


def test_dexp_keeps_the_last_rate_beyond_its_end_and_one_step_is_constant() -> None:
    assert weights_rate(OptimConfig(schedule="dexp", epochs=4), 9) == pytest.approx(0.00004)
    assert weights_rate(OptimConfig(schedule="dexp", epochs=4, dexp_steps=1), 3) == 0.01


def in_the_authors_epoch(config: OptimConfig, epoch: int) -> Rates:
    """Rates in the middle of the author's epoch of that number; he counts from 1."""
    return rate(config, start(config), epoch - 0.5)


def test_source_2012_has_the_rates_of_the_authors_ilsvrc_2012_run() -> None:
    """Lab notes of layer-params-145.cfg (169-182): drops at 25, 51 and 79, end at 91."""
    config = source_2012().optim
    found = [in_the_authors_epoch(config, epoch) for epoch in range(1, config.epochs + 1)]
    weights = [each.lr_weights for each in found]
    assert weights == pytest.approx([1e-2] * 24 + [1e-3] * 26 + [1e-4] * 28 + [1e-5] * 13)
    assert [each.lr_biases for each in found] == [0.02] * 91
    conv1 = [in_the_authors_epoch(config, e).of("conv1", "weight") for e in (66, 67, 71, 72, 91)]
    assert conv1 == pytest.approx([1e-4, 1e-5, 1e-5, 0, 0])
    assert in_the_authors_epoch(config, 72).of("conv1", "bias") == 0
    assert in_the_authors_epoch(config, 91).of("conv2", "weight") == pytest.approx(1e-5)
    assert source_2012().input.lighting_stop_epoch == 66  # counted from 0: his epoch 67


def test_source_2010_has_the_rates_of_the_authors_ilsvrc_2010_run() -> None:
    """Lab notes of layer-params-145-2010.cfg (166-178): drops at 23, 51 and 78, end at 93."""
    config = source_2010().optim
    found = [in_the_authors_epoch(config, epoch) for epoch in range(1, config.epochs + 1)]
    weights = [each.lr_weights for each in found]
    assert weights == pytest.approx([1e-2] * 22 + [1e-3] * 28 + [1e-4] * 27 + [1e-5] * 16)
    assert [each.lr_biases for each in found] == pytest.approx([0.02] * 22 + [0.002] * 71)
    conv1 = [in_the_authors_epoch(config, e).of("conv1", "weight") for e in (67, 68, 71, 72)]
    assert conv1 == pytest.approx([1e-4, 1e-5, 1e-5, 0])
    assert source_2010().input.lighting_stop_epoch == 67


def test_steps_begin_exactly_at_their_epochs() -> None:
    config = OptimConfig(schedule="steps", step_epochs=(2,), epochs=4)
    assert weights_rate(config, 1.999) == 0.01
    assert weights_rate(config, 2) == pytest.approx(0.001)


def test_a_plateau_drops_three_times_and_then_stops() -> None:
    config = OptimConfig(plateau_epochs=2)
    state, rates = start(config), []
    for epoch in range(1, 10):
        state = after_validation(config, state, epoch, 0.5)
        rates.append(rate(config, state, epoch).lr_weights)
    # Epoch 1 is the best; it stalls at 3, 5 and 7, and ends at 9.
    assert rates == pytest.approx([1e-2] * 2 + [1e-3] * 2 + [1e-4] * 2 + [1e-5] * 3)
    assert state.finished
    assert not validated(config, [0.5] * 8).finished


def test_a_gain_restarts_the_wait_and_gains_too_small_add_up() -> None:
    config = OptimConfig(plateau_epochs=3, plateau_min_gain=0.01)
    assert validated(config, [0.5, 0.5, 0.5, 0.48, 0.48, 0.48]).drops == 0
    assert validated(config, [0.5, 0.495, 0.489, 0.489, 0.489]).drops == 0
    assert validated(config, [0.5, 0.495, 0.495, 0.495]).drops == 1


@given(st.lists(st.floats(0, 1), max_size=60), st.integers(0, 4), st.integers(1, 5))
def test_a_plateau_never_raises_the_rate_or_drops_more_often_than_allowed(
    errors: list[float], drops: int, patience: int
) -> None:
    config = OptimConfig(lr_drops=drops, plateau_epochs=patience)
    state, previous = start(config), config.lr
    for epoch, error in enumerate(errors, start=1):
        state = after_validation(config, state, epoch, error)
        current = weights_rate(config, epoch, state)
        assert current <= previous
        previous = current
    assert state.drops <= drops
    assert len(state.errors) == len(errors)
    assert not state.finished or len(errors) > (drops + 1) * patience


@pytest.mark.parametrize("kind", ["steps", "dexp", "constant"])
def test_validation_errors_do_not_change_the_other_kinds(kind: Any) -> None:
    config = OptimConfig(schedule=kind, step_epochs=(3,), epochs=9)
    state = validated(config, [0.9] * 9)
    assert rate(config, state, 9) == rate(config, start(config), 9)
    assert not state.finished


def test_a_rate_set_on_resuming_applies_from_then_on_and_is_recorded() -> None:
    config = OptimConfig(schedule="steps", step_epochs=(2, 4), epochs=6)
    by_hand = OptimConfig(lr=0.005, schedule="steps", step_epochs=(2, 4), epochs=6)
    state = resumed(by_hand, start(config), 3)
    assert weights_rate(by_hand, 3, state) == pytest.approx(0.005)
    assert weights_rate(by_hand, 4, state) == pytest.approx(0.0005)
    (change,) = state.overrides
    assert (change.epoch, change.new_lr) == (3, 0.005)
    assert change.old_lr == pytest.approx(0.001)


def test_resuming_with_the_same_rate_changes_nothing() -> None:
    config = OptimConfig(lr=0.02)
    state = validated(config, [0.5] * 8)
    assert resumed(config, state, 8) is state
    by_hand = OptimConfig(lr=0.03)
    once = resumed(by_hand, state, 8)
    assert resumed(by_hand, once, 9) is once


def test_a_finished_plateau_continues_with_a_new_rate() -> None:
    config = OptimConfig(plateau_epochs=1, lr_drops=0)
    state = validated(config, [0.5, 0.5])
    assert state.finished
    assert not resumed(OptimConfig(lr=1e-3, plateau_epochs=1, lr_drops=0), state, 2).finished


@given(st.lists(st.floats(0, 1), max_size=20), st.floats(1e-6, 1))
def test_the_state_survives_json(errors: list[float], lr: float) -> None:
    config = OptimConfig(plateau_epochs=2)
    state = resumed(OptimConfig(lr=lr, plateau_epochs=2), validated(config, errors), 5)
    assert ScheduleState.from_json(json.loads(json.dumps(state.to_json()))) == state


@pytest.mark.parametrize(
    "value", [{}, {"errors": 3}, {**start(OptimConfig()).to_json(), "surprise": 1}]
)
def test_a_malformed_state_is_refused(value: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="schedule"):
        ScheduleState.from_json(value)


@pytest.mark.parametrize(
    "setting",
    [{"lr_drops": -1}, {"plateau_epochs": 0}, {"bias_drops": -1}],
)
def test_settings_out_of_range_are_refused(setting: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(iter(setting))):
        OptimConfig(**setting)  # type: ignore[arg-type]
