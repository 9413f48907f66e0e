"""The task of every peer: make a 256x256 JPEG record from each photo.

Short side to 256, central 256x256 crop, JPEG quality 95, 4:2:0. The peer scripts import this module
in their own environments, so it imports only the standard library.
"""

from __future__ import annotations

import json
import os
import sys
from itertools import pairwise
from pathlib import Path

SIZE_PX = 256
QUALITY = 95
PROCESSES = 2
SHARD_IMAGES = 500

Photo = tuple[str, int]


def list_photos(source: Path) -> list[Photo]:
    """Return (path, label) of every file in the class folders of ``source``, in name order."""
    classes = sorted(entry.name for entry in os.scandir(source) if entry.is_dir())
    return [
        (path, label)
        for label, name in enumerate(classes)
        for path in sorted(entry.path for entry in os.scandir(source / name))
    ]


def shares(photos: list[Photo], count: int) -> list[list[Photo]]:
    """Split ``photos`` into ``count`` parts of nearly equal length."""
    edges = [len(photos) * i // count for i in range(count + 1)]
    return [photos[a:b] for a, b in pairwise(edges)]


def arguments() -> tuple[Path, Path]:
    """Return SOURCE and OUT from the command line, and make the folder OUT."""
    if len(sys.argv) < 3:
        sys.exit(f"usage: {Path(sys.argv[0]).name} SOURCE OUT")
    source, out = Path(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    return source, out


def report(images: int, inner_seconds: float) -> None:
    """Print the JSON line that the benchmark reads."""
    line = json.dumps({"images": images, "inner_seconds": inner_seconds})
    sys.stdout.write(f"\n{line}\n")
    sys.stdout.flush()
