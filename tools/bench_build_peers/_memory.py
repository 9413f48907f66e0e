"""Measures the memory of imgprep by the number of jobs: while workers build, and in the last stage.

It samples the sum of the proportional set sizes of all processes. The last stage runs in the parent
alone, and most of its memory is scikit-learn's.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

from _measure import SAMPLE_SECONDS, session_pids, tree_pss_bytes
from _registry import IMGPREP

JOBS = (1, 2, 4, 8)
MIB = 2**20


def peaks_mib(source: Path, out: Path, jobs: int) -> tuple[float, float]:
    """Return the largest sum while workers run and after they ended, in MiB."""
    shutil.rmtree(out, ignore_errors=True)
    program = str(IMGPREP.folder / "bin" / "imgprep")
    command = [program, "build-shards", str(source), str(out), "--quiet", "--jobs", str(jobs)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    building = after = 0
    while process.poll() is None:
        with_workers = len(session_pids(process.pid)) > jobs
        total = tree_pss_bytes(process.pid)
        if with_workers:
            building, after = max(building, total), 0
        else:
            after = max(after, total)
        time.sleep(SAMPLE_SECONDS)
    shutil.rmtree(out, ignore_errors=True)
    if process.returncode != 0:
        sys.exit(f"bench_build: {' '.join(command)} ended with exit code {process.returncode}")
    return building / MIB, after / MIB


def memory_table(source: Path, work: Path) -> str:
    """Return a markdown table with one row per number of jobs."""
    rows = ["| jobs | while building, MiB | in the last stage, MiB |", "|---|---|---|"]
    for jobs in JOBS:
        building, after = peaks_mib(source, work / "out", jobs)
        rows.append(f"| {jobs} | {building:.0f} | {after:.0f} |")
    return "\n".join(rows) + "\n"
