#!/usr/bin/env python3
"""All measurements of the training on one GPU, in about five minutes, as one JSON file.

    .venv/bin/python tools/bench_gpu.py DATASET --json FILE [--raw DATASET] [--only PART]...
    .venv/bin/python tools/bench_gpu.py --table FILE...

DATASET is what ``imgprep build-shards`` wrote, ``--raw`` one with ``--encoding raw``. Each part
runs in a process of its own, so that one that fails leaves the others; its message goes into the
file. ``--table`` prints such files as the tables of tools/README.md. ``--rehearse`` makes every
part once on the CPU, as small as possible, to test the program and not the speed.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

TOOLS = Path(__file__).resolve().parent
sys.path.insert(0, str(TOOLS.parent))

LIMIT_S = 200
"""A part that takes longer is stopped."""
VERSIONS = ("torch", "triton", "numpy", "nvidia-dali-cuda120", "nvidia-dali-cuda130")
NVLINK_BYTES_PER_S = 450e9


def parts(options: argparse.Namespace) -> Iterator[tuple[str, list[str]]]:
    """The tools to run, with their arguments, fastest and most important first."""
    device = [] if options.rehearse else ["--device", "cuda"]
    small = ["--rehearse"] if options.rehearse else []
    yield "step", ["bench_step.py", *device, *small]
    narrow = ["--set", "net.width_divisor=16"]
    rounds = ["--steps", "1", "--rounds", "1", *narrow] if options.rehearse else ["--steps", "40"]
    for batch in (4,) if options.rehearse else (128, 512):
        fed = ["bench_fed.py", str(options.dataset), "--preset", "paper", "--batch", str(batch)]
        yield f"fed-{batch}", [*fed, *device, *rounds]
    seconds = ["--rounds", "1", "--seconds", "0.1", "--only", "ours", "--preset", "paper"]
    size = [*seconds, "--batch", "8"] if options.rehearse else ["--rounds", "3", "--batch", "512"]
    yield "input", ["bench_input.py", str(options.dataset), *device, *size]
    if options.raw is not None:
        yield "input-raw", ["bench_input.py", str(options.raw), *device, *size, "--only", "ours"]
    small = ["--width", "16", "--seeds", "1", "--steps", "11", "--images", "4"]
    yield "precision", ["precision_losses.py", *device, *(small if options.rehearse else [])]


def run_part(arguments: list[str], folder: Path) -> dict[str, Any]:
    """Run one tool; returns what it wrote as JSON, or its output and why it failed."""
    file = folder / "part.json"
    file.unlink(missing_ok=True)
    program = [sys.executable, str(TOOLS / arguments[0]), *arguments[1:], "--json", str(file)]
    started = time.monotonic()
    try:
        ran = subprocess.run(program, capture_output=True, text=True, check=False, timeout=LIMIT_S)
        failure = (
            None if ran.returncode == 0 else f"exit code {ran.returncode}: {ran.stderr[-800:]}"
        )
    except subprocess.TimeoutExpired:
        failure = f"stopped after {LIMIT_S} s"
    found: dict[str, Any] = {"command": arguments, "seconds": time.monotonic() - started}
    if file.exists():
        found["found"] = json.loads(file.read_text("utf-8"))
    if failure is not None:
        found["failure"] = failure
    return found


def machine() -> dict[str, Any]:
    """The card, its driver, and the versions that decide the speed."""
    from importlib.metadata import PackageNotFoundError, version

    import torch

    versions = {}
    for name in VERSIONS:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    gpus = torch.cuda.is_available()
    return {
        "card": torch.cuda.get_device_name(0) if gpus else None,
        "cards": torch.cuda.device_count() if gpus else 0,
        "driver": _driver() if gpus else None,
        "cuda": torch.version.cuda,
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": versions,
        "date": datetime.date.today().isoformat(),
    }


def _driver() -> str | None:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def two_gpus(step: dict[str, Any]) -> dict[str, Any] | None:
    """What steps on two GPUs should cost, by the steps measured on this one."""
    from two_gpus import OneGpu, predict_columns, predict_data

    try:
        whole, columns = step["no-lrn"], step["columns"]
        step_ms = 1e3 * whole["batch"] / whole["ours_images_per_s"]
        one = OneGpu(
            images=whole["batch"],
            step_ms=step_ms,
            half_batch_ms=step_ms / 2,
            both_columns_ms=1e3 * columns["batch"] / columns["ours_images_per_s"],
            queue_columns_ms=columns["ours_queue_ms"],
            link_bytes_per_s=NVLINK_BYTES_PER_S,
        )
    except KeyError:
        return None
    return {
        "columns": asdict(predict_columns(one)),
        "data": asdict(predict_data(one, queue_ms=whole["ours_queue_ms"])),
        "measured": None,
        "assumed": "NVLink 4; half a batch takes half the time; nobody has measured two GPUs",
    }


def table(report: dict[str, Any]) -> str:
    """The tables of tools/README.md for one file."""
    about = report["machine"]
    versions = ", ".join(f"{name} {value}" for name, value in about["versions"].items())
    lines = [
        f"Measured on {about['date']} on one {about['card']} ({about['cores']} cores, driver "
        f"{about['driver']}, {versions}).",
        "",
        "| the step | batch | precision | ours, img/s | the other | ours / the other | required |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in report["parts"].get("step", {}).get("found", {}).items():
        if isinstance(row, dict):
            required = "" if row["required"] is None else f">= {row['required']}"
            ratio = f"**{row['ratio']:.2f}** ({min(row['ratios']):.2f}-{max(row['ratios']):.2f})"
            speeds = [f"{row[f'{side}_images_per_s']:,.0f}" for side in ("ours", "other")]
            cells = [name, row["batch"], row["precision"], *speeds, ratio, required]
            lines.append(f"| {' | '.join(map(str, cells))} |")
    lines += ["", "| the rest | found |", "|---|---|"]
    for name, part in report["parts"].items():
        if name != "step":
            text = part.get("failure") or json.dumps(part.get("found"))
            lines.append(f"| {name} | {text} |")
    if report.get("two_gpus"):
        lines.append(f"| two GPUs, predicted | {json.dumps(report['two_gpus'])} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", type=Path, nargs="?")
    parser.add_argument("--raw", type=Path, metavar="DATASET")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--only", action="append", metavar="PART")
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--table", type=Path, nargs="+", metavar="FILE")
    options = parser.parse_args(arguments)
    if options.table:
        print("\n\n".join(table(json.loads(file.read_text("utf-8"))) for file in options.table))
        return
    if options.dataset is None:
        parser.error("name a dataset")
    report: dict[str, Any] = {"machine": machine(), "rehearsed": options.rehearse, "parts": {}}
    if report["machine"]["card"] is None and not options.rehearse:
        parser.error("no GPU is visible to torch; --rehearse tests the program on a CPU")
    with tempfile.TemporaryDirectory() as folder:
        for name, program in parts(options):
            if options.only and name not in options.only:
                continue
            found = report["parts"][name] = run_part(program, Path(folder))
            state = found.get("failure", "done")
            print(f"{name}: {found['seconds']:.0f} s, {state}", file=sys.stderr, flush=True)
    report["two_gpus"] = two_gpus(report["parts"].get("step", {}).get("found", {}))
    if options.json:  # before the table, so that nothing is lost
        options.json.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    print(table(report))
    sys.exit(any("failure" in part for part in report["parts"].values()))


if __name__ == "__main__":
    main()
