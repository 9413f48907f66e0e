"""Compares ``imgprep build-shards`` with other tools that make training shards.

bench_build.py setup [PEER...]     make the peers' environments under .bench/envs (minutes, once)
bench_build.py run [--json FILE]   measure and print the table
bench_build.py table FILE...       print one table of earlier runs over the same photos
bench_build.py memory              memory of imgprep alone, by the number of jobs
bench_build.py peers               list the peers

All contestants read the same JPEG photos from a warm page cache on the same cores and write 256x256
JPEG records (short side to 256, centre crop, quality 95, 4:2:0) in their own formats with two
processes. After each run the records are counted and a sample is decoded. imgprep also computes its
statistics, hashes and calls fsync; the peers do not.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

from _hardware import hardware, take_cores
from _measure import adopt_orphans
from _memory import memory_table
from _photos import WorkPhotos, lay_out, warm
from _registry import BENCH, IMGPREP, PEERS, ROOT, chosen
from _session import Session, imgprep_versions, run_peers
from _setup import missing, set_up
from _table import markdown, merged

EXIT_FAILED = 1
WORK = BENCH / "work"


def default_photos() -> Path:
    """Return a mini ImageNet made of the photos that scikit-learn installs."""
    folder = BENCH / "photos"
    if not folder.exists():
        BENCH.mkdir(exist_ok=True)
        script = str(ROOT / "tools" / "mini_imagenet.py")
        command = [str(IMGPREP.python), script, str(folder), "--images-per-class", "100"]
        subprocess.run(command, check=True, stdout=sys.stderr)
    return folder


def work_photos(arguments: argparse.Namespace) -> WorkPhotos:
    """Return the photos that the options name, laid out and in the page cache."""
    try:
        photos = lay_out(arguments.photos or default_photos(), WORK, arguments.images)
    except ValueError as error:
        sys.exit(f"bench_build: {error}")
    warm(photos.source)
    return photos


def run(arguments: argparse.Namespace) -> int:
    """The ``run`` command."""
    peers = chosen([name for name in (arguments.peers or "").split(",") if name])
    absent = missing([IMGPREP, *peers])
    if absent:
        sys.exit(
            f"bench_build: no environment for {', '.join(absent)}: run bench_build.py setup first"
        )
    if arguments.json and not arguments.json.resolve().parent.is_dir():
        sys.exit(f"bench_build: the folder of {arguments.json} does not exist")
    adopt_orphans()
    try:
        cores = take_cores(arguments.cores)
    except ValueError as error:
        sys.exit(f"bench_build: {error}")
    photos = work_photos(arguments)
    about: dict[str, Any] = {
        "date": date.today().isoformat(),
        "hardware": hardware(cores),
        "photos": {k: v for k, v in asdict(photos).items() if k != "source"},
        "pairs": arguments.pairs,
        "imgprep": imgprep_versions(),
    }

    def save(results: dict[str, Any]) -> None:
        if arguments.json:
            arguments.json.write_text(json.dumps({**about, "peers": results}, indent=1) + "\n")

    session = Session(
        photos=photos,
        work=WORK,
        pairs=arguments.pairs,
        memory_always=arguments.memory == "all",
        timeout_seconds=arguments.timeout,
    )
    results = run_peers(session, peers, save)
    sys.stdout.write(markdown({**about, "peers": results}))
    return EXIT_FAILED if any("error" in result for result in results.values()) else 0


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench_build.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    setup = commands.add_parser("setup", help="make the missing environments")
    setup.add_argument("peers", nargs="*", metavar="PEER", help="default: all")
    bench = commands.add_parser("run", help="measure")
    memory = commands.add_parser(
        "memory", help="measure the memory of imgprep by the number of jobs"
    )
    for command in (bench, memory):
        command.add_argument(
            "--photos", type=Path, metavar="DIR", help="class folders (default: a mini ImageNet)"
        )
        command.add_argument(
            "--images",
            type=_positive,
            default=3000,
            help="photos per run, repeated (default: 3000)",
        )
    bench.add_argument("--pairs", type=_positive, default=5, help="pairs per peer (default: 5)")
    bench.add_argument("--peers", metavar="A,B", help="default: all")
    bench.add_argument("--cores", type=_positive, default=2, help="cores to bind to (default: 2)")
    bench.add_argument(
        "--memory",
        choices=("warm-up", "all"),
        default="warm-up",
        help="runs in which memory is sampled; sampling slows large peers (default: warm-up)",
    )
    bench.add_argument(
        "--timeout", type=float, default=900.0, help="seconds per run (default: 900)"
    )
    bench.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE")
    table = commands.add_parser("table", help="print the table of --json files")
    table.add_argument("files", type=Path, nargs="+", metavar="FILE")
    commands.add_parser("peers", help="list the peers")
    return parser


def main() -> int:
    """Run the command line."""
    arguments = _parser().parse_args()
    if arguments.command == "setup":
        set_up(chosen(arguments.peers))
        return 0
    if arguments.command == "table":
        try:
            data = merged([json.loads(path.read_text()) for path in arguments.files])
        except ValueError as error:
            sys.exit(f"bench_build: {error}")
        sys.stdout.write(markdown(data))
        return 0
    if arguments.command == "memory":
        sys.stdout.write(memory_table(work_photos(arguments).source, WORK))
        return 0
    if arguments.command == "peers":
        sys.stdout.writelines(f"{name:16} {peer.what}\n" for name, peer in PEERS.items())
        return 0
    return run(arguments)
