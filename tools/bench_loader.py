#!/usr/bin/env python3
"""Compares ``train.loader.ImageLoader`` on a CPU with other loaders, doing the same work.

    tools/bench_loader.py setup                        # the peers' environments (minutes, once)
    tools/bench_loader.py run DATASET [--json FILE]    # a dataset of JPEG records

Each loader reads the same JPEG records of the training split (copied into its own format) and
delivers float32 batches (n, 3, 224, 224): random-resized-crop by torchvision's defaults, flip with
probability 0.5, mean and standard deviation by channel. ``decoding`` is the exception: it only
decodes the records, which is the limit. Each runs in a process of its own with two threads or
worker processes. In every round each loader is measured once, in turn, and compared with ours of
the same round. An environment that does not build is left out, and said so.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from measuring_process import MeasuringProcess

ROOT = Path(__file__).resolve().parents[1]
PEERS = Path(__file__).resolve().parent / "bench_loader_peers"
ENVS = ROOT / ".bench" / "envs"
READERS = ROOT / ".readers" / "bin" / "python"
ENVIRONMENTS = {
    "ours": ROOT / ".venv" / "bin" / "python",
    "decoding": ROOT / ".venv" / "bin" / "python",
    "torchvision": READERS,
    "webdataset": READERS,
    "datasets": READERS,
    "streaming": ENVS / "torch" / "bin" / "python",
    "ffcv": ENVS / "ffcv" / "bin" / "python",
}
"""The Python that runs each loader."""


class Contestant:
    """A loader in its own process, and what it measured."""

    def __init__(self, name: str, dataset: Path, folder: Path, batch: int) -> None:
        self.name, self.rates, self.cpu = name, list[float](), list[float]()
        # The peers see this repository's packages only where they ask for them.
        command = [ENVIRONMENTS[name], PEERS / "worker.py", name, dataset, folder, batch]
        self._process = MeasuringProcess(name, command)
        self.close = self._process.close

    def measure(self, seconds: float) -> None:
        answer = self._process.measure(seconds)
        self.rates.append(answer["images_per_second"])
        self.cpu.append(answer["cpu_ms_per_image"])


def set_up() -> None:
    """Make the environments that are missing."""
    subprocess.run([ROOT / "tools" / "setup_readers"], check=True)
    subprocess.run([ROOT / "tools" / "bench_build.py", "setup", "mds"], check=True)
    ffcv = ENVS / "ffcv"
    if not (ffcv / "done").exists():
        subprocess.run([sys.executable, "-m", "venv", ffcv], check=True)
        pip = [str(ffcv / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, "setuptools", "wheel", "-r", str(PEERS / "ffcv.txt")], check=True)
        # It compiles against Debian's libopencv-dev and libturbojpeg0-dev.
        build = ["--no-deps", "--no-build-isolation", "ffcv==1.0.2"]
        subprocess.run([*pip, *build], check=True)
        (ffcv / "done").touch()


def run(options: argparse.Namespace) -> None:
    names = [n for n in ENVIRONMENTS if not options.only or n == "ours" or n in options.only]
    with tempfile.TemporaryDirectory(prefix="bench-loader-") as folder:
        contestants = []
        for name in names:
            try:
                place = Path(folder) / name
                place.mkdir()
                contestants.append(Contestant(name, options.dataset, place, options.batch))
            except (OSError, RuntimeError) as error:
                sys.stderr.write(f"{name} is left out: {error}\n")
        for _ in range(options.rounds):
            for each in contestants:
                each.measure(options.seconds)
        for each in contestants:
            each.close()
    ours = contestants[0]
    print(f"{'':<18}{'img/s':>7}{'CPU ms':>8}   ours / it (min to max)")
    rows = {}
    for each in contestants:
        ratios = [a / b for a, b in zip(ours.rates, each.rates, strict=True)]
        print(
            f"{each.name:<18}{statistics.median(each.rates):>7.0f}"
            f"{statistics.median(each.cpu):>8.2f}   {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f})"
        )
        rows[each.name] = {"images_per_second": each.rates, "cpu_ms_per_image": each.cpu}
    if options.json:
        about = {"cpus": len(os.sched_getaffinity(0)), "load": os.getloadavg(), "loaders": rows}
        options.json.write_text(json.dumps(about, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("setup")
    bench = commands.add_parser("run")
    bench.add_argument("dataset", type=Path)
    bench.add_argument("--rounds", type=int, default=5)
    bench.add_argument("--seconds", type=float, default=3.0, help="per loader and round")
    bench.add_argument("--batch", type=int, default=128)
    bench.add_argument("--only", action="append", choices=list(ENVIRONMENTS))
    bench.add_argument("--json", type=Path)
    options = parser.parse_args()
    set_up() if options.command == "setup" else run(options)


if __name__ == "__main__":
    main()
