"""Describes the machine of a measurement, and binds it to some of its processors."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any


def take_cores(count: int) -> list[int]:
    """Bind this process and its children to ``count`` cores, and return them.

    Different physical cores are taken first, so that two processes do not share one.

    Raises:
        ValueError: there are fewer.
    """
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < count:
        raise ValueError(f"{count} cores are requested, but only {len(allowed)} may be used")
    seen: set[str] = set()
    firsts: list[int] = []
    others: list[int] = []
    for core in allowed:
        path = Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list")
        siblings = path.read_text().strip() if path.exists() else str(core)
        (others if siblings in seen else firsts).append(core)
        seen.add(siblings)
    cores = (firsts + others)[:count]
    os.sched_setaffinity(0, cores)
    return cores


def _field(path: str, name: str) -> str:
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return "unknown"


def hardware(cores: list[int]) -> dict[str, Any]:
    """Return the machine as JSON."""
    cpu = _field("/proc/cpuinfo", "model name")
    memory_kib = int(_field("/proc/meminfo", "MemTotal").split()[0])
    return {
        "cpu": cpu,
        "cpu_family_model": [
            _field("/proc/cpuinfo", "cpu family"),
            _field("/proc/cpuinfo", "model"),
        ],
        "cores_used": cores,
        "cores": os.cpu_count(),
        "memory_gib": round(memory_kib / 2**20, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }
