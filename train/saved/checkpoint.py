"""The state of a run between two updates, as files: ``last.pt``, ``best.pt``, ``epoch_NNN.pt``.

A file holds one dict of plain values and tensors (``torch.load(..., weights_only=True)``):
format name and version, weights and velocities by canonical names (those of the whole grouped
network, however the run is split), the state of the schedule, the position, the settings, and the
dataset's hashes. Order and masks are functions of seed and position, so it has no random state.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from imgprep.errors import DestinationError
from imgprep.storage.atomic import PARTIAL_SUFFIX, partial_file, sync_folder
from train.errors import CheckpointError
from train.saved.checkpoint_file import read_values, write_values

FORMAT_NAME = "imgprep-train-checkpoint"
FORMAT_VERSION = 1
LAST = "last.pt"
BEST = "best.pt"
PREVIOUS = "previous.pt"
"""The one before ``last.pt``, while the network in ``last.pt`` is being validated."""
_EPOCH = re.compile(r"epoch_(\d{3,})\.pt")
_COPY_BYTES = 2**24


@dataclass(frozen=True, slots=True)
class Position:
    """Where a run is: whole epochs done, updates done in the next epoch, updates done in all."""

    epoch: int = 0
    step_in_epoch: int = 0
    global_step: int = 0

    def next_step(self) -> Position:
        """After one more update."""
        return replace(self, step_in_epoch=self.step_in_epoch + 1, global_step=self.global_step + 1)

    def next_epoch(self) -> Position:
        """At the start of the next epoch."""
        return replace(self, epoch=self.epoch + 1, step_in_epoch=0)


@dataclass(frozen=True, slots=True)
class BatchSplit:
    """How each batch is split among processes and parts."""

    data_processes: int
    batch_images: int
    accumulate: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """All that a run resumes from."""

    model: dict[str, Tensor]
    """Weights and biases by canonical name."""
    velocities: dict[str, Tensor]
    """The paper's v for each weight and bias."""
    schedule: dict[str, Any]
    """``ScheduleState.to_json()``."""
    position: Position
    seeds: dict[str, int]
    config: dict[str, Any]
    """``dataclasses.asdict`` of the resolved ``RunConfig``, tuples as lists."""
    dataset_fingerprint: str
    label_order_sha256: str
    classes: int
    world: BatchSplit
    history: list[dict[str, Any]] = field(default_factory=list)
    """All validations so far."""
    best: dict[str, Any] | None = None
    """The validation with the lowest top-1 error."""
    scaler: dict[str, Any] = field(default_factory=dict)
    """State of the float16 loss scaling; empty for other types."""
    window: list[float] = field(default_factory=list)
    """Sums since the last line of the log, so that the next line is as if never interrupted."""


def save(
    folder: Path,
    checkpoint: Checkpoint,
    *,
    best: bool = False,
    epoch_end: bool = False,
    keep_previous: bool = False,
    keep: int,
) -> Path:
    """Write ``last.pt``; also as ``best.pt`` and ``epoch_NNN.pt`` (NNN epochs done) if asked.

    The bytes are written once and hard-linked under the other names, ``last.pt`` last: a run that
    is killed in between resumes from the previous one and writes the others again. The ``keep``
    newest files ``epoch_NNN.pt`` stay. With ``keep_previous`` the earlier ``last.pt`` stays as
    ``previous.pt`` until the next save without it.

    Raises:
        DestinationError: the folder cannot be written.
    """
    names = [f"epoch_{checkpoint.position.epoch:03d}.pt"] if epoch_end else []
    names += [BEST] if best else []
    names += [LAST]
    first, *others = (folder / name for name in names)
    try:
        if keep_previous and (folder / LAST).exists():
            _link(folder / LAST, folder / PREVIOUS)
        else:
            (folder / PREVIOUS).unlink(missing_ok=True)
        write_values(first, to_values(checkpoint))
        for other in others:
            _link(first, other)
        if epoch_end:
            _keep_newest(folder, keep)
    except OSError as exc:
        raise DestinationError(f"{folder}: cannot write the checkpoint: {exc.strerror}") from exc
    return folder / LAST


def withdraw(folder: Path) -> Position | None:
    """Undo a save with ``keep_previous``; returns the position of the earlier ``last.pt``, if any.

    Raises:
        DestinationError: the folder cannot be written.
    """
    try:
        if not (folder / PREVIOUS).exists():
            (folder / LAST).unlink(missing_ok=True)
            return None
        (folder / PREVIOUS).replace(folder / LAST)
        sync_folder(folder)
    except OSError as exc:
        raise DestinationError(f"{folder}: cannot restore {LAST}: {exc.strerror}") from exc
    return load(folder / LAST).position


