#!/usr/bin/env python3
"""Images per second of the training input, compared with others that give the same tensors.

    .venv/bin/python tools/bench_input.py DATASET [--device cuda] [--rounds N] [--json FILE]
    .venv/bin/python tools/bench_input.py DATASET --python-time

Each contestant runs in its own process with two threads or two workers (on a GPU with as many as
the trainer takes), and waits while another
is measured. A round measures each contestant once, in turn. A ratio is the median over the rounds
of the ratio within a round, so that a change in the machine's speed affects both sides.
``--python-time`` counts instead what the feeding thread does for a batch, because it shares the
interpreter with the training step.

    ours               the trainer: shards to tensors in one DALI graph
    dali-alone         DALI's own reader, decoder and crop_mirror_normalize
    torch-pillow       torch DataLoader, decoding by pillow-simd
    torch-simplejpeg   torch DataLoader, decoding by simplejpeg
    webdataset-pillow  the webdataset package
    decode-alone       simplejpeg and nothing else: the upper bound
    graph, graph-*     parts of ours, on records in memory: show where the time goes
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import platform
import statistics
import sys
import threading
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from measuring_process import MeasuringProcess

PEERS = Path(__file__).resolve().parent / "bench_input_peers"
CONTESTANTS = {
    "paper": [
        "decode-alone",
        "dali-alone",
        "graph-decode",
        "graph-to-flip",
        "graph-to-mean",
        "graph",
        "ours",
        "torch-pillow",
        "torch-simplejpeg",
        "webdataset-pillow",
    ],
    "source": ["decode-alone", "ours", "torch-pillow", "webdataset-pillow"],
}
GPU_CONTESTANTS = {
    "paper": ["dali-alone", "ours", "torch-simplejpeg"],
    "source": ["dali-alone", "ours"],
}
TARGETS = {"torch-pillow": 2.0, "decode-alone": 0.45}
"""Required ratio of ours to each."""
GPU_TARGETS = {"dali-alone": 0.9}
PYTHON_TIME_BATCHES = (128, 512)


@dataclasses.dataclass(frozen=True, kw_only=True)
class InputBench:
    """What to measure, and how long."""

    dataset: Path
    device: str = "cpu"
    """``cpu`` or ``cuda``."""
    batch_images: int = 128
    rounds: int = 5
    seconds: float = 2.0
    """Of each contestant in a round."""
    only: tuple[str, ...] = ()
    """Contestants to measure; all if empty."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class InputFigures:
    """The speed of a contestant."""

    preset: str
    name: str
    images_per_second: list[float]
    """In each round."""
    ratios: list[float]
    """Ours over it, in each round."""
    target: float | None

    @property
    def median(self) -> float:
        """Median images per second."""
        return statistics.median(self.images_per_second)

    @property
    def ratio(self) -> float:
        """Median of the ratios."""
        return statistics.median(self.ratios)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PythonTime:
    """What the feeding thread does for a batch."""

    batch_images: int
    microseconds: float
    """Processor time of the thread, with the copying of the records."""
    calls: float
    """Calls of Python functions and of functions in C."""


class Contestant:
    """An input in its own process, and what it measured."""

    def __init__(self, loader: str, bench: InputBench, preset: str) -> None:
        self.name, self.rates = loader, list[float]()
        place = (loader, bench.dataset, preset, bench.batch_images, bench.device)
        try:
            self._process = MeasuringProcess(loader, (sys.executable, PEERS / "worker.py", *place))
        except RuntimeError as exc:
            raise SystemExit(str(exc)) from exc
        self.close = self._process.close

    def measure(self, seconds: float) -> None:
        try:
            self.rates.append(self._process.measure(seconds)["images_per_second"])
        except RuntimeError as exc:
            raise SystemExit(str(exc)) from exc


