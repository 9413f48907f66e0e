"""Parses the output of nvidia-smi; only ``run`` starts the program."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
from dataclasses import dataclass

QUERY = ("index", "name", "driver_version", "memory.total")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_GPU_LINE = re.compile(r"^GPU (\d+): ")
_LINK_LINE = re.compile(r"^\s+Link (\d+): ([0-9.]+) GB/s")
# CUDA release and the oldest driver that runs it (minor versions are compatible).
_DRIVERS = ((13, 580), (12, 525), (11, 450))


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU."""

    index: int
    name: str
    driver: str
    memory_mib: int | None


def run(*arguments: str, seconds: float = 20.0) -> tuple[int, str] | None:
    """Return exit code and output of nvidia-smi; None if it is missing or cannot be run."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    try:
        ran = subprocess.run(
            [program, *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return 1, f"nvidia-smi gave no answer within {seconds:.0f} s"
    except OSError:
        return None
    return ran.returncode, ran.stdout or ran.stderr


def parse_gpus(text: str) -> list[Gpu]:
    """Return the GPUs in the output of ``--query-gpu=... --format=csv``, by column names."""
    rows = list(csv.reader(text.splitlines(), skipinitialspace=True))
    if not rows:
        return []
    names = [name.partition(" [")[0].strip() for name in rows[0]]
    if not set(QUERY) <= set(names):
        return []
    gpus = []
    for row in rows[1:]:
        if len(row) != len(names):
            continue
        cell = dict(zip(names, (value.strip() for value in row), strict=True))
        memory = re.match(r"(\d+) MiB", cell["memory.total"])
        if cell["index"].isdigit():
            mib = int(memory[1]) if memory else None
            gpus.append(Gpu(int(cell["index"]), cell["name"], cell["driver_version"], mib))
    return gpus


def parse_topology(text: str) -> dict[tuple[int, int], str]:
    """Return the link of each pair of GPUs (``NV12``, ``PIX``, ``SYS``, …), from ``topo -m``."""
    lines = _COLOUR.sub("", text).splitlines()
    head = next((line.split() for line in lines if line.split()[:1] == ["GPU0"]), [])
    columns = [int(name[3:]) for name in head if re.fullmatch(r"GPU\d+", name)]
    joined = {}
    for line in lines:
        words = line.split()
        if not words or not re.fullmatch(r"GPU\d+", words[0]) or words == head:
            continue
        row = int(words[0][3:])
        for column, how in zip(columns, words[1:], strict=False):
            if row < column:
                joined[row, column] = how
    return joined


def parse_links(text: str) -> dict[int, tuple[float, ...]]:
    """Return GB/s of each active NVLink of each GPU, in one direction, from ``nvlink -s``."""
    speeds: dict[int, tuple[float, ...]] = {}
    gpu = None
    for line in text.splitlines():
        if found := _GPU_LINE.match(line):
            gpu = int(found[1])
            speeds[gpu] = ()
        elif gpu is not None and (found := _LINK_LINE.match(line)):
            speeds[gpu] += (float(found[2]),)
    return speeds


def cuda_of_driver(driver: str) -> int | None:
    """Return the newest CUDA major version that a driver runs; None if the driver is too old."""
    major = driver.partition(".")[0]
    if not major.isdigit():
        return None
    return next((cuda for cuda, least in _DRIVERS if int(major) >= least), None)


def driver_for(cuda: int) -> int | None:
    """Return the oldest driver, by its major version, for a CUDA major version."""
    return dict(_DRIVERS).get(cuda)
