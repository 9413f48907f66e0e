"""Checks the processors, memory and open files that this process may use."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Any

from imgprep.doctor.finding import Finding, Level
from imgprep.processors import ControlGroups, affinity, processors

OPEN_FILES_BUILD = 64
"""Archives that one worker keeps open."""
OPEN_FILES_TRAINING = 64
"""Shards that one training process keeps open."""
OPEN_FILES_REST = 128
"""Libraries, sockets, logs, pipes."""
OPEN_FILES_A_WORKER = 4
MEMORY_BUILD_MIB = 130
MEMORY_A_JOB_MIB = 20


def examine() -> list[Finding]:
    """Return the findings, in the order of the screen."""
    return [_processors(), _memory(), _open_files()]


def _finding(level: Level, what: str, value: str, **more: Any) -> Finding:
    return Finding(group="machine", level=level, what=what, value=value, **more)


def _processors() -> Finding:
    present, allowed, usable = os.cpu_count() or 1, affinity(), processors()
    quota = ControlGroups().cpu_quota()
    facts = {"present": present, "affinity": allowed, "quota": quota, "usable": usable}
    value = f"{usable} usable of {present} ({_processor_name()})"
    if quota is not None and quota < allowed:
        value += f"; a control group allows the time of {quota:g}"
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
    limit = ControlGroups().memory_bytes()
    facts = {"total_bytes": total, "available_bytes": available, "limit_bytes": limit}
    value = f"{total / 2**30:.1f} GiB, {available / 2**30:.1f} GiB available"
    if limit is not None and limit < total:
        value += f"; a control group allows {limit / 2**30:.1f} GiB"
    jobs = processors()
    needed_mib = MEMORY_BUILD_MIB + MEMORY_A_JOB_MIB * jobs
    if min(available, limit or available) < needed_mib * 2**20:
        why = f"a build with --jobs {jobs} needs about {needed_mib} MiB"
        return _finding("note", "memory", value, why=why, fix="use fewer --jobs", facts=facts)
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
    value = f"{'unlimited' if unlimited else f'{soft:,}'}; a build or a training run needs {needed}"
    if not unlimited and soft < needed:
        allowed = hard == resource.RLIM_INFINITY or hard >= needed
        fix = (
            f"ulimit -n {needed}" if allowed else "ask an administrator to raise the limit (nofile)"
        )
        why = "a build or a training run would stop with 'too many open files'"
        return _finding("fix", "open files", value, why=why, fix=fix, facts=facts)
    return _finding("ok", "open files", value, facts=facts)
