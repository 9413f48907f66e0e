"""Run one contestant in its own process: measure when asked, and wait in between.

    python worker.py LOADER DATASET PRESET BATCH DEVICE

Each line on stdin is the number of seconds to measure; the answer is a line of JSON.
"""

# ruff: noqa: E402
from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).resolve().parents[n]) for n in (1, 2)]

from bench_input_peers.loaders import LOADERS, Epochs, Task

SKIPPED_BATCHES = 4
"""At the start of an epoch: these were prefetched while nothing was timed."""
REST_SECONDS = 1.0


def _finish(device: str) -> None:
    """Wait for a GPU to do its work."""
    if device == "cuda":
        torch.cuda.synchronize()


def measure(epochs: Epochs, seconds: float, device: str) -> float:
    """Return images per second over as many epochs as needed, without their first batches."""
    images, spent = 0, 0.0
    while spent < seconds:
        epoch = next(epochs)
        for _ in range(SKIPPED_BATCHES):
            next(epoch)
        _finish(device)
        start = time.perf_counter()
        for n in epoch:
            images += n
        _finish(device)
        spent += time.perf_counter() - start
    return images / spent


def main() -> None:
    loader, dataset, preset, batch, device = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # so that what a library prints is not taken for an answer
    epochs = LOADERS[loader](Task(Path(dataset), preset, int(batch), device))
    measure(epochs, 0.1, device)
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        rate = measure(epochs, float(line), device)
        time.sleep(REST_SECONDS)  # lets the prefetch finish before the next contestant's turn
        print(json.dumps({"images_per_second": rate}), file=answers, flush=True)
    os._exit(0)  # some loaders have threads or workers that end slowly


if __name__ == "__main__":
    main()
