#!/usr/bin/env python3
"""Images per second of the training input, compared with others that give the same tensors.

    .venv/bin/python tools/bench_input.py DATASET [--rounds N] [--json FILE]

Each contestant runs in its own process with two threads or two workers, and waits while another
is measured. A round measures each contestant once, in turn. A ratio is the median over the rounds
of the ratio within a round, so that a change in the machine's speed affects both sides.

    ours               the trainer: shards to tensors in one DALI graph
    torch-pillow       torch DataLoader, decoding by pillow-simd
    torch-simplejpeg   torch DataLoader, decoding by simplejpeg
    webdataset-pillow  the webdataset package
    decode-alone       simplejpeg and nothing else: the upper bound
    graph, graph-*     parts of ours, on records in memory: show where the time goes
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

PEERS = Path(__file__).resolve().parent / "bench_input_peers"
CONTESTANTS = {
    "paper": [
        "decode-alone",
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
TARGETS = {"torch-pillow": 2.0, "decode-alone": 0.45}
"""Required ratio of ours to each."""


class Contestant:
    """A process that measures itself when asked."""

    def __init__(self, loader: str, options: argparse.Namespace, preset: str) -> None:
        self.name, self.rates = loader, list[float]()
        self._process = subprocess.Popen(
            [
                *(sys.executable, str(PEERS / "worker.py"), loader, str(options.dataset)),
                *(preset, str(options.batch)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()

    def measure(self, seconds: float) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()
        self.rates.append(json.loads(self._answer())["images_per_second"])

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} failed with code {self._process.wait()}")
        return line


def run_preset(preset: str, options: argparse.Namespace) -> dict[str, list[float]]:
    """Measure all contestants of a preset; return their rates, round by round."""
    names = [n for n in CONTESTANTS[preset] if not options.only or n in options.only]
    contestants = [Contestant(name, options, preset) for name in names]
    for _ in range(options.rounds):
        for contestant in contestants:
            contestant.measure(options.seconds)
    for contestant in contestants:
        contestant.close()
    return {contestant.name: contestant.rates for contestant in contestants}


def report(preset: str, rates: dict[str, list[float]]) -> dict[str, dict[str, object]]:
    """Print the table of a preset; return the same as JSON values."""
    print(f"\n{preset:<20}{'img/s':>8}   ours / it (min to max)   target")
    rows: dict[str, dict[str, object]] = {}
    for name, values in rates.items():
        ratios = [a / b for a, b in zip(rates.get("ours", values), values, strict=True)]
        ratio, target = statistics.median(ratios), TARGETS.get(name)
        rows[name] = {
            "images_per_second": values,
            "median": statistics.median(values),
            "ours_over_it": ratio,
            "target": target,
        }
        verdict = "" if target is None else f">= {target} {'met' if ratio >= target else 'MISSED'}"
        print(
            f"{name:<20}{statistics.median(values):>8.0f}   {ratio:5.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f})         {verdict}"
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="per contestant and round")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--preset", choices=list(CONTESTANTS), action="append")
    parser.add_argument("--only", action="append", help="measure this contestant; may be repeated")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    packages = ("nvidia-dali-cuda120", "torch", "numpy", "pillow-simd", "simplejpeg", "webdataset")
    result: dict[str, object] = {
        "cpus": len(os.sched_getaffinity(0)),
        "machine": platform.processor() or platform.machine(),
        "versions": {name: version(name) for name in packages},
        "batch": options.batch,
    }
    for preset in options.preset or CONTESTANTS:
        result[preset] = report(preset, run_preset(preset, options))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
