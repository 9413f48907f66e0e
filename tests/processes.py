"""Processes of one test that find each other by gloo."""

from __future__ import annotations

import socket
from collections.abc import Callable

import torch.distributed as dist
import torch.multiprocessing as multiprocessing


def free_port() -> int:
    """A TCP port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def in_processes(count: int, task: Callable[..., None], *arguments: object) -> None:
    """Run ``task(rank, *arguments)``, a function of a module, in ``count`` joined processes.

    Raises what the first of them raises.
    """
    multiprocessing.spawn(  # type: ignore[attr-defined, no-untyped-call]
        _joined, (count, free_port(), task, arguments), nprocs=count
    )


def _joined(
    rank: int, count: int, port: int, task: Callable[..., None], arguments: tuple[object, ...]
) -> None:
    dist.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=count
    )
    try:
        task(rank, *arguments)
    finally:
        dist.destroy_process_group()