def measure(bench: InputBench, preset: str) -> list[InputFigures]:
    """Measure all contestants of a preset, round by round."""
    on_gpu = bench.device == "cuda"
    names = (GPU_CONTESTANTS if on_gpu else CONTESTANTS)[preset]
    contestants = [
        Contestant(name, bench, preset) for name in names if not bench.only or name in bench.only
    ]
    for _ in range(bench.rounds):
        for contestant in contestants:
            contestant.measure(bench.seconds)
    for contestant in contestants:
        contestant.close()
    rates = {contestant.name: contestant.rates for contestant in contestants}
    targets = GPU_TARGETS if on_gpu else TARGETS
    return [
        InputFigures(
            preset=preset,
            name=name,
            images_per_second=values,
            ratios=[a / b for a, b in zip(rates.get("ours", values), values, strict=True)],
            target=targets.get(name),
        )
        for name, values in rates.items()
    ]


def python_time(dataset: Path, batch_images: int, epochs: int = 2) -> PythonTime:
    """Measure the feeding thread on a CPU: first its time, then, in other epochs, its calls."""
    sys.path.insert(0, str(PEERS.parent.parent))
    import torch

    from train.config import InputConfig
    from train.feed.dataset import open_dataset
    from train.feed.loader import Share, TrainLoader

    data = open_dataset(dataset)

    def cpu_seconds() -> tuple[float, int]:
        """Of some epochs, and the batches in them."""
        loader = TrainLoader(
            data,
            InputConfig(threads=2),
            Share(0, 1),
            batch_images=batch_images,
            seed=0,
            device=torch.device("cpu"),
        )
        for epoch in range(epochs):
            for _ in loader.epoch(epoch):
                pass
        loader.close()
        return loader.counters.cpu_seconds, loader.counters.batches

    calls = 0

    def count(_: object, event: str, __: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    cpu_seconds()  # to warm up
    seconds, batches = cpu_seconds()
    threading.setprofile(count)
    try:
        cpu_seconds()
    finally:
        threading.setprofile(None)
    return PythonTime(
        batch_images=batch_images, microseconds=seconds / batches * 1e6, calls=calls / batches
    )


def report(preset: str, figures: list[InputFigures]) -> dict[str, object]:
    """Print the table of a preset; return the same as JSON values."""
    print(f"\n{preset:<20}{'img/s':>8}   ours / it (min to max)   target")
    rows: dict[str, object] = {}
    for each in figures:
        rows[each.name] = {
            "images_per_second": each.images_per_second,
            "median": each.median,
            "ours_over_it": each.ratio,
            "target": each.target,
        }
        met = "met" if each.target is None or each.ratio >= each.target else "MISSED"
        verdict = "" if each.target is None else f">= {each.target} {met}"
        print(
            f"{each.name:<20}{each.median:>8.0f}   {each.ratio:5.2f} "
            f"({min(each.ratios):.2f} to {max(each.ratios):.2f})         {verdict}"
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--python-time", action="store_true", help="count the feeder's Python")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="per contestant and round")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--preset", choices=list(CONTESTANTS), action="append")
    parser.add_argument("--only", action="append", help="measure this contestant; may be repeated")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    result: dict[str, object] = {
        "cpus": len(os.sched_getaffinity(0)),
        "machine": platform.processor() or platform.machine(),
        "versions": _versions(),
        "batch": options.batch,
        "device": options.device,
    }
    if options.python_time:
        found = [python_time(options.dataset, size) for size in PYTHON_TIME_BATCHES]
        for each in found:
            print(
                f"batch {each.batch_images:<6}{each.microseconds:>8.0f} microseconds"
                f"{each.calls:>8.0f} calls a batch"
            )
        result["python_time"] = [dataclasses.asdict(each) for each in found]
    else:
        bench = InputBench(
            dataset=options.dataset,
            device=options.device,
            batch_images=options.batch,
            rounds=options.rounds,
            seconds=options.seconds,
            only=tuple(options.only or ()),
        )
        for preset in options.preset or CONTESTANTS:
            result[preset] = report(preset, measure(bench, preset))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


def _versions() -> dict[str, str]:
    """The versions of the packages that matter, as far as they are installed."""
    found = {}
    dali = ("nvidia-dali-cuda120", "nvidia-dali-cuda130")
    for name in (*dali, "torch", "numpy", "pillow-simd", "simplejpeg", "webdataset"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


if __name__ == "__main__":
    main()
