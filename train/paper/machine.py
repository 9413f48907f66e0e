"""How many runs fit this machine side by side."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from imgprep.processors import ControlGroups, processors
from imgprep.wording import counted
from train.paper.item import Scale
from train.run.launch import find_hardware

RUN_BYTES = 1536 * 2**20
"""Memory of a small run with its libraries, generously."""
GPU_RUN_BYTES = 4 * 2**30
"""Memory of a GPU that a run at the small scale may use, with its libraries."""
GPU_RUNS_MOST = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """How many jobs run side by side, and the processors of each."""

    side_by_side: int
    processors: tuple[tuple[int, ...], ...]
    """For each place, the processors that its job may use; empty: all."""
    description: str


def find_machine(scale: Scale) -> Machine:
    """Divide this machine among runs of a scale.

    Small runs get one processor each on a CPU, because a narrow net does not use more. Runs of the
    full net run one at a time: on a CPU they use all processors, on a GPU most of its memory.
    """
    hardware = find_hardware()
    on_gpu = hardware.gpus > 0 and scale.settings.get("device") != "cpu"
    places = 1
    if scale.name == "small":
        places = max(1, min(hardware.cores, _memory_bytes() // RUN_BYTES))
        if on_gpu:
            free, _ = torch.cuda.mem_get_info()
            places = max(1, min(GPU_RUNS_MOST, places // 2, free // GPU_RUN_BYTES))
    return Machine(
        side_by_side=places,
        processors=_divided(places),
        description=_description(on_gpu=on_gpu),
    )


@contextmanager
def processors_of_one_run(machine: Machine) -> Iterator[None]:
    """Use only the processors that one run gets, as far as the system allows it."""
    if not machine.processors:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, machine.processors[0])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _divided(places: int) -> tuple[tuple[int, ...], ...]:
    if places == 1 or not hasattr(os, "sched_getaffinity"):
        return ()
    allowed = sorted(os.sched_getaffinity(0))
    return tuple(tuple(allowed[place::places]) for place in range(places))


def _memory_bytes() -> int:
    """Memory that is free now, within the limit of a control group."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        with open("/proc/meminfo", encoding="ascii") as file:  # noqa: PTH123
            for line in file:
                if line.startswith("MemAvailable:"):
                    free = int(line.split()[1]) * 1024
    except OSError:
        pass  # not Linux: the free pages must do
    limit = ControlGroups().memory_bytes()
    return free if limit is None else min(free, limit)


def _description(*, on_gpu: bool) -> str:
    parts = [f"{counted(processors(), 'processor')} ({_model()})"]
    if on_gpu:
        parts.append(torch.cuda.get_device_name(0))
    parts.append(f"torch {torch.__version__}, Python {platform.python_version()}")
    return ", ".join(parts)


def _model() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:  # noqa: PTH123
            names = (line.partition(":")[2].strip() for line in file if "model name" in line)
            return next(names, platform.machine())
    except OSError:
        return platform.machine()
