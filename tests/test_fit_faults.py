"""Faults of a training run; each message says what to do."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from tests.conftest import imgprep, make_mini
from tests.training import SMALL, train


def test_a_nan_loss_stops_the_run(built: Path, tmp_path: Path) -> None:
    ran = train("fit", built, "--out", tmp_path / "run", *SMALL, "--lr", 1e12, "--epochs", 3)
    assert ran.code == 1
    assert "learning rate 1e+12" in ran.err
    assert "Last good checkpoint: none yet" in ran.err
    assert not (tmp_path / "run" / "last.pt").exists()


def test_a_loss_that_stays_at_chance_is_warned_about_once(built: Path, tmp_path: Path) -> None:
    ran = train(
        "fit", built, "--out", tmp_path / "run", *SMALL, "--lr", 0, "--steps", 4,
        "--set", "chance_warning_steps=3", "--set", "net.init_bias=0.0",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert ran.err.count("still at chance (ln 4 = 1.386)") == 1


def test_a_folder_that_is_not_a_run_is_left_alone(built: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    ran = train("fit", built, "--out", tmp_path, *SMALL)
    assert ran.code == 1
    assert "not the folder of a run: it holds 'thesis.txt'" in ran.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["thesis.txt"]


def test_a_run_of_another_process_is_left_alone(built: Path, tmp_path: Path) -> None:
    with (tmp_path / ".lock").open("wb") as lock:
        lock.write(b'{"host": "node7", "pid": 4321}')
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        ran = train("fit", built, "--out", tmp_path, *SMALL)
    assert ran.code == 1
    assert "another process is training in this folder ('node7', process 4321): wait" in ran.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--set", "net.depth=9"), "unknown setting net.depth"),
        (("--set", "input.crop_px=300"), "set input.crop_px to 256 or less"),
        (("--device", "cuda"), "no GPU is visible"),
        (("--classes", "many"), "expected a number or auto"),
        (("--classes", "3"), "the dataset has 4 classes: use --classes auto, or 4 or more"),
    ],
)
def test_wrong_settings_are_usage_errors(
    built: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    ran = train("fit", built, "--out", tmp_path / "run", *SMALL, *arguments)
    assert ran.code in (1, 2)
    assert message in ran.err
    assert not (tmp_path / "run").exists()


def test_another_dataset_is_rejected(built: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    source = make_mini(tmp_path / "source", "class-folders")
    assert imgprep("build-shards", source, other, "--seed", 7, "--jobs", 2).code == 0
    out = tmp_path / "run"
    assert train("fit", built, "--out", out, *SMALL, "--steps", 1).code == 0
    ran = train("fit", other, "--out", out, *SMALL, "--steps", 2)
    assert ran.code == 1
    assert "dataset fingerprint" in ran.err


def test_an_unfinished_dataset_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "half").mkdir()
    ran = train("fit", tmp_path / "half", "--out", tmp_path / "run", *SMALL)
    assert ran.code == 1
    assert "not a finished dataset" in ran.err


def test_a_damaged_checkpoint_is_reported_without_a_traceback(built: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.pt").write_bytes(b"PK\x03\x04 and then nothing")
    ran = train("evaluate", tmp_path / "bad.pt", built, "--device", "cpu")
    assert ran.code == 1
    assert "bad.pt" in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("command", ["", "fit", "evaluate", "export", "figures"])
def test_every_command_has_help(command: str) -> None:
    ran = train(*command.split(), "-h")
    assert ran.code == 0
    assert "Usage: train" in ran.out


def test_fit_with_verify_finds_damage_before_training(built: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(built, tmp_path / "copy")
    shard = tmp_path / "copy" / "train-000001.tar"
    data = bytearray(shard.read_bytes())
    data[2000] ^= 1
    shard.write_bytes(data)
    ran = train("fit", tmp_path / "copy", "--out", tmp_path / "run", *SMALL, "--verify")
    assert ran.code == 4
    assert "train-000001" in ran.err


def test_lack_of_memory_is_recognised() -> None:
    import torch

    from train.run.memory_error import is_torch_out_of_memory

    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55)
    assert is_torch_out_of_memory(caught.value)
    assert is_torch_out_of_memory(MemoryError())
    assert not is_torch_out_of_memory(RuntimeError("shapes differ"))
