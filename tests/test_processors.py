"""The number of processors and the memory that a process may use: affinity and control groups."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from imgprep.processors import ControlGroups, processors


def groups(place: Path, membership: str, files: dict[str, str]) -> ControlGroups:
    """Control groups with these files under a root of their own."""
    root = place / "cgroup"
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (place / "membership").write_text(membership)
    return ControlGroups(place / "membership", root)


def test_the_least_limit_from_the_group_up_to_the_root_counts(tmp_path: Path) -> None:
    files = {
        "kube/pod/box/cpu.max": "max 100000\n",
        "kube/pod/cpu.max": "150000 100000\n",
        "kube/cpu.max": "800000 100000\n",
        "kube/pod/box/memory.max": "max\n",
        "kube/memory.max": "1073741824\n",
    }
    found = groups(tmp_path, "0::/kube/pod/box\n", files)
    assert found.cpu_quota() == 1.5
    assert found.memory_bytes() == 2**30


def test_inside_a_container_its_own_root_counts(tmp_path: Path) -> None:
    files = {"cpu.max": "200000 100000", "memory.max": "4096"}
    found = groups(tmp_path, "0::/../..\n", files)
    assert found.cpu_quota() == 2.0
    assert found.memory_bytes() == 4096


def test_version_1_is_read_where_the_cpu_controller_is_there(tmp_path: Path) -> None:
    membership = "9:memory:/docker/box\n4:cpu,cpuacct:/docker/box\n1:name=systemd:/\n0::/\n"
    files = {
        "cpu,cpuacct/docker/box/cpu.cfs_quota_us": "50000\n",
        "cpu,cpuacct/docker/box/cpu.cfs_period_us": "100000\n",
        "cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
        "memory/docker/box/memory.limit_in_bytes": "536870912\n",
        "memory/memory.limit_in_bytes": "9223372036854771712\n",
    }
    found = groups(tmp_path, membership, files)
    assert found.cpu_quota() == 0.5
    assert found.memory_bytes() == 2**29


@pytest.mark.parametrize("membership", ["", "0::/kube/pod/box\n", "nonsense\n4:cpu\n"])
def test_without_limit_files_there_is_no_limit(tmp_path: Path, membership: str) -> None:
    found = groups(tmp_path, membership, {"cpu.max": "nonsense", "memory.max": "-5"})
    assert found.cpu_quota() is None
    assert found.memory_bytes() is None


def test_the_number_of_processors_is_within_affinity_and_quota(tmp_path: Path) -> None:
    assert 1 <= processors() <= len(os.sched_getaffinity(0))
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from imgprep.processors import processors; print(processors())"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "1\n"


@pytest.mark.parametrize(
    ("limit", "expected"), [("50000", 1), ("100000", 1), ("150000", 2), ("99900000", None)]
)
def test_a_quota_is_rounded_up_to_whole_processors(
    tmp_path: Path, limit: str, expected: int | None
) -> None:
    found = groups(tmp_path, "0::/\n", {"cpu.max": f"{limit} 100000"})
    allowed = len(os.sched_getaffinity(0))
    assert processors(found) == min(expected or allowed, allowed)
