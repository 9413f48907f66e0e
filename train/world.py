"""Rank and number of processes, read from the launcher's environment: torchrun, SLURM or none."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from train.errors import ConfigError

if TYPE_CHECKING:
    import torch

SLURM_PORT_BASE = 20_000
SLURM_PORTS = 20_000


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """One process among all that train together."""

    rank: int = 0
    """Rank among all processes of all machines; decides which records this process reads."""
    size: int = 1
    local_rank: int = 0
    """Rank among the processes of this machine; decides which GPUs this process uses."""
    local_size: int = 1
    launched: bool = False
    """Whether a launcher started this process; then it starts no others."""
    rendezvous: str = "env://"
    """Where the processes meet: torchrun's variables, or ``tcp://HOST:PORT``."""

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size or not 0 <= self.local_rank < self.local_size:
            raise ConfigError(
                f"rank {self.rank} of {self.size}, local rank {self.local_rank} of "
                f"{self.local_size}: the launcher's environment contradicts itself"
            )

    @property
    def is_main(self) -> bool:
        """Whether this process prints, logs and saves."""
        return self.rank == 0

    @property
    def machines(self) -> int:
        """Number of machines, if each runs as many processes as this one."""
        return max(1, self.size // self.local_size)


def world_from(environment: Mapping[str, str]) -> World:
    """Read the launcher's environment variables.

    torchrun's variables come first, then SLURM's (``srun tools/train ...``); with neither, this
    process trains alone.

    Raises:
        ConfigError: a variable is missing or not a number.
    """
    if "RANK" in environment and "WORLD_SIZE" in environment:
        size = _number(environment, "WORLD_SIZE")
        return World(
            rank=_number(environment, "RANK"),
            size=size,
            local_rank=_number(environment, "LOCAL_RANK", 0),
            local_size=_number(environment, "LOCAL_WORLD_SIZE", size),
            launched=True,
        )
    if "SLURM_PROCID" in environment and "SLURM_STEP_NUM_TASKS" in environment:
        return _from_slurm(environment)
    return World()


def _from_slurm(environment: Mapping[str, str]) -> World:
    size = _number(environment, "SLURM_STEP_NUM_TASKS")
    nodes = _number(environment, "SLURM_STEP_NUM_NODES", 1)
    if size % nodes:
        raise ConfigError(
            f"{size} SLURM tasks on {nodes} nodes: every node must run the same number of tasks"
        )
    job = _number(environment, "SLURM_JOB_ID", 0)
    hosts = environment.get("SLURM_STEP_NODELIST", "127.0.0.1")
    address = environment.get("MASTER_ADDR", first_host(hosts))
    port = _number(environment, "MASTER_PORT", SLURM_PORT_BASE + job % SLURM_PORTS)
    return World(
        rank=_number(environment, "SLURM_PROCID"),
        size=size,
        local_rank=_number(environment, "SLURM_LOCALID"),
        local_size=size // nodes,
        launched=True,
        rendezvous=f"tcp://{address}:{port}",
    )


def first_host(hosts: str) -> str:
    """First host name of a SLURM node list: ``node[07-09,12],gpu1`` gives ``node07``."""
    first = re.match(r"([^,\[]+)(?:\[([^\]]+)\])?([^,]*)", hosts)
    if first is None:
        raise ConfigError(f"cannot parse the SLURM node list {hosts!r}: set MASTER_ADDR")
    number = re.split(r"[,-]", first[2])[0] if first[2] else ""
    return f"{first[1]}{number}{first[3]}"


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environment.get(name)
    if text is None and default is not None:
        return default
    try:
        return int(text or "")
    except ValueError as exc:
        raise ConfigError(f"environment variable {name} is {text!r}, not a number") from exc


def is_lost_peer(world: World, error: RuntimeError) -> bool:
    """Whether torch raised ``error`` because another process of ``world`` has ended."""
    import torch.distributed as dist

    return world.size > 1 and (isinstance(error, dist.DistError) or "gloo" in str(error))


@contextmanager
def process_group(world: World, device: torch.device) -> Iterator[None]:
    """Join the other processes, by NCCL for GPUs and gloo for CPUs; leave them at the end.

    A GPU group has gloo as well, for values on the host (stop requests, counts).
    """
    if world.size == 1:
        yield
        return
    import torch.distributed as dist

    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(
        backend, init_method=world.rendezvous, rank=world.rank, world_size=world.size
    )
    try:
        yield
    finally:
        dist.destroy_process_group()
