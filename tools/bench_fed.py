#!/usr/bin/env python3
"""Speed of the training step fed by DALI, compared with the same step on one batch in memory.

    .venv/bin/python tools/bench_fed.py DATASET [--batch N] [--steps N] [--rounds N] [--json FILE]

Blocks of ``--steps`` updates, fed and not fed, take turns in one process; the figure is the median
of the ratios of neighbouring blocks. It also times a checkpoint, including the write to disk.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

SAVE_EVERY = 100
"""Updates between two checkpoints, to give the cost of checkpoints as a share of the time."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--batch", type=int, default=128, metavar="N")
    parser.add_argument("--steps", type=int, default=4, metavar="N", help="updates per block")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="pairs of blocks")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    found = measure(arguments.dataset, arguments.batch, arguments.steps, arguments.rounds)
    print(f"fed / not fed     {found['ratio']:.3f}  ({found['images_per_s']:.1f} img/s fed)")
    print(f"wait for input    {found['wait_share']:.2%} of a fed step")
    print(
        f"checkpoint        {found['save_s']:.2f} s: with one every {SAVE_EVERY} updates the speed "
        f"is {found['save_ratio']:.3f} of that without"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


def measure(dataset: Path, batch_images: int, steps: int, rounds: int) -> dict[str, Any]:
    """Return the ratio of speeds fed / not fed, the share of waiting, and a checkpoint's cost."""
    from train.net.memory import keep_pages

    keep_pages()
    import torch

    from train.feed.dataset import open_dataset
    from train.feed.loader import Share, TrainLoader
    from train.net import build_net
    from train.optim import schedule
    from train.optim.sgd import Sgd
    from train.presets import preset
    from train.run.step import Stepper
    from train.world import World

    config = preset("source-2012")
    data, cpu = open_dataset(dataset), torch.device("cpu")
    net = build_net(config.net, classes=data.classes, devices=(cpu,), columns=False, seed=0)
    sgd = Sgd(net, config.optim)
    stepper = Stepper(net, sgd, config, World())
    rates = schedule.rate(config.optim, schedule.start(config.optim), 0.0)
    loader = TrainLoader(
        data, config.input, Share(0, 1), batch_images=batch_images, seed=0, device=cpu
    )
    blocks = Blocks(
        lambda batch, step: stepper(batch, rates, global_step=step),
        full_batches(loader, batch_images),
        steps,
    )
    pairs = blocks.pairs(rounds)
    loader.close()
    fed_s = sum(fed for fed, _ in pairs)
    save_s = _save_seconds(net, sgd, config, batch_images)
    step_s = fed_s / steps / rounds
    return {
        "batch": batch_images,
        "ratio": statistics.median(still_s / fed for fed, still_s in pairs),
        "ratios": [still_s / fed for fed, still_s in pairs],
        "images_per_s": batch_images / step_s,
        "wait_share": blocks.wait_s / fed_s,
        "save_s": save_s,
        "save_ratio": SAVE_EVERY * step_s / (SAVE_EVERY * step_s + save_s),
    }


def full_batches(loader: Any, batch_images: int) -> Iterator[Any]:
    """Yield the full batches of epoch after epoch, without end."""
    for epoch in itertools.count():
        yield from (batch for batch in loader.epoch(epoch) if len(batch.labels_n) == batch_images)


class Blocks:
    """Times blocks of updates: on new batches (fed), or on one batch in memory."""

    def __init__(
        self, step: Callable[[Any, int], object], batches: Iterator[Any], steps: int
    ) -> None:
        self._step, self._batches, self._steps = step, batches, steps
        self._still = next(batches)
        self.wait_s = 0.0
        """Seconds spent waiting for batches."""

    def pairs(self, rounds: int) -> list[tuple[float, float]]:
        """Return the seconds of each pair of blocks, fed and not fed, after one to warm up."""
        self._block(fed=True)
        self.wait_s, pairs = 0.0, []
        for number in range(rounds):
            times = {
                fed: self._block(fed) for fed in ((True, False) if number % 2 else (False, True))
            }
            pairs.append((times[True], times[False]))
        return pairs

    def _block(self, fed: bool) -> float:
        started = time.perf_counter()
        for step in range(self._steps):
            asked = time.perf_counter()
            batch = next(self._batches) if fed else self._still
            self.wait_s += time.perf_counter() - asked
            self._step(batch, step)
        return time.perf_counter() - started


def _save_seconds(net: Any, sgd: Any, config: Any, batch_images: int) -> float:
    from train.optim import schedule
    from train.saved import checkpoint as checkpoints

    times = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(3):
            started = time.perf_counter()
            state = checkpoints.Checkpoint(
                model=net.canonical_state(),
                velocities=net.canonical(sgd.velocities()),
                schedule=schedule.start(config.optim).to_json(),
                position=checkpoints.Position(),
                seeds={"run": 0},
                config=dataclasses.asdict(config),
                dataset_fingerprint="",
                label_order_sha256="",
                classes=net.layout.layers["fc8"].outputs,
                world=checkpoints.BatchSplit(1, batch_images, 1),
            )
            checkpoints.save(Path(folder), state, keep=1)
            times.append(time.perf_counter() - started)
    return statistics.median(times)


if __name__ == "__main__":
    main()
