"""Decides whether a run may resume from a checkpoint, and lists the settings that changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from train.config import RunConfig
from train.errors import CheckpointError
from train.older_runs import (
    RETIRED,
    changed_retired,
    with_added,
    with_precision,
    without_retired,
)
from train.saved.checkpoint import Checkpoint

NEW_RUN = "start a new run with another --out"
AT_START_ONLY = frozenset({"init_sd", "init_sd_conv345", "init_bias", "classes"})
"""Network settings that matter only before the first update; classes are checked separately."""
ORDER_SETTINGS = ("shuffle", "window_shards")
"""Input settings that change the order of the images in an epoch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpectedRun:
    """Settings and dataset of the run that wants to resume."""

    config: RunConfig
    dataset_fingerprint: str
    label_order_sha256: str
    classes: int
    data_processes: int


@dataclass(frozen=True, slots=True)
class Difference:
    """A field that differs, with both values and advice."""

    name: str
    saved: object
    asked: object
    advice: str = ""

    def __str__(self) -> str:
        advice = f"; {self.advice}" if self.advice else ""
        return f"{self.name}: the checkpoint has {self.saved}, this run has {self.asked}{advice}"


def check_resume(
    checkpoint: Checkpoint, expected: ExpectedRun, *, allow_reshard: bool = False
) -> None:
    """Refuse a checkpoint of another run.

    Another number of data processes is refused only to catch mistakes. It is well defined: the
    order of the images, their crops and noise and the dropout masks are functions of (seed,
    epoch, step) over the *global* batch, which the processes divide among themselves. With
    ``allow_reshard`` the batches stay the same, except for the rounding of sums.

    Raises:
        CheckpointError: names every field that differs, both values and what to do.
    """
    changes = list(_refusals(checkpoint, expected))
    if not allow_reshard and checkpoint.world.data_processes != expected.data_processes:
        changes.append(
            Difference(
                "data processes",
                checkpoint.world.data_processes,
                expected.data_processes,
                "the batches stay the same; allow it with --allow-reshard",
            )
        )
    if changes:
        lines = "".join(f"\n  {change}" for change in changes)
        raise CheckpointError(f"the checkpoint belongs to another run:{lines}")


def check_labels(checkpoint: Checkpoint, *, label_order_sha256: str, classes: int) -> None:
    """Refuse to measure a network on a dataset with other classes.

    Raises:
        CheckpointError: the order or the number of classes differs.
    """
    changes = list(_label_changes(checkpoint, label_order_sha256, classes))
    if changes:
        lines = "".join(f"\n  {change}" for change in changes)
        raise CheckpointError(f"the checkpoint was trained on other classes:{lines}")


def check_dataset(checkpoint: Checkpoint, fingerprint: str) -> None:
    """Refuse to report on a run with a dataset that it was not trained on.

    Raises:
        CheckpointError: the fingerprints differ.
    """
    if checkpoint.dataset_fingerprint != fingerprint:
        raise CheckpointError(
            f"the run was trained on another dataset: its fingerprint is "
            f"{checkpoint.dataset_fingerprint}, this one's is {fingerprint}; name the right "
            "dataset with --dataset"
        )


def changed_settings(checkpoint: Checkpoint, config: RunConfig) -> list[str]:
    """One line per setting that differs, for the log of the run."""
    saved, asked = _settings_of(checkpoint), _plain(asdict(config))
    if saved.get("precision") == "auto" and asked["precision"] == "float32":
        saved["precision"] = "float32"  # an older run on a CPU, which did not record it
    return [str(change) for change in _differences(saved, asked)]


def _settings_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """The settings of a checkpoint of any version, by today's names."""
    settings = with_added(with_precision(without_retired(checkpoint.config)))
    return {name: _plain(value) for name, value in settings.items()}


def _refusals(checkpoint: Checkpoint, expected: ExpectedRun) -> Iterator[Difference]:
    saved, asked = _settings_of(checkpoint), _plain(asdict(expected.config))
    for name, value in changed_retired(checkpoint.config).items():
        yield Difference(name, value, RETIRED[name], f"this setting was removed; {NEW_RUN}")
    if checkpoint.dataset_fingerprint != expected.dataset_fingerprint:
        yield Difference(
            "dataset fingerprint",
            checkpoint.dataset_fingerprint,
            expected.dataset_fingerprint,
            f"use the dataset that the run started with, or {NEW_RUN}",
        )
    yield from _label_changes(checkpoint, expected.label_order_sha256, expected.classes)
    for change in _differences(saved.get("net"), asked["net"], "net."):
        if change.name.removeprefix("net.") not in AT_START_ONLY:
            yield Difference(change.name, change.saved, change.asked, f"set it back, or {NEW_RUN}")
    if checkpoint.world.batch_images != expected.config.optim.batch_images:
        yield Difference(
            "batch size",
            checkpoint.world.batch_images,
            expected.config.optim.batch_images,
            f"set --batch-size back, or {NEW_RUN}",
        )
    if checkpoint.seeds.get("run") != expected.config.seed:
        yield Difference(
            "seed",
            checkpoint.seeds.get("run"),
            expected.config.seed,
            f"set --seed back, or {NEW_RUN}",
        )
    if checkpoint.position.step_in_epoch:
        for change in _differences(saved.get("input"), asked["input"], "input."):
            if change.name.removeprefix("input.") in ORDER_SETTINGS:
                yield Difference(
                    change.name,
                    change.saved,
                    change.asked,
                    "it cannot change within an epoch; set it back until the epoch ends",
                )


def _label_changes(checkpoint: Checkpoint, order: str, classes: int) -> Iterator[Difference]:
    if checkpoint.label_order_sha256 != order:
        yield Difference(
            "label order",
            checkpoint.label_order_sha256,
            order,
            "label numbers mean other classes; build the dataset with the same labels",
        )
    if checkpoint.classes != classes:
        yield Difference("classes", checkpoint.classes, classes, NEW_RUN)


def _differences(saved: Any, asked: Any, name: str = "") -> Iterator[Difference]:
    """The values in nested settings that differ, by dotted name."""
    if isinstance(saved, Mapping) and isinstance(asked, Mapping):
        for key in [*asked, *(key for key in saved if key not in asked)]:
            inner = f"{name}{key}."
            yield from _differences(saved.get(key, "nothing"), asked.get(key, "nothing"), inner)
    elif saved != asked:
        yield Difference(name.removesuffix("."), saved, asked)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return list(value) if isinstance(value, tuple) else value
