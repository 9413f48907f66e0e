"""Rank and number of processes, read from the launcher's environment: torchrun, SLURM or none."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from train.errors import ConfigError

if TYPE_CHECKING:
    pass

SLURM_PORT_BASE = 20_000
SLURM_PORTS = 20_000
TORCH_PORT = 29_500
"""Default of torchrun and of MASTER_PORT."""


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
    variables: tuple[str, ...] = ()
    """Names of the environment variables of the launcher."""
    host: str = ""
    """Machine where the processes meet; empty: unknown."""
    port: int = 0
    served: bool = False
    """Whether the launcher serves the port, and not rank 0."""
    attempt: int = 0
    """How often torchrun has restarted the processes."""

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size or not 0 <= self.local_rank < self.local_size:
            raise ConfigError(
                f"rank {self.rank} of {self.size}, local rank {self.local_rank} of "
                f"{self.local_size}: the variables of the launcher (RANK, WORLD_SIZE, LOCAL_RANK, "
                "LOCAL_WORLD_SIZE, or those of SLURM) contradict each other: unset them to train "
                "in one process, or start with torchrun or srun"
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
        served = environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        return World(
            rank=_number(environment, "RANK"),
            size=size,
            local_rank=_number(environment, "LOCAL_RANK", 0),
            local_size=_number(environment, "LOCAL_WORLD_SIZE", size),
            launched=True,
            variables=("RANK", "WORLD_SIZE"),
            host=environment.get("MASTER_ADDR", ""),
            port=_number(environment, "MASTER_PORT", TORCH_PORT),
            served=served,
            attempt=_number(environment, "TORCHELASTIC_RESTART_COUNT", 0),
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
        variables=("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
        host=address,
        port=port,
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
