#!/usr/bin/env python3
"""How a build scales from 1 worker to 2, local and on Ray.

    .venv/bin/python tools/bench_scale.py PHOTOS [--images N] [--rounds N] [--json FILE]
    .venv/bin/python tools/bench_scale.py --table FILE

PHOTOS is a folder of class folders, or contains one named `train`. Its JPEG photos are repeated by
hard links until there are enough, and read once. Each round builds a small sample and the whole set
with every runner and number of workers, in turns. The rate is the number of images by which the
whole set is larger, divided by the seconds that it takes longer (medians). This leaves out what
every build costs before its first image, which is printed as its start.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent / "bench_build_peers"))

from _hardware import hardware, take_cores
from _photos import lay_out, warm

ROOT = Path(__file__).resolve().parent.parent
RUNS = tuple((runner, jobs) for runner in ("local", "ray") for jobs in (1, 2))
SHARD_IMAGES = 100
SMALL_SHARE = 5
"""The small sample is a fifth of the whole set."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rate:
    """Speed of one runner with one number of workers."""

    images_per_second: float
    start_seconds: float
    """Of a build before its first image."""


def fit(small: tuple[int, float], whole: tuple[int, float]) -> Rate:
    """Return rate and start from (images, seconds) of two builds.

    Raises:
        ValueError: the larger build took no longer than the smaller one.
    """
    if whole[1] <= small[1]:
        raise ValueError(
            f"{whole[0]} images took {whole[1]:.2f} s and {small[0]} took {small[1]:.2f} s: this "
            "machine is too busy to measure"
        )
    rate = (whole[0] - small[0]) / (whole[1] - small[1])
    return Rate(images_per_second=rate, start_seconds=max(0.0, whole[1] - whole[0] / rate))


@contextmanager
def ray_cluster() -> Iterator[dict[str, str]]:
    """Start a Ray cluster of two processors on this machine; yield the environment to use it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tempfile.mkdtemp(prefix="r-", dir="/tmp")  # sockets need short paths
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }
    options = (
        f"--port={port}",
        "--num-cpus=2",
        f"--temp-dir={folder}",
        "--include-dashboard=false",
    )
    ray = str(Path(sys.executable).with_name("ray"))
    log_path = Path(folder) / "head.log"
    with log_path.open("wb") as log:
        head = subprocess.Popen(
            [ray, "start", "--head", *options, "--disable-usage-stats", "--block"],
            stdout=log, stderr=log, env=environment,
        )  # fmt: skip
    try:
        while b"Ray runtime started" not in log_path.read_bytes():
            if head.poll() is not None:
                sys.exit(f"bench_scale: Ray did not start:\n{log_path.read_text()}")
            time.sleep(0.1)
        yield {**environment, "RAY_ADDRESS": f"127.0.0.1:{port}"}
    finally:
        head.terminate()
        head.wait()
        shutil.rmtree(folder, ignore_errors=True)


def one_build(
    source: Path, dest: Path, runner: str, jobs: int, images: int, environment: dict[str, str]
) -> dict[str, Any]:
    """Build once; return its timings."""
    shutil.rmtree(dest, ignore_errors=True)
    command = [sys.executable, "-m", "imgprep", "build-shards", str(source), str(dest)]
    options = ["--runner", runner, "--jobs", str(jobs), "--limit", str(images), "-q", "--json"]
    options += ["--shard-images", str(SHARD_IMAGES)]
    ran = subprocess.run(
        [*command, *options], capture_output=True, text=True, env=environment, check=False
    )
    if ran.returncode != 0:
        sys.exit(f"bench_scale: the build failed:\n{ran.stderr}")
    return {"timings": json.loads(ran.stdout)["timings"]}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure; return all figures as JSON values."""
    cores = take_cores(2)
    work = Path(tempfile.mkdtemp(prefix="bench_scale-"))
    try:
        photos = lay_out(options.photos, work / "photos", options.images)
        warm(photos.source)
        sizes = (options.images // SMALL_SHARE, options.images)
        builds: dict[str, list[dict[str, Any]]] = {}
        with ray_cluster() as environment:
            for number in range(options.rounds + 1):
                for runner, jobs in RUNS if number % 2 else RUNS[::-1]:
                    for images in sizes:
                        name = f"{runner} {jobs} {images}"
                        print(f"round {number}: {name}", file=sys.stderr)
                        found = one_build(
                            photos.source, work / "out", runner, jobs, images, environment
                        )
                        if number:  # the first round is a warm-up
                            builds.setdefault(name, []).append(found)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return {
        "date": date.today().isoformat(),
        "hardware": hardware(cores),
        "photos": {k: v for k, v in asdict(photos).items() if k != "source"},
        "sizes": sizes,
        "rounds": options.rounds,
        "builds": builds,
    }


def _median(builds: list[dict[str, Any]]) -> float:
    return float(median(build["timings"]["build_seconds"] for build in builds))


def rates_of(data: dict[str, Any]) -> dict[tuple[str, int], Rate]:
    """Return the rate of each runner and number of workers."""
    small, whole = data["sizes"]
    return {
        (runner, jobs): fit(
            (small, _median(data["builds"][f"{runner} {jobs} {small}"])),
            (whole, _median(data["builds"][f"{runner} {jobs} {whole}"])),
        )
        for runner, jobs in RUNS
    }


def markdown(data: dict[str, Any]) -> str:
    """Return a sentence on what was measured, and the table."""
    machine, photos, rates = data["hardware"], data["photos"], rates_of(data)
    small, whole = data["sizes"]
    lines = [
        f"{machine['cpu']}, {len(machine['cores_used'])} of {machine['cores']} cores, "
        f"{machine['memory_gib']} GiB; Linux {machine['kernel']}, Python {machine['python']}; "
        f"{data['date']}. {photos['images']} photos ({photos['distinct']} distinct, mean "
        f"{photos['mean_megapixels']:.2f} MP and {photos['mean_bytes'] / 1000:.0f} kB) in the page "
        f"cache; builds of {small} and {whole} images, {SHARD_IMAGES} per shard; medians of "
        f"{data['rounds']} rounds after a warm-up, in turns. One machine: Ray's two workers run on "
        "the same two cores.",
        "",
        "| runner | workers | img/s (min-max, whole build) | start, s | kept per worker |",
        "|---|---|---|---|---|",
    ]
    for (runner, jobs), rate in rates.items():
        builds = data["builds"][f"{runner} {jobs} {whole}"]
        speeds = [whole / build["timings"]["build_seconds"] for build in builds]
        kept = rate.images_per_second / jobs / rates[runner, 1].images_per_second
        lines.append(
            f"| {runner} | {jobs} | {rate.images_per_second:,.0f} "
            f"({min(speeds):,.0f}-{max(speeds):,.0f}) | {rate.start_seconds:.1f} | {kept:.0%} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("photos", type=Path, nargs="?")
    parser.add_argument("--images", type=int, default=3000, help="in the whole set (default: 3000)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print the table of FILE again")
    options = parser.parse_args()
    if options.table:
        print(markdown(json.loads(options.table.read_text())))
        return
    step = 2 * SMALL_SHARE * SHARD_IMAGES
    if (
        options.photos is None
        or options.rounds < 1
        or options.images < step
        or (options.images % step)
    ):
        parser.error(f"give PHOTOS, and --images a multiple of {step}, so that no worker is idle")
    data = measure(options)
    if options.json:
        options.json.write_text(json.dumps(data, indent=1) + "\n")
    try:
        print(markdown(data))
    except ValueError as exc:
        sys.exit(f"bench_scale: {exc}")


if __name__ == "__main__":
    main()
