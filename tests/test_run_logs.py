"""Logs of a run: lines, CSV files that a resume continues without a trace, TensorBoard events."""

from __future__ import annotations

import csv
import struct
import subprocess
import sys
from dataclasses import dataclass
from math import nan
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgprep.errors import DestinationError
from train.run.error_text import error_text
from train.run.logs import (
    EPOCH_FIELDS,
    EPOCHS_CSV,
    STEP_FIELDS,
    STEPS_CSV,
    RunLogs,
    RunSize,
    read_rows,
)
from train.saved.checkpoint import Position

STEPS_PER_EPOCH = 4
TIMINGS = ("images_per_s", "wait_ms", "step_ms")


@dataclass(frozen=True)
class Means:
    images: int
    loss: float
    top1_error: float = 0.9
    top5_error: float = 1 / 3
    images_per_second: float = 1234.5
    wait_ms: float = 1.0
    step_ms: float = 300.0


@dataclass(frozen=True)
class Found:
    count: int = 50_000
    loss: float = 2.5
    top1_error: float = 0.4066
    top5_error: float = 0.1821


def position_after(step: int) -> Position:
    """The position after an update: the epoch rises only after its last row."""
    epoch, done = divmod(step - 1, STEPS_PER_EPOCH)
    return Position(epoch=epoch, step_in_epoch=done + 1, global_step=step)


def write(logs: RunLogs, first: int, last: int, speed: float = 1.0) -> None:
    """Write rows of updates ``first`` to ``last``, and a validation after each epoch."""
    for step in range(first, last + 1):
        means = Means(128, 7 / step, images_per_second=100 * speed, step_ms=3 / speed)
        logs.step(position_after(step), means, 0.1 / 3)
        if step % STEPS_PER_EPOCH == 0:
            logs.epoch(position_after(step).next_epoch(), Found(loss=1 / step), 0.1 / 3)


def untimed(folder: Path) -> list[dict[str, str]]:
    rows = read_rows(folder / STEPS_CSV, STEP_FIELDS) + read_rows(folder / EPOCHS_CSV, EPOCH_FIELDS)
    return [{key: row[key] for key in row if key not in TIMINGS} for row in rows]


