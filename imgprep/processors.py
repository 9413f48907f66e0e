"""The number of processors and the memory that this process may use.

A container limits processor time by a quota of its control group, which the affinity of a process
does not show. This module reads both.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_V1_UNLIMITED_BYTES = 1 << 60
"""Version 1 writes a huge number where there is no limit."""


def processors(groups: ControlGroups | None = None) -> int:
    """Return the number of processors that this process may use, after affinity and quota.

    A quota is rounded up. ``groups`` are those of this process by default.
    """
    quota = (groups or ControlGroups()).cpu_quota()
    allowed = affinity()
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def affinity() -> int:
    """Return the number of processors that this process may run on, whatever its quota."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class ControlGroups:
    """The control groups (version 1 or 2) of this process, and their limits.

    Limits of all groups up to the root count, as far as a container shows them.
    """

    membership: Path = Path("/proc/self/cgroup")
    root: Path = Path("/sys/fs/cgroup")

    def cpu_quota(self) -> float | None:
        """Return the processor time allowed, in processors; None without a limit."""
        limits = []
        for folder, version in self._folders("cpu"):
            if version == 2:
                words = _text(folder / "cpu.max").split()
                quota, period = words if len(words) == 2 else ("max", "1")
            else:
                quota = _text(folder / "cpu.cfs_quota_us")
                period = _text(folder / "cpu.cfs_period_us")
            if quota.isdigit() and period.isdigit() and int(quota) and int(period):
                limits.append(int(quota) / int(period))
        return min(limits, default=None)

    def memory_bytes(self) -> int | None:
        """Return the memory allowed, in bytes; None without a limit."""
        limits = []
        for folder, version in self._folders("memory"):
            name = "memory.max" if version == 2 else "memory.limit_in_bytes"
            text = _text(folder / name)
            if text.isdigit() and int(text) < _V1_UNLIMITED_BYTES:
                limits.append(int(text))
        return min(limits, default=None)

    def _folders(self, controller: str) -> Iterator[tuple[Path, int]]:
        """Yield folders that may hold limits, from this process's group up to the root."""
        for line in _text(self.membership).splitlines():
            number, _, rest = line.partition(":")
            names, _, path = rest.partition(":")
            if number == "0" and not names:
                version, tops = 2, (self.root, self.root / "unified")
            elif controller in names.split(","):
                version, tops = 1, (self.root / names, self.root / controller)
            else:
                continue
            parts = [part for part in path.split("/") if part and part != ".."]
            for top in tops:
                for depth in range(len(parts), -1, -1):
                    yield top.joinpath(*parts[:depth]), version


def _text(path: Path) -> str:
    """Return the text of a file; empty if it cannot be read."""
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return ""
