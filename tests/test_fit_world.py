"""The launcher's environment, and the placement of processes on devices."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.config import NetConfig, RunConfig
from train.errors import ConfigError
from train.run.launch import Hardware, place
from train.world import World, first_host, world_from

ALONE = World()


def test_without_a_launcher_a_process_trains_alone() -> None:
    assert world_from({"HOME": "/root", "SLURM_PROCID": "3"}) == ALONE


def test_the_environment_of_torchrun_is_read() -> None:
    ranks = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
    world = world_from({**ranks, "MASTER_ADDR": "node1", "MASTER_PORT": "1234"})
    assert (world.rank, world.size, world.local_rank, world.machines) == (5, 8, 1, 2)
    assert world.launched
    assert not world.is_main
    assert (world.host, world.port, world.served) == ("node1", 1234, False)


def test_the_environment_of_slurm_is_read() -> None:
    world = world_from(
        {
            "SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "2",
            "SLURM_LOCALID": "1", "SLURM_STEP_NODELIST": "gpu[07-09,12]", "SLURM_JOB_ID": "123456",
        }
    )  # fmt: skip
    assert (world.rank, world.size, world.local_rank, world.local_size) == (3, 4, 1, 2)
    assert (world.host, world.port) == ("gpu07", 23456)


@pytest.mark.parametrize(
    ("hosts", "first"),
    [("a", "a"), ("a,b", "a"), ("n[1-4]", "n1"), ("n[003,7]-ib,m", "n003-ib"), ("x1,n[1-2]", "x1")],
)
def test_first_host_of_a_slurm_list(hosts: str, first: str) -> None:
    assert first_host(hosts) == first


@pytest.mark.parametrize(
    "environment",
    [
        {"RANK": "x", "WORLD_SIZE": "2"},
        {"RANK": "2", "WORLD_SIZE": "2"},
        {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "3", "SLURM_STEP_NUM_NODES": "2"},
    ],
)
def test_a_contradicting_environment_is_rejected(environment: dict[str, str]) -> None:
    with pytest.raises(ConfigError):
        world_from(environment)


@pytest.mark.parametrize(
    ("gpus", "config", "parallel", "devices"),
    [
        (0, RunConfig(), "none", [("cpu",)]),
        (1, RunConfig(), "none", [("cuda:0",)]),
        (2, RunConfig(), "columns", [("cuda:0", "cuda:1")]),
        (2, RunConfig(net=NetConfig(architecture="one-gpu")), "data", [("cuda:0",), ("cuda:1",)]),
        (2, RunConfig(net=NetConfig(architecture="cifar4")), "data", [("cuda:0",), ("cuda:1",)]),
        (2, RunConfig(device="cpu"), "none", [("cpu",)]),
        (2, RunConfig(parallel="data"), "data", [("cuda:0",), ("cuda:1",)]),
        (0, RunConfig(parallel="data"), "data", [("cpu",), ("cpu",)]),
        (0, RunConfig(parallel="columns"), "columns", [("cpu", "cpu")]),
    ],
)
def test_a_run_is_placed_on_the_devices_of_the_machine(
    gpus: int, config: RunConfig, parallel: str, devices: list[tuple[str, ...]]
) -> None:
    placed = place(config, Hardware(gpus=gpus, cores=8), ALONE, None)
    assert placed.parallel == parallel
    assert [placed.devices(rank) for rank in range(placed.processes)] == devices


@given(gpus=st.integers(2, 16), processes=st.integers(1, 8))
def test_no_two_processes_share_a_gpu(gpus: int, processes: int) -> None:
    config = RunConfig(parallel="columns")
    if 2 * processes > gpus:
        with pytest.raises(ConfigError, match="GPUs"):
            place(config, Hardware(gpus=gpus, cores=4), ALONE, processes)
        return
    placed = place(config, Hardware(gpus=gpus, cores=4), ALONE, processes)
    used = [name for rank in range(placed.processes) for name in placed.devices(rank)]
    assert len(used) == len(set(used)) == 2 * processes


def test_impossible_placements_are_rejected() -> None:
    here = Hardware(gpus=0, cores=2)
    with pytest.raises(ConfigError, match="no GPU is visible"):
        place(RunConfig(device="cuda"), here, ALONE, None)
    with pytest.raises(ConfigError, match="runs one process"):
        place(RunConfig(parallel="none"), here, ALONE, 2)
    launched = World(size=2, local_size=2, launched=True, variables=("RANK", "WORLD_SIZE"))
    with pytest.raises(ConfigError, match=r"2 on this machine, as RANK and WORLD_SIZE .* -u RANK"):
        place(RunConfig(), here, launched, 3)
    assert place(RunConfig(), here, launched, None).parallel == "data"


@pytest.mark.parametrize(
    ("gpus", "processes", "expected"),
    [(2, 2, "data"), (0, 2, "data"), (3, 3, "data"), (4, 2, "columns"), (2, 1, "columns")],
)
def test_the_number_of_processes_decides_how_a_run_is_split(
    gpus: int, processes: int, expected: str
) -> None:
    placed = place(RunConfig(), Hardware(gpus=gpus, cores=8), ALONE, processes)
    assert (placed.parallel, placed.processes) == (expected, processes)
