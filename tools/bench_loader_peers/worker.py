"""Runs one loader in its own process: ``worker.py LOADER DATASET FOLDER BATCH``.

Each line on stdin is the number of seconds to measure; the answer is a line of JSON. Workers of a
loader count in its CPU time, because they are its children and have ended by then, or are read from
/proc.
"""

# mypy: ignore-errors
from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

os.environ["CUDA_VISIBLE_DEVICES"] = ""
WARM_BATCHES = 6
"""Before the clock starts: these were computed while nothing was timed."""


def cpu_seconds() -> float:
    """CPU seconds of this process and its descendants that live."""
    ticks, parents = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        pid = int(stat.parent.name)
        parents[pid], ticks[pid] = int(fields[1]), int(fields[11]) + int(fields[12])

    def is_ours(pid: int) -> bool:
        while pid in parents and pid != os.getpid():
            pid = parents[pid]
        return pid == os.getpid()

    return sum(t for pid, t in ticks.items() if is_ours(pid)) / os.sysconf("SC_CLK_TCK")


def measure(batches, seconds: float) -> dict[str, float]:
    for _ in range(WARM_BATCHES):
        next(batches)
    images, start, cpu = 0, time.perf_counter(), cpu_seconds()
    while time.perf_counter() - start < seconds:
        images += next(batches)
    spent, used = time.perf_counter() - start, cpu_seconds() - cpu
    return {"images_per_second": images / spent, "cpu_ms_per_image": 1000 * used / images}


def main() -> None:
    name, dataset, folder, batch = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # so that what a library prints is not taken for an answer
    sys.path.append(str(Path(__file__).resolve().parents[1]))  # of the other benches
    from loaders import LOADERS

    batches = LOADERS[name](Path(dataset), Path(folder), int(batch))
    next(batches)
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        found = measure(batches, float(line))
        time.sleep(1)  # the workers fill their queues; then the next loader's turn begins
        print(json.dumps(found), file=answers, flush=True)
    os._exit(0)  # some loaders have threads or workers that end slowly


if __name__ == "__main__":
    main()
