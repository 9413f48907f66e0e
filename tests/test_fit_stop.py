"""Stops, kills and faults at chosen points of a run: what is saved, and what the next run does."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch

from tests.conftest import REPOSITORY
from tests.training import SMALL, STEPS_PER_EPOCH, fit, rows, train, train_command, weights
from train.feed.order import epoch_order

EPOCH = ("--epochs", 2)

# Runs ``train`` with something happening at a batch of each validation, as its argument says.
DRIVER = """
import os, sys, torch
from train.feed.loader import EvalLoader

what, at = sys.argv.pop(1).split("-at-")
validate = EvalLoader.__iter__

def batches(self):
    for number, batch in enumerate(validate(self)):
        if number == int(at) and what == "nan":
            batch.images_v[0].fill_(torch.nan)
        elif number == int(at):
            os.kill(os.getpid(), int(what))
        yield batch

EvalLoader.__iter__ = batches
from train.cli import main
main()
"""
Ended = subprocess.CompletedProcess[str]


def drive(what: str, built: Path, out: Path, *arguments: object) -> Ended:
    """Run ``fit`` with ``what`` happening at a batch of each validation."""
    fitted = ("fit", built, "--out", out, *SMALL, "--set", "eval_batch_images=5", *arguments)
    command = [sys.executable, "-c", DRIVER, what, *map(str, fitted)]
    return subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False
    )


def position(checkpoint: Path) -> dict[str, int]:
    value: dict[str, int] = torch.load(checkpoint, weights_only=True)["position"]
    return value


def last_record(data: Path) -> tuple[Path, int, int]:
    """Shard, offset and size of the image that the first epoch shows last."""
    shards = json.loads((data / "dataset_info.json").read_text())["splits"]["train"]["shards"]
    sizes = [shard["records"] for shard in shards]
    record = int(epoch_order(sizes, seed=0, epoch=0, window_shards=16)[-1])
    for shard, count in zip(shards, sizes, strict=True):
        if record < count:
            with tarfile.open(data / shard["name"]) as tar:
                images = [member for member in tar if member.name.endswith(".jpg")]
            return data / shard["name"], images[record].offset_data, images[record].size
        record -= count
    raise AssertionError(record)


@pytest.fixture(scope="module")
def undisturbed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    fit(built, out, *EPOCH)
    return out


def assert_same_bits(out: Path, expected: Path) -> None:
    ours, theirs = weights(out / "last.pt"), weights(expected / "last.pt")
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []
    for name in ("steps.csv", "epochs.csv"):
        assert rows(out / name) == rows(expected / name)


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_run_that_ends_in_validation_has_saved_its_epoch(
    kind: signal.Signals, built: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """A handled signal ends the validation after two of five batches; SIGKILL ends it at once."""
    out = tmp_path / "run"
    ran = drive(f"{int(kind)}-at-2", built, out, *EPOCH)
    assert ran.returncode == (-kind if kind == signal.SIGKILL else 1), ran.stderr
    assert "validated" not in ran.stderr
    if kind != signal.SIGKILL:
        assert f"stopped and saved at step {STEPS_PER_EPOCH}: run the same command" in ran.stderr
    saved = position(out / "last.pt")
    assert (saved["epoch"], saved["step_in_epoch"]) == (0, STEPS_PER_EPOCH)
    resumed = fit(built, out, *EPOCH)
    assert f"resuming at epoch 0, step {STEPS_PER_EPOCH}" in resumed.err
    assert_same_bits(out, undisturbed)


def test_sigterm_is_heard_with_one_update_per_epoch(built: Path, tmp_path: Path) -> None:
    command = train_command(
        "fit", built, "--out", tmp_path / "run", *SMALL, "--batch-size", 96, "--epochs", 10_000
    )
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "img/s" in line:
            break
    process.terminate()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "run the same command again to resume" in err


def test_a_record_that_cannot_be_read_in_mid_epoch_loses_no_update(
    built: Path, undisturbed: Path, tmp_path: Path
) -> None:
    data, out = tmp_path / "data", tmp_path / "run"
    shutil.copytree(built, data)
    shard, begin, size = last_record(data)
    whole = shard.read_bytes()
    shard.write_bytes(whole[:begin] + bytes(size) + whole[begin + size :])
    ran = train("fit", data, "--out", out, *SMALL, *EPOCH)
    assert ran.code == 1
    done = position(out / "last.pt")["global_step"]
    assert f"saved at step {done}; after the repair, run the same command again" in ran.err
    assert 0 < done == len(rows(out / "steps.csv")) < STEPS_PER_EPOCH
    shard.write_bytes(whole)
    fit(data, out, *EPOCH)
    assert_same_bits(out, undisturbed)


@pytest.mark.parametrize("more", [(), ("--checkpoint-every", STEPS_PER_EPOCH)])
def test_a_validation_that_is_not_finite_keeps_the_earlier_checkpoint(
    built: Path, undisturbed: Path, tmp_path: Path, more: tuple[object, ...]
) -> None:
    out = tmp_path / "run"
    fit(built, out, "--steps", STEPS_PER_EPOCH, *EPOCH)
    before = (out / "last.pt").read_bytes()
    ran = drive("nan-at-1", built, out, "--set", "steps=none", *EPOCH, *more)
    assert ran.returncode == 1
    good = f"Last good checkpoint: {out / 'last.pt'}, step {STEPS_PER_EPOCH}."
    assert "the validation loss is nan at step 12" in ran.stderr
    assert good in ran.stderr
    assert (out / "last.pt").read_bytes() == before
    fit(built, out, "--set", "steps=none", *EPOCH)
    assert_same_bits(out, undisturbed)
    assert not (out / "previous.pt").exists()


def test_a_first_validation_that_is_not_finite_leaves_no_checkpoint(
    built: Path, tmp_path: Path
) -> None:
    ran = drive("nan-at-1", built, tmp_path / "run", *EPOCH)
    assert ran.returncode == 1
    assert "Last good checkpoint: none yet. Run again with a lower --lr" in ran.stderr
    assert not list((tmp_path / "run").glob("*.pt"))


def test_a_network_ruined_by_its_last_update_is_not_saved(built: Path, tmp_path: Path) -> None:
    """The loss of the update itself is finite; the loss of the next one would not be."""
    out = tmp_path / "run"
    fit(built, out, "--steps", 2, "--checkpoint-every", 1)
    before = (out / "last.pt").read_bytes()
    ran = train(
        "fit", built, "--out", out, *SMALL, "--steps", 3, "--checkpoint-every", 1, "--lr", 1e10
    )
    assert ran.code == 1
    assert "the network is not finite after the update at step 3" in ran.err
    assert f"Last good checkpoint: {out / 'last.pt'}, step 2." in ran.err
    assert (out / "last.pt").read_bytes() == before


def test_a_checkpoint_that_is_not_finite_is_not_resumed(built: Path, tmp_path: Path) -> None:
    from train.saved.checkpoint_file import read_values, write_values

    out = tmp_path / "run"
    fit(built, out, "--steps", 1)
    value = read_values(out / "last.pt")
    value["model"]["fc8.bias"][0] = torch.nan
    write_values(out / "last.pt", value)
    ran = train("fit", built, "--out", out, *SMALL, "--steps", 2)
    assert ran.code == 1
    assert "last.pt: its network is not finite, so the run had diverged" in ran.err


def test_a_run_killed_while_writing_its_first_settings_can_start_again(
    built: Path, tmp_path: Path
) -> None:
    (tmp_path / ".config.toml.host.123.0a1b2c3d.partial").write_text("preset =")
    (tmp_path / ".lock").touch()
    fit(built, tmp_path, "--steps", 1)
    assert not list(tmp_path.glob("*.partial"))


def test_of_two_runs_started_together_one_is_told_the_process_of_the_other(
    built: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    command = train_command("fit", built, "--out", out, *SMALL, "--epochs", 1000)
    runs = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    while all(run.poll() is None for run in runs):
        pass
    loser, winner = sorted(runs, key=lambda run: run.poll() is None)
    _, err = loser.communicate()
    winner.terminate()
    _, log = winner.communicate(timeout=120)
    assert loser.returncode == 1
    assert f"process {winner.pid}," in err
    assert "run the same command again to resume" in log or winner.returncode == -signal.SIGTERM
