"""Runs the measurements: a warm-up, then pairs of (imgprep, peer) in alternating order."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from _measure import Measured, RunError, run_command
from _photos import WorkPhotos
from _registry import HERE, IMGPREP, ROOT, Peer
from _setup import versions

MIB = 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One checked run of one contestant."""

    inner_seconds: float
    """Time of the work, without the imports of the started process."""
    wall_seconds: float
    cpu_seconds: float
    peak_pss_mib: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """Settings of all runs."""

    photos: WorkPhotos
    work: Path
    pairs: int
    memory_always: bool
    """Sample memory in all runs instead of only the warm-up runs."""
    timeout_seconds: float


def inner_seconds(peer: Peer, measured: Measured, images: int) -> float:
    """Return the seconds that the contestant took for its work.

    Peers print them as JSON. imgprep does too: from the start of the scan to the end of the last
    stage, including the start of its workers and their imports, but without the import of
    scikit-learn if it reports that, because no peer's imports are counted. A version of imgprep
    that reports no total is charged its whole process, which never favours it.
    """
    if peer.is_imgprep:
        timings = json.loads(measured.stdout)["timings"]
        total = timings.get("total_seconds", measured.wall_seconds)
        return float(total - timings.get("import_seconds", 0.0))
    lines = [line for line in measured.stdout.splitlines() if line.startswith('{"images"')]
    if not lines:
        raise RunError(f"{peer.name} printed no result")
    result = json.loads(lines[-1])
    if result["images"] != images:
        raise RunError(f"{peer.name} reports {result['images']} images, not {images}")
    return float(result["inner_seconds"])


def check_output(peer: Peer, out: Path, images: int) -> None:
    """Count the records and decode a sample, so that no contestant wins by skipping work."""
    if peer.output == "none":
        return
    colours = "grey-too" if peer.keeps_grey else "rgb"
    script = str(HERE / "_check.py")
    command = [str(IMGPREP.python), script, peer.output, str(out), str(images), colours]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RunError(f"{peer.name}: {(done.stderr or done.stdout).strip()[-500:]}")


def run_once(session: Session, peer: Peer, *, memory: bool) -> Run:
    """Run, check and delete; earlier output is flushed to disk before the clock starts."""
    out, images = session.work / "out", session.photos.images
    shutil.rmtree(out, ignore_errors=True)
    os.sync()
    measured = run_command(
        peer.argv(session.photos.source, out),
        session.work / f"{peer.name}.log",
        memory=memory,
        timeout_seconds=session.timeout_seconds,
    )
    seconds = inner_seconds(peer, measured, images)
    check_output(peer, out, images)
    shutil.rmtree(out, ignore_errors=True)
    peak = measured.peak_pss_bytes
    return Run(
        inner_seconds=seconds,
        wall_seconds=measured.wall_seconds,
        cpu_seconds=measured.cpu_seconds,
        peak_pss_mib=None if peak is None else peak / MIB,
    )


def _say(label: str, peer: Peer, run: Run, images: int) -> None:
    memory = "" if run.peak_pss_mib is None else f"  peak {run.peak_pss_mib:6.0f} MiB"
    sys.stderr.write(
        f"{label:8} {peer.name:16} inner {images / run.inner_seconds:6.0f} img/s"
        f"  whole {images / run.wall_seconds:6.0f} img/s  cpu {run.cpu_seconds:6.1f} s{memory}\n"
    )
    sys.stderr.flush()


def run_peer(session: Session, peer: Peer) -> dict[str, Any]:
    """Run all pairs of one peer and return them as JSON."""

    def once(label: str, contestant: Peer, memory: bool) -> dict[str, Any]:
        run = run_once(session, contestant, memory=memory or session.memory_always)
        _say(label, contestant, run, session.photos.images)
        return asdict(run)

    both = (IMGPREP, peer)
    # Sample memory only here: walking the page tables of a large peer would slow the timed runs.
    warm_up = {c.name: once("warm-up", c, True) for c in both}
    pairs = []
    for number in range(session.pairs):
        order = both if number % 2 == 0 else both[::-1]
        runs = {c.name: once(f"pair {number + 1}", c, False) for c in order}
        pairs.append({"first": order[0].name, "runs": runs})
    return {"what": peer.what, "versions": versions(peer), "warm_up": warm_up, "pairs": pairs}


def run_peers(
    session: Session, peers: list[Peer], save: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Run all peers and save after each; a failed peer is reported and the others still run."""
    results: dict[str, Any] = {}
    for peer in peers:
        try:
            results[peer.name] = run_peer(session, peer)
        except RunError as error:
            sys.stderr.write(f"{peer.name}: FAILED\n{error}\n")
            results[peer.name] = {"what": peer.what, "error": str(error)}
        save(results)
    return results


def imgprep_versions() -> dict[str, str]:
    """Versions of our own environment, and the last commit that touched the package."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(ROOT), *arguments, "--", "imgprep"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    commit = git("log", "-1", "--format=%h") or "unknown"
    changed = "-dirty" if git("status", "--porcelain") else ""
    return {"imgprep": commit + changed, **versions(IMGPREP)}
