#!/usr/bin/env python3
"""Images per second of a training step, compared in pairs with other implementations.

    .venv/bin/python tools/bench_step.py [--batch N] [--rounds N] [--only NAME]... [--json FILE]
    .venv/bin/python tools/bench_step.py --device cuda [--rounds N] [--only NAME]... [--json FILE]

On the CPU each comparison runs two processes that make one step in turn, ``--rounds`` times after
some warm-up steps. Its figure is the median of the ratios of neighbouring steps, so that other load
on the machine affects both. A step is forward, backward and update; its input is noise. At batch
128 two processes need up to 10 GB. ``layers`` times each part of the step alone.

On a GPU both sides take turns in one process (see ``bench_step_peers/pairs.py``). ``--rehearse``
makes those comparisons on the CPU with narrow nets, to test the program and not the speed.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench_step_peers.steps import Seconds, layer_times, lrn_step, net_step

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

COMPARISONS = {
    "stock-lrn": ("paper", "stock-out-of-the-box", 1.8),
    "no-lrn": ("paper", "no-lrn", 0.90),
    "source-no-lrn": ("source", "source-no-lrn", None),
    "lrn-alone": ("lrn", "lrn-stock", 4.0),
    "columns": ("columns", "paper", 0.95),
    "torchvision": ("paper", "torchvision", None),
}
"""Ours, the other, and the required ratio of speeds (ours / the other)."""


def work(variant: str, batch: int, threads: int | None) -> None:
    """Run a worker: for each line on stdin make a step and print its seconds as JSON."""
    from train.net.memory import keep_pages

    if variant != "stock-out-of-the-box":
        keep_pages()
    import torch

    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(0)
    step = (lrn_step if variant.startswith("lrn") else net_step)(variant, batch)
    for _ in sys.stdin:
        print(json.dumps(step()), flush=True)


class Worker:
    """A process that makes steps of one variant when asked."""

    def __init__(self, variant: str, options: argparse.Namespace) -> None:
        command = [sys.executable, __file__, "--work", variant, "--batch", str(options.batch)]
        if options.threads:
            command += ["--threads", str(options.threads)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.steps: list[Seconds] = []

    def step(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print("step", file=self.process.stdin, flush=True)
        self.steps.append(json.loads(self.process.stdout.readline()))

    def close(self) -> None:
        self.process.communicate(timeout=60)


def compare(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Make steps of both sides in turn; return their medians and the median of the ratios."""
    ours, other, target = COMPARISONS[name]
    workers = [Worker(ours, options), Worker(other, options)]
    warm = 10 if ours == "lrn" else 2  # until the allocator reuses its memory
    for _ in range(options.rounds + warm):
        for worker in workers:
            worker.step()
    for worker in workers:
        worker.close()
    kept = [worker.steps[warm:] for worker in workers]
    ratios = [sum(b.values()) / sum(a.values()) for a, b in zip(*kept, strict=True)]
    sides = {}
    for variant, steps in zip((ours, other), kept, strict=True):
        whole = statistics.median(sum(step.values()) for step in steps)
        phases = {phase: statistics.median(step[phase] for step in steps) for phase in steps[0]}
        sides[variant] = {"images_per_s": options.batch / whole, "seconds": phases}
    return {
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "target": target,
        "sides": sides,
    }


def show(name: str, found: dict[str, Any]) -> None:
    (ours, a), (other, b) = found["sides"].items()
    required = f", required {found['target']:.2f}" if found["target"] else ""
    low, high = min(found["ratios"]), max(found["ratios"])
    print(f"{name}: {ours} / {other} = {found['ratio']:.2f} ({low:.2f} to {high:.2f}{required})")
    for variant, side in ((ours, a), (other, b)):
        parts = ", ".join(
            f"{phase} {value * 1e3:.0f} ms" for phase, value in side["seconds"].items()
        )
        print(f"    {variant:<22}{side['images_per_s']:8.1f} images/s  ({parts})", flush=True)


def show_layers(times: dict[str, Seconds], batch: int) -> None:
    print(f"{'part':<18}{'forward ms':>12}{'backward ms':>12}{'images/s':>12}")
    for name, part in times.items():
        whole = sum(part.values())
        print(
            f"{name:<18}{part['forward'] * 1e3:>12.1f}{part['backward'] * 1e3:>12.1f}"
            f"{batch / whole:>12.0f}"
        )


def machine() -> dict[str, Any]:
    import torch

    return {
        "processors": len(os.sched_getaffinity(0)),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "simd": torch.backends.cpu.get_cpu_capability(),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--only", action="append", metavar="NAME")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.work:
        work(options.work, options.batch, options.threads)
        return
    if options.device == "cuda" or options.rehearse:
        report = in_one_process(options)
    else:
        report = on_the_cpu(options)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n", "utf-8")


def in_one_process(options: argparse.Namespace) -> dict[str, Any]:
    """Make the comparisons for a GPU; on a CPU only to rehearse them."""
    from bench_step_peers import pairs

    scale = pairs.Scale(device=options.device, rounds=options.rounds)
    if options.rehearse:
        scale = pairs.REHEARSAL
        print("rehearsal: these figures say nothing about speed")
    report: dict[str, Any] = {"device": options.device, "rehearsed": options.rehearse}
    for comparison in pairs.COMPARISONS:
        if options.only and comparison.name not in options.only:
            continue
        if options.rehearse:  # a CPU may have no instructions for the other number types
            comparison = dataclasses.replace(comparison, precision="float32")
        found = pairs.compare(comparison, scale)
        pairs.show(found)
        report[found.name] = {**dataclasses.asdict(found), "met": found.is_met}
    return report


def on_the_cpu(options: argparse.Namespace) -> dict[str, Any]:
    """Make the comparisons for a CPU, each side in a process of its own."""
    from train.net.memory import keep_pages

    keep_pages()
    report: dict[str, Any] = {"batch": options.batch, "rounds": options.rounds}
    report["machine"] = machine()
    for name in options.only or [*COMPARISONS, "layers"]:
        if name == "layers":
            report[name] = layer_times(options.batch, options.rounds)
            show_layers(report[name], options.batch)
        else:
            report[name] = compare(name, options)
            show(name, report[name])
    return report


if __name__ == "__main__":
    main()
