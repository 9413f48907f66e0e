"""A finished or running training run, read from its folder: settings, logs, a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.config import RunConfig
from train.errors import CheckpointError, ConfigError
from train.run.logs import EPOCH_FIELDS, EPOCHS_CSV, STEP_FIELDS, STEPS_CSV, read_rows
from train.saved import checkpoint as checkpoints
from train.saved.checkpoint import Checkpoint
from train.saved.run_folder import Origin, RunFolder
from train.settings import from_json, read_toml, resolve


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RunState:
    """A run as it is on disk now."""

    folder: Path
    config: RunConfig
    origin: Origin | None
    """Its dataset and devices; None for a run older than this record."""
    saved: Checkpoint | None
    """The best network so far, or the newest if none was validated; None before the first."""
    saved_name: str | None
    """``best.pt`` or ``last.pt``."""
    steps: list[dict[str, str]]
    """Rows of ``steps.csv``."""
    validations: list[dict[str, str]]
    """Rows of ``epochs.csv``."""

    @property
    def updates(self) -> int:
        """Updates done, according to the logs and the checkpoint."""
        known = [int(row["global_step"]) for row in (*self.steps[-1:], *self.validations[-1:])]
        if self.saved is not None:
            known.append(self.saved.position.global_step)
        return max(known, default=0)

    @property
    def epochs(self) -> int:
        """Whole epochs done, according to the logs and the checkpoint."""
        known = [int(row["epoch"]) for row in (*self.steps[-1:], *self.validations[-1:])]
        if self.saved is not None:
            known.append(self.saved.position.epoch)
        return max(known, default=0)

    @property
    def lowest(self) -> dict[str, str] | None:
        """The validation with the lowest top-1 error; of a tie, the first."""
        return min(self.validations, key=lambda row: float(row["top1_error"]), default=None)

    @property
    def fingerprint(self) -> str | None:
        """Fingerprint of the dataset that it trains on; None if unknown."""
        if self.saved is not None:
            return self.saved.dataset_fingerprint
        return None if self.origin is None else self.origin.fingerprint

    def to_json(self) -> dict[str, Any]:
        """For scripts."""
        lowest, last = self.lowest, self.validations[-1] if self.validations else None
        return {
            "run": str(self.folder),
            "preset": self.config.preset,
            "checkpoint": self.saved_name,
            "fingerprint": self.fingerprint,
            "epochs": self.epochs,
            "updates": self.updates,
            "lowest_top1_error": None if lowest is None else float(lowest["top1_error"]),
            "last_top1_error": None if last is None else float(last["top1_error"]),
        }


def read_run(folder: Path) -> RunState:
    """Read a run, also while it is running.

    Raises:
        CheckpointError: the folder holds no run, or its checkpoint is damaged.
        ConfigError, FormatError, DestinationError: a file of it is malformed.
    """
    files = RunFolder(folder)
    name = next((n for n in (checkpoints.BEST, checkpoints.LAST) if (folder / n).exists()), None)
    if name is None and not files.config.exists():
        raise CheckpointError(
            f"{folder} holds no run: it has neither {files.config.name} nor a checkpoint"
        )
    saved = None if name is None else checkpoints.load(folder / name)
    if saved is not None:
        config = from_json(saved.config)
    else:
        config = resolve(None, read_toml(files.config), {})
    return RunState(
        folder=folder,
        config=config,
        origin=files.read_origin(),
        saved=saved,
        saved_name=name,
        steps=_rows(folder / STEPS_CSV, STEP_FIELDS),
        validations=_rows(folder / EPOCHS_CSV, EPOCH_FIELDS),
    )


def dataset_of(state: RunState, override: str | None) -> str:
    """Return the location of the run's dataset: ``override``, or where it was at the start.

    Raises:
        ConfigError: neither is known.
    """
    if override is not None:
        return override
    if state.origin is None:
        raise ConfigError(
            f"{state.folder}: the run does not record where its dataset is: name it with --dataset"
        )
    return state.origin.dataset


def _rows(path: Path, fields: tuple[str, ...]) -> list[dict[str, str]]:
    return read_rows(path, fields) if path.exists() else []
