"""Makes the peers' environments from their pins, and reads the installed versions."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from _registry import ENVS, OWN_ENV, PINS, Peer

STAMP = "pins.txt"


def set_up(peers: list[Peer]) -> None:
    """Make the environments of ``peers`` that are missing or have other pins."""
    for env in dict.fromkeys(peer.env for peer in peers if not peer.is_imgprep):
        _make(env)


def missing(peers: list[Peer]) -> list[str]:
    """Return the peers whose environment is missing or has other pins."""
    return [peer.name for peer in peers if not _is_ready(peer)]


def _is_ready(peer: Peer) -> bool:
    if peer.is_imgprep:
        return (peer.folder / "bin" / "imgprep").exists()
    stamp = peer.folder / STAMP
    return stamp.exists() and stamp.read_bytes() == (PINS / f"{peer.env}.txt").read_bytes()


def _make(env: str) -> None:
    folder, pins = ENVS / env, PINS / f"{env}.txt"
    stamp = folder / STAMP
    if stamp.exists() and stamp.read_bytes() == pins.read_bytes():
        sys.stderr.write(f"{env}: ready\n")
        return
    sys.stderr.write(f"{env}: installing {pins.name} into {folder}\n")
    started = time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    variables = dict(os.environ)
    if "pillow-simd==" in pins.read_text():
        # By default it is compiled for SSE4 only, and so may be a cached wheel.
        pip += ["--no-cache-dir", "--no-binary", "pillow-simd"]
        if "avx2" in _cpu_flags():
            variables["CC"] = "cc -mavx2"
    subprocess.run([*pip, "--requirement", str(pins)], check=True, env=variables)
    shutil.copyfile(pins, stamp)
    sys.stderr.write(f"{env}: done in {time.monotonic() - started:.0f} s\n")


def _cpu_flags() -> list[str]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split() for line in lines if line.startswith("flags")), [])


def versions(peer: Peer) -> dict[str, str]:
    """Return the installed version of each of the peer's packages."""
    code = (
        "import json, sys; from importlib.metadata import version; "
        "print(json.dumps({name: version(name) for name in sys.argv[1:]}))"
    )
    packages = [name for name in peer.packages if not (peer.env == OWN_ENV and name == "imgprep")]
    command = [str(peer.python), "-c", code, *packages]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return {str(name): str(value) for name, value in json.loads(done.stdout).items()}