def load(path: Path) -> Checkpoint:
    """Read and check a checkpoint; tensors come on the CPU.

    Raises:
        CheckpointError: the file is missing, damaged, hostile, or of another format or version.
    """
    try:
        value = read_values(path)
    except CheckpointError as exc:
        raise CheckpointError(f"{exc}{_others(path)}") from exc
    if not isinstance(value, dict) or value.get("format") != FORMAT_NAME:
        raise CheckpointError(f"{path}: not a checkpoint of this program")
    if value.get("version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: checkpoint version {value.get('version')!r:.80}; this program reads version "
            f"{FORMAT_VERSION}"
        )
    try:
        return _from_values(value)
    except (KeyError, TypeError, ValueError) as exc:
        raise CheckpointError(f"{path}: malformed checkpoint: {exc!s:.200}") from exc


def _others(path: Path) -> str:
    """Advice to use another checkpoint of the same folder, the newest one, if it has one."""
    folder = path.parent
    found = [folder / LAST] if path.name != LAST and (folder / LAST).is_file() else []
    epochs = _epoch_files(folder)
    found += [epochs[number] for number in sorted(epochs, reverse=True) if epochs[number] != path]
    if not found:
        return ""
    advice = f"; {found[0].name} is in the same folder"
    return f"{advice}: copy it to {LAST} to resume from it" if path.name == LAST else advice


def to_values(checkpoint: Checkpoint) -> dict[str, Any]:
    """The dict that a checkpoint file holds."""
    value: dict[str, Any] = {"format": FORMAT_NAME, "version": FORMAT_VERSION}
    for each in fields(checkpoint):
        part = getattr(checkpoint, each.name)
        value[each.name] = asdict(part) if isinstance(part, Position | BatchSplit) else part
    return value


def _from_values(value: Mapping[str, Any]) -> Checkpoint:
    model = _tensors(value, "model")
    velocities = _tensors(value, "velocities")
    if {n: t.shape for n, t in model.items()} != {n: t.shape for n, t in velocities.items()}:
        raise ValueError("weights and velocities differ in names or shapes")
    best = value["best"]
    return Checkpoint(
        model=model,
        velocities=velocities,
        schedule=_typed(value["schedule"], dict, "schedule"),
        position=Position(**_naturals(value, "position", Position)),
        seeds=_naturals(value, "seeds"),
        config=_typed(value["config"], dict, "config"),
        dataset_fingerprint=_typed(value["dataset_fingerprint"], str, "dataset_fingerprint"),
        label_order_sha256=_typed(value["label_order_sha256"], str, "label_order_sha256"),
        classes=_natural(value["classes"], "classes"),
        world=BatchSplit(**_naturals(value, "world", BatchSplit)),
        history=[
            _typed(each, dict, "history") for each in _typed(value["history"], list, "history")
        ],
        best=None if best is None else _typed(best, dict, "best"),
        scaler=_typed(value["scaler"], dict, "scaler"),
        window=[_typed(each, float, "window") for each in _typed(value["window"], list, "window")],
    )


def _typed(value: Any, kind: type, name: str) -> Any:
    if type(value) is not kind:
        raise ValueError(f"{name} is a {type(value).__name__}, not a {kind.__name__}")
    return value


def _natural(value: Any, name: str) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{name} is {value!r}, not a count")
    return value


def _naturals(value: Mapping[str, Any], name: str, kind: type | None = None) -> dict[str, int]:
    """A dict of counts; with ``kind``, exactly the fields of that dataclass."""
    parts = _typed(value[name], dict, name)
    if kind is not None and parts.keys() != {each.name for each in fields(kind)}:
        raise ValueError(f"{name} has other fields: {', '.join(parts)}")
    return {key: _natural(part, f"{name}.{key}") for key, part in parts.items()}


def _tensors(value: Mapping[str, Any], name: str) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = _typed(value[name], dict, name)
    for key, tensor in tensors.items():
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            raise ValueError(f"{name}.{key} is not a tensor of floats")
    return tensors


def _link(source: Path, target: Path) -> None:
    """Hard-link ``source`` as ``target``, replacing it; copy where links are not allowed."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}{PARTIAL_SUFFIX}")
    temporary.unlink(missing_ok=True)
    try:
        temporary.hardlink_to(source)
    except OSError:
        with source.open("rb") as whole, partial_file(target) as copy:
            while block := whole.read(_COPY_BYTES):
                copy.write(block)
        return
    temporary.replace(target)
    temporary.unlink(missing_ok=True)  # renaming one link of a file to another one does nothing
    sync_folder(target.parent)


def _keep_newest(folder: Path, keep: int) -> None:
    found = _epoch_files(folder)
    for epoch in sorted(found)[:-keep]:
        found[epoch].unlink(missing_ok=True)


def _epoch_files(folder: Path) -> dict[int, Path]:
    """The files ``epoch_NNN.pt`` of a folder, by number of epochs."""
    entries = folder.iterdir() if folder.is_dir() else []
    return {int(match[1]): path for path in entries if (match := _EPOCH.fullmatch(path.name))}
