"""Runs of several processes: waiting for each other, stopping, and ending together."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch

from tests.processes import free_port
from tests.training import SMALL, fit, train, train_command
from train.errors import ConfigError, TrainError
from train.join import process_group
from train.world import World

CPU = torch.device("cpu")
Process = subprocess.Popen[str]


def start(built: Path, out: Path, *arguments: object, **environment: str) -> Process:
    command = train_command("fit", built, "--out", out, *SMALL, "--epochs", 1000, *arguments)
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def wait_for(process: Process, words: str) -> None:
    """Read the process's lines until one has these words."""
    assert process.stderr is not None
    for line in process.stderr:
        if words in line:
            return
    raise AssertionError(f"the process ended without {words!r}")


def children(process: Process) -> list[int]:
    """Ranks that a launcher started."""
    tasks = Path(f"/proc/{process.pid}/task").iterdir()
    return [int(pid) for task in tasks for pid in (task / "children").read_text().split()]


def is_running(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def wait_for_end(pids: list[int]) -> None:
    """Wait until these processes have ended; the limit of the suite bounds it."""
    while any(map(is_running, pids)):
        pass


@contextmanager
def ended(*processes: Process) -> Iterator[None]:
    """Kill the processes at the end, whatever happens."""
    try:
        yield
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
            process.communicate()


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_of_two_processes_prints_one_message(
    kind: signal.Signals, built: Path, tmp_path: Path
) -> None:
    process = start(built, tmp_path / "run", "--parallel", "data")
    with ended(process):
        wait_for(process, "img/s")
        process.send_signal(kind)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert err.count("stopped and saved at step") == 1
    assert "Traceback" not in err
    assert "Warning" not in err
    fit(built, tmp_path / "run", "--parallel", "data", "--epochs", 1)


def test_a_stop_before_the_first_update_says_that_nothing_is_saved(
    built: Path, tmp_path: Path
) -> None:
    process = start(built, tmp_path / "run", "--parallel", "data")
    with ended(process):
        while len(children(process)) < 2:
            assert process.poll() is None
        process.terminate()
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err == "train: stopped before the first update: there was nothing to save\n"
    assert not (tmp_path / "run").exists()


def test_the_ranks_save_and_end_when_their_launcher_is_killed(built: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(built, out, "--parallel", "data")
    with ended(process):
        wait_for(process, "img/s")
        ranks = children(process)
        assert len(ranks) == 2
        refused = train("fit", built, "--out", out, *SMALL)
        assert refused.code == 1
        assert any(f"process {rank}," in refused.err for rank in ranks)
        process.kill()
        wait_for_end(ranks)
    assert (out / "last.pt").exists()


def test_a_second_run_in_the_same_folder_prints_one_message(built: Path, tmp_path: Path) -> None:
    process = start(built, tmp_path / "run", "--parallel", "data")
    with ended(process):
        wait_for(process, "img/s")
        refused = train("fit", built, "--out", tmp_path / "run", *SMALL, "--parallel", "data")
    assert refused.code == 1
    assert refused.err.count("train: ") == 1
    assert "is training in this folder" in refused.err
    assert "Traceback" not in refused.err


def test_the_main_process_saves_when_another_is_killed(built: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(built, out, "--parallel", "data")
    with ended(process):
        wait_for(process, "img/s")
        for rank in children(process):
            if b"RANK=1" in Path(f"/proc/{rank}/environ").read_bytes().split(b"\0"):
                os.kill(rank, signal.SIGKILL)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "lost contact with the other processes; saved at step" in err
    assert "the process of rank 1 was killed by SIGKILL" in err
    assert "Traceback" not in err
    assert (out / "last.pt").exists()


WAITING = {
    "torchrun": {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"},
    "the other rank": {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"},
    "SLURM": {
        "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "2",
        "SLURM_LOCALID": "0", "MASTER_ADDR": "127.0.0.1",
    },
}  # fmt: skip


@pytest.mark.parametrize("launcher", WAITING)
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_process_that_waits_for_others_says_so_and_ends_at_the_first_signal(
    launcher: str, kind: signal.Signals, built: Path, tmp_path: Path
) -> None:
    environment = {**WAITING[launcher], "MASTER_PORT": str(free_port())}
    process = start(built, tmp_path / "run", "--parallel", "data", **environment)
    with ended(process):
        wait_for(process, "waiting up to 600 s for ")
        process.send_signal(kind)
        process.communicate(timeout=60)
    assert process.returncode == (1 if kind == signal.SIGINT else -kind)
    assert not (tmp_path / "run").exists()


def test_waiting_for_others_has_a_limit() -> None:
    port = free_port()
    for rank, what in ((0, "1 of 2 processes to join"), (1, "rank 0 to listen")):
        world = World(rank=rank, size=2, variables=("RANK",), host="127.0.0.1", port=port)
        with (
            pytest.raises(TrainError, match=f"waited 1 s for {what} at 127.0.0.1:{port}"),
            process_group(world, CPU, limit_s=1),
        ):
            pass


def test_a_port_in_use_and_a_missing_address_are_reported() -> None:
    with socket.socket() as used:
        used.bind(("", 0))
        used.listen()
        world = World(size=2, variables=("RANK",), host="127.0.0.1", port=used.getsockname()[1])
        with (
            pytest.raises(TrainError, match=r"cannot join the other processes at 127\.0\.0\.1"),
            process_group(world, CPU, limit_s=1),
        ):
            pass
    world = World(size=2, variables=("RANK", "WORLD_SIZE"))
    with (
        pytest.raises(ConfigError, match=r"RANK and WORLD_SIZE say .* set MASTER_ADDR"),
        process_group(world, CPU),
    ):
        pass


def test_a_launcher_of_another_number_of_processes_is_named(built: Path, tmp_path: Path) -> None:
    alone = {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_LOCALID": "0"}
    process = start(built, tmp_path / "run", "--parallel", "data", "--processes", 2, **alone)
    with ended(process):
        _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "SLURM_PROCID and SLURM_STEP_NUM_TASKS" in err
    assert "env -u SLURM_PROCID -u SLURM_STEP_NUM_TASKS" in err
