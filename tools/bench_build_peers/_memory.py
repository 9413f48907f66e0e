"""Memory of imgprep by the number of jobs: while workers build, and in the last stage after them.

Proportional set sizes of all processes, summed and sampled. The last stage is the parent alone, and
most of what it takes is scikit-learn.
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
    """Return the largest sum while there were workers, and after them, in MiB."""
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
        sys.exit(f"bench_build: {' '.join(command)} ended with {process.returncode}")
    return building / MIB, after / MIB


def memory_table(source: Path, work: Path) -> str:
    """Return a markdown table, a row for each number of jobs."""
    rows = ["| jobs | while building, MiB | in the last stage, MiB |", "|---|---|---|"]
    for jobs in JOBS:
        building, after = peaks_mib(source, work / "out", jobs)
        rows.append(f"| {jobs} | {building:.0f} | {after:.0f} |")
    return "\n".join(rows) + "\n"
