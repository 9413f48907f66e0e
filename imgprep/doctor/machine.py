"""Processors, memory and open files that this process may really use."""

from __future__ import annotations

import math
import os
import platform
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from imgprep.doctor.finding import Finding, Level
from imgprep.processors import processors

OPEN_FILES_BUILD = 64
"""Archives that a worker holds open."""
OPEN_FILES_TRAINING = 64
"""Shards that a training process holds open."""
OPEN_FILES_REST = 128
"""Libraries, sockets, logs, pipes."""
OPEN_FILES_A_WORKER = 4
MEMORY_BUILD_MIB = 130
MEMORY_A_JOB_MIB = 20
_V1_UNLIMITED = 1 << 60

Read = Callable[[str], str | None]
"""The text of a file under ``/sys/fs/cgroup``; None where there is no such file."""


def examine() -> list[Finding]:
    """The findings, in the order of the screen."""
    return [_processors(), _memory(), _open_files()]


def usable_cores() -> int:
    """Processors that this process may use, after affinity and quota."""
    return max(1, min(processors(), math.ceil(cpu_quota(_own_groups(), _read_group) or 1 << 30)))


def cpu_quota(groups: str, read: Read) -> float | None:
    """Processors' worth of time that control groups allow; None without a limit.

    ``groups`` is ``/proc/self/cgroup``. Both versions of control groups are understood, and every
    folder up to the root counts, whether or not a container hides those above it.
    """
    limits = []
    for folder in _folders(groups, "cpu"):
        if folder.startswith("v2:"):
            words = (read(f"{folder[3:]}cpu.max") or "").split()
            quota, period = words if len(words) == 2 else ("max", "1")
        else:
            quota = (read(f"{folder}cpu.cfs_quota_us") or "-1").strip()
            period = (read(f"{folder}cpu.cfs_period_us") or "1").strip()
        if quota.isdigit() and period.isdigit() and int(period) > 0:
            limits.append(int(quota) / int(period))
    return min(limits, default=None)


def memory_limit(groups: str, read: Read) -> int | None:
    """Bytes that control groups allow; None without a limit."""
    limits = []
    for folder in _folders(groups, "memory"):
        name = f"{folder[3:]}memory.max" if folder.startswith("v2:") else None
        text = (read(name or f"{folder}memory.limit_in_bytes") or "max").strip()
        if text.isdigit() and int(text) < _V1_UNLIMITED:
            limits.append(int(text))
    return min(limits, default=None)


def _folders(groups: str, controller: str) -> list[str]:
    """Folders that hold limits, from this process's up to the root; ``v2:`` marks version 2."""
    found = []
    for line in groups.splitlines():
        number, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if number == "0" and not names:
            mark, tops = "v2:", ["", "unified/"]
        elif controller in names.split(","):
            mark, tops = "", [f"{names}/", f"{controller}/"]
        else:
            continue
        parts = [part for part in path.split("/") if part and part != ".."]
        inner = ["/".join(parts[:n]) + "/" if n else "" for n in range(len(parts), -1, -1)]
        found += [f"{mark}{top}{each}" for top in tops for each in inner]
    return found


def _own_groups() -> str:
    try:
        return Path("/proc/self/cgroup").read_text("utf-8", "replace")
    except OSError:
        return ""


def _read_group(name: str) -> str | None:
    try:
        return (Path("/sys/fs/cgroup") / name).read_text("ascii", "replace")
    except OSError:
        return None


def _finding(level: Level, what: str, value: str, **more: Any) -> Finding:
    return Finding(group="machine", level=level, what=what, value=value, **more)


def _processors() -> Finding:
    present, allowed = os.cpu_count() or 1, processors()
    quota = cpu_quota(_own_groups(), _read_group)
    usable = usable_cores()
    facts = {"present": present, "affinity": allowed, "quota": quota, "usable": usable}
    value = f"{usable} usable of {present} ({_processor_name()})"
    if quota is not None and quota < allowed:
        why = f"a quota allows {quota:g}; without --jobs, {allowed} workers share them"
        fix = f"imgprep build-shards --jobs {usable} ..."
        return _finding("note", "processors", value, why=why, fix=fix, facts=facts)
    return _finding("ok", "processors", value, facts=facts)


def _processor_name() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return " ".join(found[1].split()) if found else platform.machine()


def _memory() -> Finding:
    try:
        text = Path("/proc/meminfo").read_text("ascii", "replace")
    except OSError:
        return _finding("ok", "memory", "unknown: no /proc/meminfo")
    kib = {name: int(value) for name, value in re.findall(r"^(\w+):\s+(\d+) kB", text, re.M)}
    total = kib.get("MemTotal", 0) * 1024
    available = kib.get("MemAvailable", 0) * 1024
    limit = memory_limit(_own_groups(), _read_group)
    facts = {"total_bytes": total, "available_bytes": available, "limit_bytes": limit}
    value = f"{total / 2**30:.1f} GiB, {available / 2**30:.1f} GiB available"
    if limit is not None and limit < total:
        value += f"; this process may have {limit / 2**30:.1f} GiB"
    jobs = processors()
    needed_mib = MEMORY_BUILD_MIB + MEMORY_A_JOB_MIB * jobs
    if min(available, limit or available) < needed_mib * 2**20:
        why = f"a build with {jobs} jobs takes about {needed_mib} MiB"
        return _finding("note", "memory", value, why=why, fix="take fewer --jobs", facts=facts)
    return _finding("ok", "memory", value, facts=facts)


def _open_files() -> Finding:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    jobs = processors()
    needed = OPEN_FILES_REST + max(
        OPEN_FILES_BUILD, OPEN_FILES_TRAINING, OPEN_FILES_A_WORKER * jobs
    )
    facts = {"soft": soft, "hard": hard, "needed": needed}
    unlimited = soft == resource.RLIM_INFINITY
    value = f"{'unlimited' if unlimited else f'{soft:,}'}; a build or a training needs {needed}"
    if not unlimited and soft < needed:
        allowed = hard == resource.RLIM_INFINITY or hard >= needed
        fix = f"ulimit -n {needed}" if allowed else "have an administrator raise the limit (nofile)"
        why = "a build or a training would stop with 'too many open files'"
        return _finding("fix", "open files", value, why=why, fix=fix, facts=facts)
    return _finding("ok", "open files", value, facts=facts)
