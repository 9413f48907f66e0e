"""Joins the processes of a run: each waits for the others, says so, and can be stopped.

torch's own wait is silent and lets no signal through, so this one polls in Python.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from train.errors import ConfigError, TrainError
from train.world import World

if TYPE_CHECKING:
    import torch
    from torch._C._distributed_c10d import Store

LIMIT_S = 600.0
"""Time that the processes have to appear."""
QUIET_S = 5.0
"""Time before a process says that it is waiting."""
POLL_S = 0.2
JOINED = "joined"

Warn = Callable[[str], None]


def ignore(text: str) -> None:
    """Drop a warning."""


@contextmanager
def process_group(
    world: World, device: torch.device, warn: Warn = ignore, *, limit_s: float = LIMIT_S
) -> Iterator[None]:
    """Join the other processes, by NCCL for GPUs and gloo for CPUs; leave them at the end.

    A GPU group has gloo as well, for values on the host (stop requests, counts).

    Raises:
        ConfigError: the launcher does not say where the processes meet.
        TrainError: the other processes did not appear within ``limit_s``.
    """
    if world.size == 1:
        yield
        return
    import torch.distributed as dist

    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    store = _Joining(world, warn, limit_s).store()
    dist.init_process_group(backend, store=store, rank=world.rank, world_size=world.size)
    try:
        yield
    finally:
        dist.destroy_process_group()


def is_lost_peer(world: World, error: Exception) -> bool:
    """Whether torch raised ``error`` because another process of ``world`` has ended."""
    import torch.distributed as dist

    return world.size > 1 and (isinstance(error, dist.DistError) or "gloo" in str(error))


def any_process(world: World, flag: bool) -> bool:
    """Whether ``flag`` is set in a process of ``world``: all call it, and get the same answer."""
    if world.size == 1:
        return flag
    import torch

    shared = torch.tensor([int(flag)])  # on the CPU, where gloo sends it
    torch.distributed.all_reduce(shared, torch.distributed.ReduceOp.MAX)
    return bool(shared.item())


class _Joining:
    """One process that waits for the others."""

    def __init__(self, world: World, warn: Warn, limit_s: float) -> None:
        if not world.host or not 0 < world.port < 2**16:
            raise ConfigError(
                f"{' and '.join(world.variables)} say that there are {world.size} processes: set "
                "MASTER_ADDR to the machine of rank 0, and MASTER_PORT to a free port on it"
            )
        self._world, self._warn, self._limit_s = world, warn, limit_s
        self._started = time.monotonic()
        self._warned = world.local_rank != 0  # one process per machine says it

    def store(self) -> Store:
        """The store that the processes exchange addresses in, once all have joined."""
        from torch._C._distributed_c10d import PrefixStore, TCPStore
        from torch.distributed import DistError

        world = self._world
        serves = world.rank == 0 and not world.served
        if not serves:
            self._reach()
        limit = timedelta(seconds=self._limit_s)
        try:
            served = TCPStore(world.host, world.port, None, serves, limit, wait_for_workers=False)
            store = PrefixStore(f"imgprep/attempt_{world.attempt}", served)
            joined = store.add(JOINED, 1)
            while joined < world.size:
                missing = world.size - joined
                self._wait(f"{missing} of {world.size} processes to join")
                joined = store.add(JOINED, 0)
        except DistError as exc:
            reason = str(exc).splitlines()[0][:200]
            raise TrainError(
                f"cannot join the other processes at {world.host}:{world.port}: {reason}"
            ) from exc
        return store

    def _reach(self) -> None:
        """Wait until the port accepts connections."""
        world, server = self._world, "the launcher" if self._world.served else "rank 0"
        while True:
            try:
                socket.create_connection((world.host, world.port), timeout=POLL_S).close()
            except OSError:
                self._wait(f"{server} to listen")
            else:
                return

    def _wait(self, what: str) -> None:
        """Wait a moment for ``what`` and announce it once; TrainError after the limit."""
        world, waited = self._world, time.monotonic() - self._started
        where = (
            f"{what} at {world.host}:{world.port}; this is rank {world.rank} of {world.size}, as "
            f"{' and '.join(world.variables)} say"
        )
        if waited > self._limit_s:
            raise TrainError(f"waited {self._limit_s:.0f} s for {where}")
        if waited > QUIET_S and not self._warned:
            self._warned = True
            self._warn(f"waiting up to {self._limit_s:.0f} s for {where}")
        time.sleep(POLL_S)
