"""A run that is killed and resumed ends with the same bits as an uninterrupted one."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from tests.training import SMALL, STEPS_PER_EPOCH, fit, rows, train, train_command, weights

STEPS = 15  # two and a half epochs


@pytest.fixture(scope="module")
def undisturbed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    fit(built, out, "--steps", STEPS)
    return out


def start(built: Path, out: Path, *arguments: object) -> subprocess.Popen[str]:
    command = train_command("fit", built, "--out", out, *SMALL, "--steps", STEPS, *arguments)
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_updates(process: subprocess.Popen[str], updates: int) -> None:
    """Wait until the log shows that many more updates, or the process ends."""
    assert process.stderr is not None
    for line in process.stderr:
        updates -= "img/s" in line
        if not updates:
            return


def assert_same_bits(out: Path, expected: Path) -> None:
    ours, theirs = weights(out / "last.pt"), weights(expected / "last.pt")
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    for name in ("steps.csv", "epochs.csv"):
        assert rows(out / name) == rows(expected / name)


def test_killed_at_random_steps_a_run_ends_in_the_same_bits(
    built: Path, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    chance = random.Random(0)
    for updates in (3, 5, 4):
        process = start(built, out, "--checkpoint-every", 2)
        wait_for_updates(process, updates)
        time.sleep(chance.random() * 0.05)  # at any point of the next update, or in a save
        process.send_signal(signal.SIGKILL)
        process.communicate()
    fit(built, out, "--steps", STEPS, "--checkpoint-every", 2)
    assert_same_bits(out, undisturbed)


def test_sigterm_saves_and_ends_the_run(built: Path, undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(built, out)
    wait_for_updates(process, 3)
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "run the same command again" in err
    saved = torch.load(out / "last.pt", weights_only=True)["position"]
    assert 3 <= saved["global_step"] < STEPS  # within an epoch, without --checkpoint-every
    fit(built, out, "--steps", STEPS)
    assert_same_bits(out, undisturbed)


def test_the_number_of_decoding_threads_does_not_change_a_bit(
    built: Path, undisturbed: Path, tmp_path: Path
) -> None:
    fit(built, tmp_path / "run", "--steps", STEPS, "--threads", 1)
    assert_same_bits(tmp_path / "run", undisturbed)


def test_changed_settings_are_rejected_by_name(built: Path, undisturbed: Path) -> None:
    ran = train("fit", built, "--out", undisturbed, *SMALL, "--seed", 1, "--batch-size", 8)
    assert ran.code == 1
    assert "seed" in ran.err
    assert "batch size" in ran.err


def test_another_preset_for_a_run_is_a_usage_error(built: Path, undisturbed: Path) -> None:
    ran = train("fit", built, "--out", undisturbed, "--preset", "paper", "--device", "cpu")
    assert ran.code == 2
    assert "started with preset 'source-2010'" in ran.err


def test_a_run_resumed_with_more_epochs_keeps_the_schedule_that_it_began_with(
    built: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    fit(built, out, "--epochs", 2, "--schedule", "dexp")
    ended = float(rows(out / "steps.csv")[-1]["lr"])
    assert ended == pytest.approx(0.01 / 250)
    fit(built, out, "--epochs", 3)
    log = [float(row["lr"]) for row in rows(out / "steps.csv")]
    assert log[2 * STEPS_PER_EPOCH :] == [ended] * STEPS_PER_EPOCH


def test_a_new_learning_rate_is_used_and_recorded(
    built: Path, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    fit(built, out, "--steps", 3)
    ran = fit(built, out, "--steps", STEPS_PER_EPOCH, "--lr", 0.001)
    assert "optim.lr: the checkpoint has 0.01, this run has 0.001" in ran.err
    state = torch.load(out / "last.pt", weights_only=True)["schedule"]
    assert [each["new_lr"] for each in state["overrides"]] == [0.001]
    log = rows(out / "steps.csv")
    assert [float(row["lr"]) for row in log] == [0.01] * 3 + [0.001] * 3
    again = fit(built, out, "--steps", STEPS_PER_EPOCH + 1)  # and it is kept
    assert float(rows(out / "steps.csv")[-1]["lr"]) == 0.001
    assert "optim.lr" not in again.err
