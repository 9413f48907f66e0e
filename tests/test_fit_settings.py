"""Settings: resolved from preset, file and flags, checked, and unchanged by a TOML round trip."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.config import InputConfig, NetConfig, OptimConfig, RunConfig
from train.errors import ConfigError
from train.older_runs import RETIRED, with_schedule_epochs
from train.presets import PRESETS, preset
from train.settings import from_assignments, from_json, merge, read_toml, resolve, to_toml


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_survives_toml_and_json(name: str, tmp_path: Path) -> None:
    config = resolve(name, {}, {})
    assert config == preset(name)
    path = tmp_path / "config.toml"
    path.write_text(to_toml(config))
    assert resolve(None, read_toml(path), {}) == config
    assert from_json(dataclasses.asdict(config)) == config


@given(
    lr=st.floats(1e-6, 10),
    chunk=st.integers(1, 64),
    steps=st.lists(st.integers(1, 90), unique=True, max_size=4),
    freeze=st.none() | st.integers(0, 90),
)
def test_any_settings_survive_toml(
    lr: float, chunk: int, steps: list[int], freeze: int | None
) -> None:
    config = RunConfig(
        input=InputConfig(crop_chunk=chunk),
        optim=OptimConfig(lr=lr, step_epochs=tuple(sorted(steps)), conv1_freeze_epoch=freeze),
    )
    assert resolve(None, tomllib.loads(to_toml(config)), {}) == config


def test_flags_override_the_file_and_the_file_overrides_the_preset() -> None:
    file = {"preset": "source-2012", "optim": {"lr": 0.5, "momentum": 0.8}}
    config = resolve(None, file, from_assignments(("optim.lr=0.25", "net.activation=tanh")))
    assert (config.preset, config.optim.lr, config.optim.momentum) == ("source-2012", 0.25, 0.8)
    assert config.net.activation == "tanh"
    assert config.net.init_sd_conv345 == 0.03  # of the preset


def test_the_number_of_epochs_scales_the_events_of_the_preset() -> None:
    whole, short = preset("source-2012"), resolve("source-2012", {}, {"optim": {"epochs": 31}})
    assert whole.optim.step_epochs == (24, 50, 78)
    assert whole.optim.epochs == 91
    assert (whole.input.lighting_stop_epoch, whole.optim.conv1_freeze_epoch) == (66, 71)
    assert short.optim.step_epochs == (8, 17, 27)
    assert short.input.lighting_stop_epoch == 22
    assert short.optim.epochs == 31


def test_the_two_runs_of_the_author_differ_in_their_events_only() -> None:
    ours, theirs = (dataclasses.asdict(preset(name)) for name in ("source-2012", "source-2010"))
    assert ours["net"] == theirs["net"]
    differing = {
        key
        for part in ("input", "optim")
        for key in ours[part]
        if ours[part][key] != theirs[part][key]
    }
    assert differing == {
        "lighting_stop_epoch", "step_epochs", "bias_drops", "conv1_slow_epoch", "epochs",
        "schedule_epochs",
    }  # fmt: skip


def test_events_in_a_file_stay_when_the_number_of_epochs_changes(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(to_toml(preset("source-2012")))
    longer = resolve(None, read_toml(path), {"optim": {"epochs": 135}})
    assert longer.optim.step_epochs == (24, 50, 78)
    assert longer.optim.epochs == 135


def test_a_stored_schedule_keeps_its_length_unless_it_is_set() -> None:
    stored = tomllib.loads(to_toml(preset("modern", 8)))
    assert stored["optim"]["schedule_epochs"] == 8
    longer = resolve(None, stored, {"optim": {"epochs": 12}})
    assert (longer.optim.epochs, longer.optim.schedule_epochs) == (12, 8)
    again = resolve(None, stored, {"optim": {"epochs": 12, "schedule_epochs": "none"}})
    assert again.optim.schedule_epochs == 12
    old = {**stored, "optim": {**stored["optim"]}}
    del old["optim"]["schedule_epochs"]  # the file of an older version
    completed = resolve(None, with_schedule_epochs(old), {"optim": {"epochs": 12}})
    assert completed == longer
    assert with_schedule_epochs(stored) == stored


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("optim.lr", "SETTING=VALUE"),
        ("optim.rate=1", "unknown setting optim.rate"),
        ("nett.lrn=false", "unknown setting nett"),
        ("optim=3", "is a section"),
        ("optim.lr=fast", "must be a number, got 'fast'"),
        ("optim.epochs=1.5", "must be a whole number"),
        ("optim.epochs=true", "must be a whole number"),
        ("net.lrn=1", "must be true or false"),
        ("net.dropout=some", "must be one of vanilla, inverted; got 'some'"),
        ("optim.step_epochs=3", "must be a list"),
        ("optim.step_epochs=[5, 3]", "increasing order"),
        ("optim.momentum=1.0", "below 1"),
        ("input.crop_px=4", "at least 8"),
    ],
)
def test_wrong_settings_are_rejected_by_name(assignment: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve("paper", {}, from_assignments((assignment,)))


@pytest.mark.parametrize("name", ["input.layout", "net.init", "optim.scale_lr_from_batch"])
def test_removed_settings_are_ignored_with_their_default_and_refused_otherwise(name: str) -> None:
    default = RETIRED[name] or "none"
    assert resolve("paper", {}, from_assignments((f"{name}={default}",))) == preset("paper")
    with pytest.raises(ConfigError, match=rf"{name} was removed, so it cannot be 7: leave it out"):
        resolve("paper", {}, from_assignments((f"{name}=7",)))


def flat(config: RunConfig) -> dict[str, object]:
    """All settings by dotted name, as TOML values."""
    nested = tomllib.loads(to_toml(config))
    found: dict[str, object] = {}
    for section, value in nested.items():
        inner = value.items() if isinstance(value, dict) else [("", value)]
        found |= {f"{section}.{name}".removesuffix("."): each for name, each in inner}
    return found


def toml_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@pytest.mark.parametrize(("base", "other"), [("paper", "source-2012"), ("source-2012", "paper")])
def test_each_difference_between_paper_and_source_can_be_set_alone(base: str, other: str) -> None:
    """For the same number of epochs, as otherwise that number moves the author's events."""
    start, goal = (
        flat(resolve(base, {}, {})),
        flat(preset(other, resolve(base, {}, {}).optim.epochs)),
    )
    differing = [name for name in start if start[name] != goal[name] and name != "preset"]
    assert len(differing) > 12
    for name in differing:
        assignment = f"{name}={toml_text(goal[name])}"
        assert flat(resolve(base, {}, from_assignments((assignment,)))) == {
            **start,
            name: goal[name],
        }
    every = tuple(f"{name}={toml_text(goal[name])}" for name in differing)
    assert flat(resolve(base, {}, from_assignments(every))) == {**goal, "preset": base}


