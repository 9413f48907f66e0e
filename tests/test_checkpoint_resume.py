"""What may change when a run resumes, and what is rejected, with both values and advice."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from typing import Any

import pytest

from tests.checkpoints import make_checkpoint
from train.config import InputConfig, NetConfig, OptimConfig, RunConfig
from train.errors import CheckpointError
from train.older_runs import ADDED
from train.saved.checkpoint import BatchSplit, Checkpoint, Position
from train.saved.compatible import (
    AT_START_ONLY,
    ExpectedRun,
    changed_settings,
    check_labels,
    check_resume,
)
from train.settings import from_json


def saved(config: RunConfig | None = None, **changes: Any) -> Checkpoint:
    """A checkpoint as read from a file, with lists for tuples."""
    checkpoint = make_checkpoint(config or RunConfig(), **changes)
    optim = {**checkpoint.config["optim"], "step_epochs": []}
    return replace(checkpoint, config={**checkpoint.config, "optim": optim})


def expected(config: RunConfig | None = None, **changes: Any) -> ExpectedRun:
    this = ExpectedRun(
        config=config or RunConfig(),
        dataset_fingerprint="f" * 64,
        label_order_sha256="a" * 64,
        classes=4,
        data_processes=2,
    )
    return replace(this, **changes)


def test_the_same_run_resumes() -> None:
    check_resume(saved(), expected())
    assert changed_settings(saved(), RunConfig()) == []


OTHER_VALUES: dict[str, Any] = {
    "architecture": "conv6",
    "activation": "tanh",
    "first_layer": "conv-lrn-pool-relu",
    "dropout": "inverted",
    "classes": 7,
    "lrn_size": 7,
    "dropout_keep": 0.75,
    "width_divisor": 4,
    "leave_out": "conv4",
    "pool_stride": 3,
}


@pytest.mark.parametrize("name", [each.name for each in fields(NetConfig)])
def test_only_the_initial_weights_of_the_network_may_change(name: str) -> None:
    old = getattr(NetConfig(), name)
    new = OTHER_VALUES.get(name, not old if isinstance(old, bool) else old and old * 2)
    assert new != old
    config = RunConfig(net=replace(NetConfig(), **{name: new}))
    if name in AT_START_ONLY:
        check_resume(saved(), expected(config))
    else:
        with pytest.raises(CheckpointError, match=f"net.{name}: the checkpoint has {old}, .*{new}"):
            check_resume(saved(), expected(config))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"dataset_fingerprint": "0" * 64},
            r"dataset fingerprint: .*f{64}.*0{64}; use the dataset",
        ),
        ({"label_order_sha256": "b" * 64}, r"label order: .*a{64}.*b{64}; .*same labels"),
        ({"classes": 5}, "classes: the checkpoint has 4, this run has 5; start a new run"),
        ({"config": RunConfig(seed=3)}, "seed: the checkpoint has 0, this run has 3; set --seed"),
        (
            {"config": RunConfig(optim=OptimConfig(batch_images=64))},
            "batch size: the checkpoint has 128, this run has 64; set --batch-size back",
        ),
        ({"data_processes": 1}, "data processes: .* 2, this run has 1; .*--allow-reshard"),
    ],
)
def test_a_rejection_names_both_values_and_gives_advice(
    change: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        check_resume(saved(), expected(**change))


def test_all_reasons_are_listed_together() -> None:
    with pytest.raises(CheckpointError) as caught:
        check_resume(saved(), expected(RunConfig(seed=1), classes=9, data_processes=3))
    assert len(str(caught.value).splitlines()) == 4


def test_allow_reshard_allows_only_another_number_of_processes() -> None:
    check_resume(saved(), expected(data_processes=5), allow_reshard=True)
    with pytest.raises(CheckpointError, match="seed"):
        check_resume(saved(), expected(RunConfig(seed=1), data_processes=5), allow_reshard=True)


def test_the_order_of_images_may_change_only_between_epochs() -> None:
    config = RunConfig(input=InputConfig(window_shards=2))
    between = Position(epoch=2, step_in_epoch=0, global_step=20)
    check_resume(saved(position=between), expected(config))
    with pytest.raises(
        CheckpointError, match=r"window_shards: .* 16, this run has 2; .*within an epoch"
    ):
        check_resume(saved(), expected(config))


def test_other_settings_may_change_and_are_listed() -> None:
    config = RunConfig(optim=OptimConfig(lr=0.5, accumulate=4), input=InputConfig(lighting="off"))
    check_resume(saved(), expected(config))
    lines = changed_settings(saved(), config)
    assert lines == [
        "input.lighting: the checkpoint has eigenvalue, this run has off",
        "optim.lr: the checkpoint has 0.01, this run has 0.5",
        "optim.accumulate: the checkpoint has 1, this run has 4",
    ]


def test_a_setting_missing_in_the_checkpoint_counts_as_changed() -> None:
    old = asdict(RunConfig())
    old["net"].pop("activation")
    old["optim"]["step_epochs"] = []
    with pytest.raises(CheckpointError, match=r"net\.activation: the checkpoint has nothing"):
        check_resume(replace(saved(), config=old), expected())


def test_a_checkpoint_from_before_a_setting_existed_resumes() -> None:
    old = asdict(RunConfig())
    old["optim"]["step_epochs"] = []
    for dotted, value in ADDED.items():
        section, _, name = dotted.rpartition(".")
        assert (old[section] if section else old).pop(name) == value
    check_resume(replace(saved(), config=old), expected())
    assert changed_settings(replace(saved(), config=old), RunConfig()) == []
    other = expected(RunConfig(net=NetConfig(leave_out="fc7")))
    with pytest.raises(CheckpointError, match=r"net\.leave_out: the checkpoint has None"):
        check_resume(replace(saved(), config=old), other)


OLD_DEFAULTS = {"input.layout": "channels-last", "net.init": "normal"}


def old_settings(**values: object) -> dict[str, Any]:
    """Settings as an older version stored them, with the settings that it still had."""
    old = asdict(RunConfig(optim=OptimConfig(step_epochs=())))
    old["optim"]["step_epochs"] = []
    for dotted, value in {**OLD_DEFAULTS, "optim.scale_lr_from_batch": None, **values}.items():
        section, _, name = dotted.partition(".")
        old[section][name] = value
    return old


def test_a_checkpoint_with_removed_settings_resumes_if_they_had_their_defaults() -> None:
    checkpoint = replace(saved(), config=old_settings())
    check_resume(checkpoint, expected())
    assert changed_settings(checkpoint, RunConfig()) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [("input.layout", "nchw"), ("net.init", "he"), ("optim.scale_lr_from_batch", 128)],
)
def test_a_checkpoint_with_a_removed_setting_of_another_value_is_refused(
    name: str, value: object
) -> None:
    checkpoint = replace(saved(), config=old_settings(**{name: value}))
    with pytest.raises(CheckpointError, match=f"{name}: the checkpoint has {value}, .*removed"):
        check_resume(checkpoint, expected())
    assert from_json(checkpoint.config) == RunConfig()  # its weights can still be measured


def test_measuring_needs_the_same_classes() -> None:
    check_labels(saved(), label_order_sha256="a" * 64, classes=4)
    with pytest.raises(CheckpointError, match="other classes"):
        check_labels(saved(), label_order_sha256="a" * 64, classes=5)


def test_the_number_of_parts_per_batch_may_change() -> None:
    one = BatchSplit(data_processes=1, batch_images=128, accumulate=4)
    check_resume(saved(world=one), expected(data_processes=1))
