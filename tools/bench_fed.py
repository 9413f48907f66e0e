#!/usr/bin/env python3
"""Speed of the training step fed by DALI, compared with the same step on one batch in memory.

    .venv/bin/python tools/bench_fed.py DATASET [--device cuda] [--batch N] [--steps N]
        [--rounds N] [--set net.width_divisor=8] [--json FILE]

Blocks of ``--steps`` updates, fed and not fed, take turns in one process; the figure is the median
of the ratios of neighbouring blocks. It also compares the first updates of a later epoch with those
after them, and measures what a checkpoint costs: how long the step stands still, and how much later
updates end beside which a thread writes it.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
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

CHECKPOINTS = 3
"""Checkpoints without updates beside them, and as many with."""

FIRST_STEPS = 10
"""Updates at the beginning of an epoch that are compared with the ones after them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FedBench:
    """What to measure, and how long."""

    dataset: Path
    device: str = "cpu"
    """``cpu`` or ``cuda``."""
    preset: str = "source-2012"
    assignments: tuple[str, ...] = ()
    """Settings that override the preset, such as ``net.width_divisor=8``."""
    batch_images: int = 128
    steps: int = 4
    """Updates of a block."""
    rounds: int = 5
    """Pairs of blocks."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointCost:
    """Seconds of a checkpoint."""

    stall_s: float
    """While the step stands still, at most; the first checkpoint of a run included."""
    write_s: float
    """From the beginning until it is on disk, without updates beside it: median."""
    lost_s: float
    """By which updates end later when the checkpoint is written beside them: median."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FedFigures:
    """The speed of a fed step."""

    batch: int
    device: str
    ratio: float
    """Speed fed / not fed: median over the pairs."""
    ratios: list[float]
    images_per_s: float
    """Fed."""
    wait_share: float
    """Share of a fed step in which it waits for its batch."""
    first_steps_ratio: float
    """Speed of the first updates of a later epoch / of the updates after them."""
    checkpoint: CheckpointCost
    save_ratio: float
    """Speed with a checkpoint every ``SAVE_EVERY`` updates / without."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--preset", default="source-2012", metavar="NAME")
    parser.add_argument("--set", action="append", default=[], metavar="SETTING=VALUE")
    parser.add_argument("--batch", type=int, default=128, metavar="N")
    parser.add_argument("--steps", type=int, default=4, metavar="N", help="updates per block")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="pairs of blocks")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    found = measure(
        FedBench(
            dataset=options.dataset,
            device=options.device,
            preset=options.preset,
            assignments=tuple(options.set),
            batch_images=options.batch,
            steps=options.steps,
            rounds=options.rounds,
        )
    )
    print(f"fed / not fed     {found.ratio:.3f}  ({found.images_per_s:.1f} img/s fed)")
    print(f"wait for input    {found.wait_share:.2%} of a fed step")
    print(f"first steps       {found.first_steps_ratio:.3f} of the speed of those after them")
    cost = found.checkpoint
    print(
        f"checkpoint        the step stands still for {cost.stall_s:.2f} s at most; on disk after "
        f"{cost.write_s:.2f} s; training loses {cost.lost_s:.2f} s: with one every {SAVE_EVERY} "
        f"updates its speed is {found.save_ratio:.3f} of that without"
    )
    if options.json:
        options.json.write_text(json.dumps(dataclasses.asdict(found), indent=2) + "\n")


def measure(bench: FedBench) -> FedFigures:
    """Measure in this process; on a GPU a block ends when the GPU has done its work."""
    from train.net.memory import keep_pages

    keep_pages()
    import torch

    from train.feed.dataset import open_dataset
    from train.feed.loader import Share, TrainLoader
    from train.net import build_net
    from train.optim import schedule
    from train.optim.sgd import Sgd
    from train.run.step import Stepper
    from train.settings import from_assignments, merge, resolve
    from train.world import World

    size = bench.batch_images
    batch = {"optim": {"batch_images": size}}
    config = resolve(bench.preset, {}, merge(from_assignments(bench.assignments), batch))
    data = open_dataset(bench.dataset)
    device = torch.device("cuda", 0) if bench.device == "cuda" else torch.device("cpu")
    finish = torch.cuda.synchronize if bench.device == "cuda" else _nothing
    net = build_net(config.net, classes=data.classes, devices=(device,), columns=False, seed=0)
    sgd = Sgd(net, config.optim)
    stepper = Stepper(net, sgd, config, World())
    rates = schedule.rate(config.optim, schedule.start(config.optim), 0.0)
    loader = TrainLoader(data, config.input, Share(0, 1), batch_images=size, seed=0, device=device)

    def step(batch: Any, number: int) -> None:
        stepper(batch, rates, global_step=number)

    blocks = Blocks(step, full_batches(loader, size), bench.steps, finish)
    pairs = blocks.pairs(bench.rounds)
    first_ratio = first_steps_ratio(step, loader, finish)
    loader.close()
    fed_s = sum(fed for fed, _ in pairs)
    step_s = fed_s / bench.steps / bench.rounds
    cost = checkpoint_cost(net, sgd, config, blocks.again, step_s)
    return FedFigures(
        batch=size,
        device=bench.device,
        ratio=statistics.median(still_s / fed for fed, still_s in pairs),
        ratios=[still_s / fed for fed, still_s in pairs],
        images_per_s=size / step_s,
        wait_share=blocks.wait_s / fed_s,
        first_steps_ratio=first_ratio,
        checkpoint=cost,
        save_ratio=SAVE_EVERY * step_s / (SAVE_EVERY * step_s + cost.lost_s),
    )


def first_steps_ratio(
    step: Callable[[Any, int], object], loader: Any, finish: Callable[[], object]
) -> float:
    """Return the speed of the first updates of epoch 1 over that of as many after them.

    Only the end of epoch 0 is trained before. Of a short epoch the first half is compared.
    """
    count = max(1, min(FIRST_STEPS, (loader.steps_per_epoch - 1) // 2))
    for batch in loader.epoch(0, max(0, loader.steps_per_epoch - 3)):
        step(batch, 0)
    finish()
    marks = [time.perf_counter()]
    for number, batch in enumerate(itertools.islice(loader.epoch(1), 2 * count), 1):
        step(batch, number)
        if number % count == 0:
            finish()
            marks.append(time.perf_counter())
    return (marks[2] - marks[1]) / (marks[1] - marks[0])


def _nothing() -> None:
    """On a CPU an update is done when it returns."""


def full_batches(loader: Any, batch_images: int) -> Iterator[Any]:
    """Yield the full batches of epoch after epoch, without end."""
    for epoch in itertools.count():
        yield from (batch for batch in loader.epoch(epoch) if len(batch.labels_n) == batch_images)


class Blocks:
    """Times blocks of updates: on new batches (fed), or on one batch in memory."""

    def __init__(
        self,
        step: Callable[[Any, int], object],
        batches: Iterator[Any],
        steps: int,
        finish: Callable[[], object],
    ) -> None:
        self._step, self._batches, self._steps, self._finish = step, batches, steps, finish
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

    def again(self, updates: int) -> None:
        """Make updates on the batch in memory, and wait for the device."""
        for number in range(updates):
            self._step(self._still, number)
        self._finish()

    def _block(self, fed: bool) -> float:
        started = time.perf_counter()
        for step in range(self._steps):
            asked = time.perf_counter()
            batch = next(self._batches) if fed else self._still
            self.wait_s += time.perf_counter() - asked
            self._step(batch, step)
        self._finish()
        return time.perf_counter() - started


def checkpoint_cost(
    net: Any, sgd: Any, config: Any, updates: Callable[[int], None], step_s: float
) -> CheckpointCost:
    """Measure checkpoints that are saved as a run saves them, to a temporary folder."""
    from train.run.saving import SaveAs, Saver

    stalls, writes, lost = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        saver = Saver(Path(folder), net, sgd)

        def save() -> None:
            started = time.perf_counter()
            saver.save(_checkpoint(net, config, *saver.take()), SaveAs(keep=1))
            stalls.append(time.perf_counter() - started)

        for _ in range(CHECKPOINTS):
            started = time.perf_counter()
            save()
            saver.wait()
            writes.append(time.perf_counter() - started)
        count = math.ceil(2 * statistics.median(writes) / step_s)
        for _ in range(CHECKPOINTS):
            marks = [time.perf_counter()]
            updates(count)
            marks.append(time.perf_counter())
            save()
            updates(count)
            marks.append(time.perf_counter())
            lost.append(marks[2] - marks[1] - (marks[1] - marks[0]))
            saver.wait()
    return CheckpointCost(
        stall_s=max(stalls), write_s=statistics.median(writes), lost_s=statistics.median(lost)
    )


def _checkpoint(net: Any, config: Any, weights: Any, velocities: Any) -> Any:
    from train.optim import schedule
    from train.saved.checkpoint import BatchSplit, Checkpoint, Position

    return Checkpoint(
        model=weights,
        velocities=velocities,
        schedule=schedule.start(config.optim).to_json(),
        position=Position(),
        seeds={"run": 0},
        config=dataclasses.asdict(config),
        dataset_fingerprint="",
        label_order_sha256="",
        classes=net.layout.layers["fc8"].outputs,
        world=BatchSplit(1, config.optim.batch_images, 1),
    )


if __name__ == "__main__":
    main()