@pytest.mark.parametrize("base", PRESETS)
@pytest.mark.parametrize(
    "assignment",
    [
        "net.lrn=false",
        "net.architecture=one-gpu",
        "net.architecture=conv6",
        "net.init_bias=0",
        "net.dropout_keep=1",
        "net.pool_size=2",
        "net.leave_out=conv4",
        "net.activation=tanh",
        "input.flip=false",
        "input.lighting=off",
    ],
)
def test_each_change_of_the_papers_text_is_one_setting(base: str, assignment: str) -> None:
    name, _, text = assignment.partition("=")
    changed = flat(resolve(base, {}, from_assignments((assignment,))))
    start = flat(resolve(base, {}, {}))
    assert {key for key in start if changed[key] != start[key]} == {name}
    assert toml_text(changed[name]).removesuffix(".0") == text


def test_contradicting_settings_are_rejected() -> None:
    with pytest.raises(ConfigError, match="only one column"):
        resolve("paper", {}, {"parallel": "columns", "net": {"architecture": "one-gpu"}})


def test_a_setting_can_be_none() -> None:
    config = resolve("source-2012", {}, from_assignments(("optim.conv1_freeze_epoch=none",)))
    assert config.optim.conv1_freeze_epoch is None


def test_an_unreadable_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_toml(tmp_path / "no.toml")
    (tmp_path / "bad.toml").write_text("a = [")
    with pytest.raises(ConfigError, match="not valid TOML"):
        read_toml(tmp_path / "bad.toml")


def test_settings_are_merged_section_by_section() -> None:
    assert merge({"a": {"x": 1, "y": 2}, "b": 1}, {"a": {"x": 3}}) == {
        "a": {"x": 3, "y": 2},
        "b": 1,
    }


def test_the_defaults_are_what_the_paper_says() -> None:
    assert preset("paper") == RunConfig()
    net = NetConfig()
    assert (net.init_sd, net.init_sd_conv345, net.init_bias, net.lrn_alpha) == (0.01, 0.01, 1, 1e-4)
    optim = OptimConfig()
    assert (optim.lr, optim.momentum, optim.weight_decay, optim.batch_images) == (
        0.01, 0.9, 0.0005, 128,
    )  # fmt: skip