@given(got=st.integers(1, 20), saved=st.integers(0, 20), torn=st.integers(0, 40))
def test_an_interrupted_run_leaves_the_csv_of_an_undisturbed_one(
    got: int, saved: int, torn: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    saved = min(saved, got)
    whole, broken = (tmp_path_factory.mktemp("run") for _ in range(2))
    logs = RunLogs(whole, tensorboard=False)
    write(logs, 1, 20)
    logs.close()
    logs = RunLogs(broken, tensorboard=False)
    write(logs, 1, got, speed=0.5)
    logs.close()
    if got > saved:  # then the last row may have been torn by the kill
        path = broken / STEPS_CSV
        cut = min(torn, len(path.read_bytes().splitlines()[-1]))
        path.write_bytes(path.read_bytes()[: -cut - 1])
    position = position_after(saved) if saved else Position()
    at_end = position.step_in_epoch == STEPS_PER_EPOCH
    validated = at_end and saved % 8 == 0
    logs = RunLogs(broken, tensorboard=False)
    logs.cut(position.next_epoch() if validated else position)
    if at_end and not validated:  # saved after the last update of an epoch: validates again
        logs.epoch(position.next_epoch(), Found(loss=1 / saved), 0.1 / 3)
    write(logs, saved + 1, 20)
    logs.close()
    assert untimed(whole) == untimed(broken)


def test_a_run_without_a_checkpoint_replaces_its_csv_files(tmp_path: Path) -> None:
    for last in (9, 5):
        logs = RunLogs(tmp_path)
        write(logs, 1, last)
        logs.close()
    steps = [int(row["global_step"]) for row in read_rows(tmp_path / STEPS_CSV, STEP_FIELDS)]
    assert steps == [1, 2, 3, 4, 5]


def test_rows_after_the_checkpoint_are_dropped_even_if_none_follow(tmp_path: Path) -> None:
    logs = RunLogs(tmp_path)
    write(logs, 1, 9)
    logs.close()
    logs = RunLogs(tmp_path)
    logs.cut(position_after(6))
    logs.close()
    assert len(read_rows(tmp_path / STEPS_CSV, STEP_FIELDS)) == 6
    assert len(read_rows(tmp_path / EPOCHS_CSV, EPOCH_FIELDS)) == 1


def test_numbers_keep_all_their_digits(tmp_path: Path) -> None:
    logs = RunLogs(tmp_path)
    logs.step(position_after(1), Means(128, 0.1 + 0.2), 1 / 3)
    logs.close()
    (row,) = read_rows(tmp_path / STEPS_CSV, STEP_FIELDS)
    assert (float(row["loss"]), float(row["lr"])) == (0.1 + 0.2, 1 / 3)


def test_rows_are_written_to_the_file_immediately(tmp_path: Path) -> None:
    logs = RunLogs(tmp_path)
    write(logs, 1, 3)
    with (tmp_path / STEPS_CSV).open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 3
    logs.close()


def test_the_lines_show_position_errors_and_rates(tmp_path: Path) -> None:
    logs = RunLogs(tmp_path, size=RunSize(epochs=90, steps_per_epoch=10_009))
    line = logs.step(Position(3, 120, 30_147), Means(2560, 6.2134, 0.971, 0.902), 0.001)
    assert line == (
        "epoch  3/90  step   120/10009  loss 6.2134  top-1 error 97.1 %, top-5 error 90.2 %  "
        "lr 0.001  1,234.5 img/s  wait 1.0 ms + step 300.0 ms"
    )
    line = logs.epoch(Position(4, 0, 40_036), Found(), 0.001)
    assert line == (
        "epoch  4/90  validated on 50,000 images: loss 2.5000  top-1 error 40.66 %, "
        "top-5 error 18.21 %"
    )
    logs.close()


def test_top5_is_left_out_with_five_classes_or_fewer() -> None:
    assert error_text(0.5, 0.0, 5) == "top-1 error 50.00 %"
    assert error_text(0.5, 0.25, 6, digits=1) == "top-1 error 50.0 %, top-5 error 25.0 %"
    assert error_text(0.5, 0.25, None) == "top-1 error 50.00 %, top-5 error 25.00 %"


def test_a_process_that_is_not_the_main_one_writes_nothing(tmp_path: Path) -> None:
    logs = RunLogs(tmp_path, enabled=False)
    logs.cut(position_after(3))
    assert logs.step(position_after(4), Means(8, 1.0), 0.1).startswith("epoch 0  step 4  loss")
    logs.flush()
    logs.close()
    assert not list(tmp_path.iterdir())


def test_a_csv_with_other_columns_is_rejected(tmp_path: Path) -> None:
    (tmp_path / STEPS_CSV).write_text("step,loss\n1,2\n")
    with pytest.raises(DestinationError, match=r"steps\.csv: its columns are not"):
        RunLogs(tmp_path).cut(Position())


def test_an_unwritable_folder_is_reported(tmp_path: Path) -> None:
    with pytest.raises(DestinationError, match="cannot write the logs"):
        RunLogs(tmp_path / "none").step(position_after(1), Means(1, 1.0), 0.1)


def events(folder: Path) -> list[tuple[str, int, float]]:
    """(name, step, value) of all scalar events, parsed from the record framing of the files."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            found += [(each.tag, event.step, each.simple_value) for each in event.summary.value]
            data = data[16 + length :]
    return found


def test_tensorboard_gets_the_scalars_from_before_and_after_a_resume(tmp_path: Path) -> None:
    logs = RunLogs(tmp_path)
    write(logs, 1, 4)
    logs.close()
    logs = RunLogs(tmp_path)
    logs.cut(position_after(4).next_epoch())
    write(logs, 5, 8)
    logs.close()
    found = events(tmp_path / "tensorboard")
    names = {name for name, _, _ in found}
    assert names >= {"train/loss", "train/lr", "train/img_per_s", "val/top1", "val/top5"}
    assert [step for name, step, _ in found if name == "train/loss"] == list(range(1, 9))
    assert [step for name, step, _ in found if name == "val/top1"] == [4, 8]
    losses = [value for name, _, value in found if name == "train/loss"]
    assert losses == pytest.approx([7 / step for step in range(1, 9)])


def test_a_nan_is_not_written_to_tensorboard(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logs = RunLogs(tmp_path)
    logs.epoch(position_after(4).next_epoch(), Found(loss=nan), 0.1)
    logs.close()
    assert {name for name, _, _ in events(tmp_path / "tensorboard")} == {"val/top1", "val/top5"}
    assert capsys.readouterr() == ("", "")


def test_reading_lines_and_rows_needs_neither_torch_nor_tensorboard() -> None:
    code = (
        "import sys, train.run.logs; "
        "sys.exit(str([n for n in ('torch', 'tensorboardX', 'numpy') if n in sys.modules] or ''))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.stderr.strip() == ""
