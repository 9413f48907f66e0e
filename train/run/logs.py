"""The logs of a run: lines for people, CSV files, TensorBoard events.

``steps.csv`` has a row for each line of the log, ``epochs.csv`` for each validation. A resumed run
drops the rows written after its checkpoint, so both files end as if the run had never stopped,
except for the timings (``images_per_s`` and the columns in ``_ms``).
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from imgprep.errors import DestinationError
from imgprep.storage.atomic import write_bytes
from train.errors import ConfigError
from train.run.error_text import error_text

if TYPE_CHECKING:
    from train.saved.checkpoint import Position

STEPS_CSV = "steps.csv"
EPOCHS_CSV = "epochs.csv"
TENSORBOARD = "tensorboard"

STEP_FIELDS = (
    "global_step", "epoch", "step", "images", "loss", "top1_error", "top5_error", "lr",
    "images_per_s", "wait_ms", "step_ms",
)  # fmt: skip
COUNTS = ("step", "epoch", "images")
EPOCH_FIELDS = ("epoch", "global_step", "images", "loss", "top1_error", "top5_error", "lr")

Row = Mapping[str, Any]


class MeansLike(Protocol):
    """Means since the previous line; errors are fractions, under crops, noise and dropout."""

    @property
    def images(self) -> int: ...
    @property
    def loss(self) -> float: ...
    @property
    def top1_error(self) -> float: ...
    @property
    def top5_error(self) -> float: ...
    @property
    def images_per_second(self) -> float: ...
    @property
    def wait_ms(self) -> float: ...
    @property
    def step_ms(self) -> float: ...


class EvaluationLike(Protocol):
    """The result of a validation; errors are fractions."""

    @property
    def count(self) -> int: ...
    @property
    def loss(self) -> float: ...
    @property
    def top1_error(self) -> float: ...
    @property
    def top5_error(self) -> float: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSize:
    """The size of a run, for its log lines; 0 or None: unknown."""

    epochs: int = 0
    steps_per_epoch: int = 0
    classes: int | None = None


class RunLogs:
    """Writes the logs of the run in ``folder``; prints nothing.

    Unless ``enabled``, as in all processes but the main one, it only formats the lines. New files
    replace those of an earlier run unless ``cut`` is called before the first row.
    """

    def __init__(
        self,
        folder: Path,
        *,
        enabled: bool = True,
        tensorboard: bool = True,
        size: RunSize | None = None,
    ) -> None:
        self._folder = folder
        self._enabled = enabled
        self._tensorboard = tensorboard
        self._size = size or RunSize()
        self._files: dict[str, TextIO] = {}
        self._kept: Position | None = None
        self._events: _Events | None = None

    def cut(self, position: Position) -> None:
        """Resume from ``position``: drop rows that were written after it."""
        assert not self._files, "cut comes before the first row"
        self._kept = position
        if self._enabled:
            self._open()

    def step(self, position: Position, means: MeansLike, lr: float) -> str:
        """Write a row after the update that led to ``position``; returns the log line."""
        row = {
            "global_step": position.global_step,
            "epoch": position.epoch,
            "step": position.step_in_epoch,
            "images": means.images,
            "loss": means.loss,
            "top1_error": means.top1_error,
            "top5_error": means.top5_error,
            "lr": lr,
            "images_per_s": round(means.images_per_second, 1),
            "wait_ms": round(means.wait_ms, 2),
            "step_ms": round(means.step_ms, 2),
        }
        if self._enabled:
            self._write(STEPS_CSV, row)
            self._event(
                position,
                {
                    "train/loss": means.loss,
                    "train/top1": means.top1_error,
                    "train/top5": means.top5_error,
                    "train/lr": lr,
                    "train/img_per_s": means.images_per_second,
                    "train/wait_ms": means.wait_ms,
                    "train/step_ms": means.step_ms,
                },
            )
        return step_line(row, self._size)

    def epoch(self, position: Position, found: EvaluationLike, lr: float) -> str:
        """Write a row after a validation of ``position.epoch`` epochs; returns the log line."""
        row = {
            "epoch": position.epoch,
            "global_step": position.global_step,
            "images": found.count,
            "loss": found.loss,
            "top1_error": found.top1_error,
            "top5_error": found.top5_error,
            "lr": lr,
        }
        if self._enabled:
            self._write(EPOCHS_CSV, row)
            self._event(
                position,
                {
                    "val/loss": found.loss,
                    "val/top1": found.top1_error,
                    "val/top5": found.top5_error,
                },
            )
        return epoch_line(row, self._size)

    def flush(self) -> None:
        """Flush all rows to disk, before each checkpoint, which must not outlive its rows."""
        try:
            for file in self._files.values():
                file.flush()
                os.fsync(file.fileno())
        except OSError as exc:
            raise _cannot_write(self._folder, exc) from exc
        if self._events is not None:
            self._events.flush()

    def close(self) -> None:
        """Close all files."""
        for file in self._files.values():
            file.close()
        self._files.clear()
        if self._events is not None:
            self._events.close()
            self._events = None

    def _write(self, name: str, row: Row) -> None:
        if not self._files:
            self._open()
        file = self._files[name]
        try:
            csv.DictWriter(file, list(row), lineterminator="\n").writerow(row)
            file.flush()
        except OSError as exc:
            raise _cannot_write(self._folder, exc) from exc

    def _open(self) -> None:
        kept = self._kept
        for name, fields, column, last in (
            (STEPS_CSV, STEP_FIELDS, "global_step", kept.global_step if kept else 0),
            (EPOCHS_CSV, EPOCH_FIELDS, "epoch", kept.epoch if kept else 0),
        ):
            path = self._folder / name
            rows = read_rows(path, fields) if kept and path.exists() else []
            rows = [row for row in rows if int(row[column]) <= last]
            try:
                write_bytes(path, _table(fields, rows))
                self._files[name] = path.open("a", encoding="utf-8", newline="")
            except OSError as exc:
                raise _cannot_write(self._folder, exc) from exc

    def _event(self, position: Position, values: Mapping[str, float]) -> None:
        if not self._tensorboard:
            return
        if self._events is None:
            kept = self._kept.global_step if self._kept else 0
            self._events = _Events(self._folder / TENSORBOARD, after_step=kept)
        self._events.add(position.global_step, values)


def step_line(row: Row, size: RunSize) -> str:
    """The line of an update: epochs done, steps in this epoch, means since the previous line."""
    return (
        f"epoch {_of(row['epoch'], size.epochs)}  "
        f"step {_of(row['step'], size.steps_per_epoch)}  "
        f"loss {row['loss']:.4f}  {_errors(row, size, digits=1)}  "
        f"lr {row['lr']:.3g}  {row['images_per_s']:,.1f} img/s  "
        f"wait {row['wait_ms']:.1f} ms + step {row['step_ms']:.1f} ms"
    )


def epoch_line(row: Row, size: RunSize) -> str:
    """The line of a validation: loss and errors of the centre crop."""
    return (
        f"epoch {_of(row['epoch'], size.epochs)}  validated on {row['images']:,} images: "
        f"loss {row['loss']:.4f}  {_errors(row, size, digits=2)}"
    )


def read_rows(path: Path, fields: tuple[str, ...]) -> list[dict[str, str]]:
    """Rows of a CSV file as text, without a last line that is incomplete.

    Raises:
        DestinationError: the file cannot be read, or has other columns.
    """
    try:
        text = path.read_text("utf-8")
    except OSError as exc:
        raise DestinationError(f"{path}: cannot read: {exc.strerror}") from exc
    except UnicodeDecodeError:
        text = "\0\n"  # a file without our columns
    whole = text[: text.rfind("\n") + 1]
    reader = csv.DictReader(io.StringIO(whole, newline=""))
    try:
        rows = list(reader)
        damaged = not all(map(_is_valid, rows))
    except csv.Error:
        rows, damaged = [], True
    if whole and (tuple(reader.fieldnames or ()) != fields or damaged):
        raise DestinationError(
            f"{path}: its columns are not {', '.join(fields)}: the file was edited, or another "
            "version wrote it; move it out of the folder"
        )
    return rows


def _is_valid(row: Mapping[str | None, Any]) -> bool:
    """Whether a row has exactly its cells, and all are numbers."""
    try:
        return None not in row and all(
            float(cell) is not None and (not name.endswith(COUNTS) or int(cell) >= 0)
            for name, cell in row.items()
            if name is not None
        )
    except (TypeError, ValueError):
        return False


def _table(fields: tuple[str, ...], rows: list[dict[str, str]]) -> bytes:
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


def _errors(row: Row, size: RunSize, *, digits: int) -> str:
    return error_text(row["top1_error"], row["top5_error"], size.classes, digits=digits)


def _of(value: int, total: int) -> str:
    return f"{value:>{len(str(total))}}/{total}" if total else str(value)


def _cannot_write(folder: Path, exc: OSError) -> DestinationError:
    return DestinationError(f"{folder}: cannot write the logs: {exc.strerror}")


class _Events:
    """TensorBoard events; hides earlier events after ``after_step``, which a resume replaces."""

    def __init__(self, folder: Path, *, after_step: int) -> None:
        try:
            # TensorBoard's own writer needs pillow, which would overwrite pillow-simd
            from tensorboardX import SummaryWriter
        except ImportError as exc:
            raise ConfigError(
                "tensorboardX is not installed: run tools/setup, or pip install 'imgprep[train]'"
            ) from exc
        # files are named by the second: the suffix keeps two quick starts from sharing a name
        suffix = f".{os.getpid()}.{after_step}"
        self._writer = SummaryWriter(str(folder), purge_step=after_step + 1, filename_suffix=suffix)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            if isfinite(value):
                self._writer.add_scalar(name, value, step)

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
