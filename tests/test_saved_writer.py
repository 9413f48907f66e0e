"""Checkpoints are written by a thread: what the run does meanwhile, and how faults surface."""

from __future__ import annotations

import re
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from imgprep.errors import DestinationError
from tests.checkpoints import make_checkpoint
from tests.conftest import REPOSITORY
from tests.nets import CPU, make_net
from tests.training import SMALL, fit, train_command, weights
from train.config import NetConfig, OptimConfig
from train.net import build_net
from train.optim.schedule import Rates
from train.optim.sgd import Sgd
from train.run.saving import SaveAs, Saver
from train.saved import checkpoint as checkpoints
from train.saved.checkpoint import Position
from train.saved.writer import BackgroundWriter

# Runs ``train`` with writes that take a second longer, and says when one has ended.
SLOW = """
import sys, time
from train.saved import checkpoint

write = checkpoint.write_values

def slowly(path, value):
    time.sleep(1)
    write(path, value)
    print("written", value["position"]["global_step"], file=sys.stderr, flush=True)

checkpoint.write_values = slowly
from train.cli import main
main()
"""


def start_slow(built: Path, out: Path, *arguments: object) -> subprocess.Popen[str]:
    fitted = ("fit", built, "--out", out, *SMALL, *arguments)
    command = [sys.executable, "-c", SLOW, *map(str, fitted)]
    return subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)


def saved_step(out: Path) -> int:
    step: int = torch.load(out / "last.pt", weights_only=True)["position"]["global_step"]
    return step


def test_writes_follow_one_another_and_an_error_is_raised_once_by_the_next_call() -> None:
    writer, done = BackgroundWriter(), []
    free = threading.Event()

    def first() -> None:
        free.wait()
        done.append("first")

    def fail() -> None:
        raise DestinationError("the disk is full")

    writer.start(first)
    assert done == []
    free.set()
    writer.start(lambda: done.append("second"))
    writer.wait()
    assert done == ["first", "second"]
    writer.start(fail)
    with pytest.raises(DestinationError, match="the disk is full"):
        writer.start(lambda: done.append("never"))
    writer.start(fail)
    writer.join()
    with pytest.raises(DestinationError, match="the disk is full"):
        writer.wait()
    writer.wait()
    assert done == ["first", "second"]


@pytest.mark.parametrize("columns", [False, True], ids=["grouped", "columns"])
def test_a_save_holds_the_moment_of_the_snapshot(columns: bool, tmp_path: Path) -> None:
    """Updates that are made before the file is written do not show in it."""
    net = build_net(
        NetConfig(width_divisor=16),
        classes=4,
        devices=[CPU, CPU] if columns else [CPU],
        columns=columns,
        seed=0,
        image_px=64,
    )
    sgd = Sgd(net, OptimConfig())
    saver = Saver(tmp_path, net, sgd)

    def update() -> None:
        for parameter in net.parameters():
            parameter.grad = torch.ones_like(parameter)
        sgd.step(Rates(0.01, 0.02))

    for number in (1, 2):
        update()
        model, velocities = net.canonical_state(), net.canonical(sgd.velocities())
        taken = saver.take()
        update()
        position = Position(global_step=number)
        checkpoint = make_checkpoint(model=taken[0], velocities=taken[1], position=position)
        saver.save(checkpoint, SaveAs(keep=1))
        update()
        saver.wait()
        found = checkpoints.load(tmp_path / "last.pt")
        assert all(torch.equal(found.model[name], model[name]) for name in model)
        assert all(torch.equal(found.velocities[name], velocities[name]) for name in model)
    assert saver.on_disk() == saver.saved_at == Position(global_step=2)


def test_a_failed_save_leaves_the_one_before(tmp_path: Path) -> None:
    net = make_net(columns=False)
    saver = Saver(tmp_path / "run", net, Sgd(net, OptimConfig()))
    (tmp_path / "run").mkdir()

    def save(number: int) -> None:
        model, velocities = saver.take()
        position = Position(global_step=number)
        checkpoint = make_checkpoint(model=model, velocities=velocities, position=position)
        saver.save(checkpoint, SaveAs(keep=1))

    save(1)
    saver.wait()
    (tmp_path / "run").rename(tmp_path / "gone")
    save(2)
    assert saver.saved_at == Position(global_step=2)
    with pytest.raises(DestinationError, match="cannot write the checkpoint: No such file"):
        saver.wait()
    assert saver.saved_at == Position(global_step=1)
    save(3)
    assert saver.on_disk() == saver.saved_at == Position(global_step=1)
    (tmp_path / "gone").rename(tmp_path / "run")
    save(4)
    assert saver.on_disk() == Position(global_step=4)
    saver.close()


def test_the_training_goes_on_while_a_checkpoint_is_written(built: Path, tmp_path: Path) -> None:
    """Within a second there is time for several updates; the run ends with its last save."""
    out = tmp_path / "run"
    ran = start_slow(built, out, "--steps", 5, "--checkpoint-every", 4)
    _, err = ran.communicate(timeout=120)
    assert ran.returncode == 0, err
    lines = [line for line in err.splitlines() if line.startswith("written") or "img/s" in line]
    found = ["written" if line.startswith("written") else "update" for line in lines]
    assert found == ["update"] * 5 + ["written"] * 2
    assert saved_step(out) == 5
    fit(built, tmp_path / "plain", "--steps", 5)
    ours, theirs = weights(out / "last.pt"), weights(tmp_path / "plain" / "last.pt")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_run_that_is_stopped_says_what_is_saved_once_it_is(built: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    ran = start_slow(built, out, "--epochs", 100)
    assert ran.stderr is not None
    next(line for line in ran.stderr if "img/s" in line)
    ran.terminate()
    _, err = ran.communicate(timeout=120)
    assert ran.returncode == 1
    written, said = re.search(r"written (\d+)", err), re.search(r"saved at step (\d+)", err)
    assert written is not None
    assert said is not None
    assert written.start() < said.start()
    assert int(written[1]) == int(said[1]) == saved_step(out)


def test_a_run_killed_in_a_write_resumes_from_the_save_before(built: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    fit(built, out, "--steps", 1)
    ran = start_slow(built, out, "--steps", 9, "--checkpoint-every", 3)
    assert ran.stderr is not None
    for line in ran.stderr:
        if "step 4/6" in line:  # the save after update 3 is being written
            break
    ran.send_signal(signal.SIGKILL)
    ran.communicate()
    assert saved_step(out) == 1
    assert "resuming at epoch 0, step 1" in fit(built, out, "--steps", 2).err
    assert not list(out.glob("*.partial"))


@pytest.mark.parametrize("every", [1, 100], ids=["at the next save", "at the end of the run"])
def test_a_full_disk_ends_the_run_with_a_message(built: Path, tmp_path: Path, every: int) -> None:
    """A limit on the size of a file stands for the disk: logs fit, a checkpoint does not."""
    out = tmp_path / "run"
    command = train_command(
        "fit", built, "--out", out, *SMALL, "--steps", 3, "--checkpoint-every", every
    )
    limit = (100_000, 100_000)
    ran = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
    )
    assert ran.returncode == 1
    assert "cannot write the checkpoint: File too large" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not list(out.glob("*.pt"))
    assert not list(out.glob(".*.partial"))
