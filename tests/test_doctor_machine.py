"""The doctor on processors, memory, disks and GPUs: real limits and captured outputs."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from imgprep.doctor import nvidia
from imgprep.doctor.child import NoAnswerError, ask
from imgprep.doctor.disk import examine, measure
from imgprep.doctor.training import links_finding
from imgprep.image.pillowcheck import compiled_with_avx2
from tests.clobber import tmpfs_script

# As drivers 470, 535 and 570 print them.
GPUS = """index, name, driver_version, memory.total [MiB]
0, NVIDIA H100 80GB HBM3, 535.154.05, 81559 MiB
1, NVIDIA H100 80GB HBM3, 535.154.05, 81559 MiB
"""
TOPOLOGY = """\t\x1b[4mGPU0\tGPU1\tGPU2\tGPU3\tNIC0\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\x1b[0m
GPU0\t X \tNV6\tNV6\tNV6\tPIX\t6,14,22,30\t3\t\tN/A
GPU1\tNV6\t X \tNV6\tNV6\tSYS\t4,12,20,28\t1\t\tN/A
GPU2\tNV6\tNV6\t X \tNV6\tSYS\t7,15,23,31\t7\t\tN/A
GPU3\tNV6\tNV6\tNV6\t X \tSYS\t5,13,21,29\t5\t\tN/A
NIC0\tPIX\tSYS\tSYS\tSYS\t X \t\t\t\t

Legend:

  X    = Self
  SYS  = Connection traversing PCIe as well as the SMP interconnect between NUMA nodes
  NV#  = Connection traversing a bonded set of # NVLinks
"""
TWO_WITHOUT = "\tGPU0\tGPU1\tCPU Affinity\nGPU0\t X \tPHB\t0-15\nGPU1\tPHB\t X \t0-15\n"
LINKS = """GPU 0: Tesla V100-SXM2-32GB (UUID: GPU-715daa1d-db6f-9e69-ab48-190158bd5360)
\t Link 0: 25.781 GB/s
\t Link 1: 25.781 GB/s
\t Link 2: <inactive>
GPU 1: Tesla V100-SXM2-32GB (UUID: GPU-02348a17-a825-300c-0336-48e33d0dadb2)
\t Link 0: 25.781 GB/s
\t Link 1: 25.781 GB/s
\t Link 2: 25.781 GB/s
"""
BROKEN_DRIVER = (
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that "
    "the latest NVIDIA driver is installed and running.\n"
)
TRAINING = """
import json
from dataclasses import asdict
from imgprep.doctor import training
torch = json.loads({torch!r})
found = training.examine(lambda question: {{"built": True, "avx2": True}}, lambda: torch)
print(json.dumps([asdict(each) for each in found]))
"""
CPU_BUILD: dict[str, Any] = {"cuda": None, "devices": [], "capabilities": [], "kernels": []}
CUDA_BUILD: dict[str, Any] = {
    "cuda": "12.6",
    "devices": ["NVIDIA H100 80GB HBM3"] * 2,
    "capabilities": [[9, 0]] * 2,
    "kernels": ["sm_80", "sm_90", "compute_90"],
    "peers": [[0, 1], [1, 0]],
}


def test_gpus_are_read_by_column_names() -> None:
    h100 = nvidia.Gpu(0, "NVIDIA H100 80GB HBM3", "535.154.05", 81559)
    assert nvidia.parse_gpus(GPUS)[0] == h100
    assert [gpu.index for gpu in nvidia.parse_gpus(GPUS)] == [0, 1]
    mig = "name, index, memory.total [MiB], driver_version\nNVIDIA A30, 3, [N/A], 470.57.02\n"
    assert nvidia.parse_gpus(mig) == [nvidia.Gpu(3, "NVIDIA A30", "470.57.02", None)]
    for nothing in ("", "No devices were found\n", BROKEN_DRIVER, "index, name\n0, x\n"):
        assert nvidia.parse_gpus(nothing) == []


def test_the_topology_has_each_pair_of_gpus_once() -> None:
    pairs = {(a, b): "NV6" for a in range(4) for b in range(a + 1, 4)}
    assert nvidia.parse_topology(TOPOLOGY) == pairs
    assert nvidia.parse_topology(TWO_WITHOUT) == {(0, 1): "PHB"}
    assert nvidia.parse_topology("") == {}
    assert nvidia.parse_topology(BROKEN_DRIVER) == {}


def test_only_active_links_count() -> None:
    assert nvidia.parse_links(LINKS) == {0: (25.781, 25.781), 1: (25.781, 25.781, 25.781)}
    assert nvidia.parse_links("") == {}


@pytest.mark.parametrize(
    ("driver", "cuda"),
    [("580.65.06", 13), ("535.154.05", 12), ("525.60.13", 12), ("470.57.02", 11), ("418.1", None)],
)
def test_the_driver_version_gives_the_newest_cuda(driver: str, cuda: int | None) -> None:
    assert nvidia.cuda_of_driver(driver) == cuda


def test_gpus_without_nvlink_are_reported() -> None:
    joined = links_finding(nvidia.parse_topology(TOPOLOGY), nvidia.parse_links(LINKS), [])
    assert joined.level == "ok"
    assert joined.value.startswith("6 of 6 pairs of GPUs (NV6, 77 GB/s each way per GPU)")
    apart = links_finding({(0, 1): "SYS", (0, 2): "NV4", (1, 2): "SYS"}, {}, None)
    assert (apart.level, apart.fix.split()[0]) == ("note", "CUDA_VISIBLE_DEVICES=0,2")
    assert links_finding({(0, 1): "PHB"}, {}, None).value == "none: GPUs are linked by PHB"


def training_with(tmp_path: Path, script: str, torch: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the findings with this shell script as ``nvidia-smi`` and this answer of torch."""
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    ran = subprocess.run(
        [sys.executable, "-c", TRAINING.format(torch=json.dumps(torch))],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    return {each["what"]: each for each in json.loads(ran.stdout)}


def printing(**outputs: str) -> str:
    cases = [f"*{word}*) printf %s {shlex.quote(text)} ;;" for word, text in outputs.items()]
    return f'case "$*" in {" ".join(cases)} esac'


def test_two_gpus(tmp_path: Path) -> None:
    script = printing(query=GPUS, topo=TWO_WITHOUT, nvlink="")
    found = training_with(tmp_path, script, CUDA_BUILD)
    expected = "2 x NVIDIA H100 80GB HBM3, 80 GiB each; driver 535.154.05 (runs CUDA 12)"
    assert found["GPUs"]["value"] == expected
    assert found["NVLink"]["value"] == "none: GPUs are linked by PHB; peer access: 1 pair"
    assert found["torch"]["level"] == "ok"
    cpu = training_with(tmp_path, script, CPU_BUILD)["torch"]
    assert (cpu["level"], cpu["why"]) == (
        "fix",
        "there is a GPU, but this build of torch supports only the CPU",
    )
    too_new = training_with(tmp_path, script, {**CPU_BUILD, "cuda": "13.0"})["torch"]
    assert too_new["fix"] == "update the driver to 580 or newer, or install a build for CUDA 12"
    old = {**CUDA_BUILD, "kernels": ["sm_70", "sm_75"]}
    assert "no code for NVIDIA H100" in training_with(tmp_path, script, old)["torch"]["why"]


def test_a_broken_driver_must_be_fixed_and_having_no_gpu_is_ok(tmp_path: Path) -> None:
    script = f"printf %s {shlex.quote(BROKEN_DRIVER)}; exit 9"
    found = training_with(tmp_path, script, CPU_BUILD)
    assert found["GPUs"]["level"] == "fix"
    assert "couldn't communicate" in found["GPUs"]["value"]
    found = training_with(tmp_path, "echo No devices were found; exit 6", CPU_BUILD)
    assert (found["GPUs"]["level"], found["GPUs"]["value"]) == ("ok", "none")
    assert "NVLink" not in found


def test_a_low_limit_of_open_files_must_be_raised() -> None:
    code = (
        "from imgprep.doctor import machine; "
        "print(*[f'{f.level}|{f.fix}' for f in machine.examine() if f.what == 'open files'])"
    )
    for limit, raised in (("-S -n 100", "fix|ulimit -n "), ("-n 100", "fix|ask an administrator")):
        command = f"ulimit {limit}; {shlex.quote(sys.executable)} -c {shlex.quote(code)}"
        ran = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
        assert ran.stdout.startswith(raised)


def test_measuring_the_disk_leaves_no_files(tmp_path: Path) -> None:
    found = measure(tmp_path)
    assert found.write_bytes_per_s > 0
    assert found.read_bytes_per_s > 0
    assert 4 << 20 <= found.n_bytes <= 64 << 20
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("folder", ["{disk}", "{disk}/new/place"])
@pytest.mark.parametrize(
    ("options", "prepare", "quick", "said"),
    [
        ("size=1m", "true", False, "No space left on device"),
        ("size=64m", "mount -o remount,ro {disk}", False, "Read-only file system"),
        ("size=64m", "mount -o remount,ro {disk}", True, "Read-only file system"),
    ],
)
def test_a_disk_that_cannot_be_written_must_be_fixed(
    tmp_path: Path, folder: str, options: str, prepare: str, quick: bool, said: str
) -> None:
    code = (
        "import sys; from imgprep.doctor import disk; "
        f"found = disk.examine(sys.argv[1] or None, quick={quick}, images_per_s=None); "
        "print(f'{found[0].level} {found[0].value}')"
    )
    python = f"{shlex.quote(sys.executable)} -c {shlex.quote(code)}"
    script = f"{prepare}; {python} {folder}; cd {{disk}}; {python} ''; ls -A {{disk}}"
    ran = tmpfs_script(tmp_path, options, script)
    asked, unasked = ran.splitlines()
    assert asked.startswith("fix ")
    assert unasked.startswith("note "), "the current folder need not be writable"
    assert said in asked
    assert said in unasked


def test_the_command_says_that_a_read_only_disk_must_be_fixed(tmp_path: Path) -> None:
    command = f"{shlex.quote(sys.executable)} -m imgprep doctor --quick --dest {{disk}}/new"
    script = f"mount -o remount,ro {{disk}}; {command} || echo exit code $?"
    lines = tmpfs_script(tmp_path, "size=64m", script).splitlines()
    assert lines[-1] == "exit code 1"
    assert "must be fixed; " in lines[-2]
    assert not lines[-2].startswith("nothing")
    assert any("Read-only file system" in line for line in lines)


def test_places_that_cannot_be_measured_are_reported(tmp_path: Path) -> None:
    (url,) = examine("s3://bucket/imagenet-256", quick=False, images_per_s=None)
    assert (url.level, url.what) == ("ok", "disk")
    (tmp_path / "file").touch()
    (file,) = examine(str(tmp_path / "file" / "place"), quick=True, images_per_s=None)
    assert (file.level, file.what) == ("fix", "disk")
    assert "is not a folder" in file.value


def test_a_folder_that_does_not_exist_is_measured_where_it_would_be_made(tmp_path: Path) -> None:
    speed, space = examine(str(tmp_path / "new" / "place"), quick=False, images_per_s=None)
    assert (speed.level, speed.facts["measured_in"]) == ("ok", str(tmp_path))
    assert space.facts["free_bytes"] > 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("flags", "expected"), [("-mavx2", True), ("", False)])
def test_the_stamp_of_the_set_up_tells_how_pillow_simd_was_compiled(
    tmp_path: Path, flags: str, expected: bool
) -> None:
    library = tmp_path / "_imaging.cpython-311-x86_64-linux-gnu.so"
    library.write_bytes(b"code")
    stamp = tmp_path / "pillow-simd.stamp"
    assert compiled_with_avx2(tmp_path, stamp) is None, "no stamp"
    digest = hashlib.sha256(b"code").hexdigest()
    stamp.write_text(f"pillow-simd==1\nflags: {flags}\nlibrary: {digest}  -\n")
    assert compiled_with_avx2(tmp_path, stamp) is expected
    library.write_bytes(b"other code")
    assert compiled_with_avx2(tmp_path, stamp) is None, "another library is installed"


def test_a_hanging_child_is_abandoned() -> None:
    with pytest.raises(NoAnswerError, match=r"no answer within 0\.3 s"):
        ask("import time\ntime.sleep(60)\n", seconds=0.3)
    assert ask("print(json.dumps({'path': sys.path}))", seconds=30)["path"] == sys.path
