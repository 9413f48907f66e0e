"""Prepares the photos of a run: whole JPEG photos, repeated by hard links until there are enough.

Files that some peer cannot read (CMYK, PNG named ``.JPEG``, truncated files) are left out, because
this benchmark compares speed; the tests check tolerance.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

SHORT_SIDE_MIN_PX = 32
ASPECT_MAX = 10
START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkPhotos:
    """A folder of class folders, ready for every contestant."""

    source: Path
    images: int
    distinct: int
    mean_bytes: float
    mean_megapixels: float


def jpeg_frame(data: bytes) -> tuple[int, int, int] | None:
    """Return (height, width, components) of a whole 8-bit JPEG, or None if it is not one."""
    if not data.startswith(b"\xff\xd8\xff") or b"\xff\xd9" not in data[-64:]:
        return None
    at = 2
    while at + 9 < len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in START_OF_FRAME:
            height = int.from_bytes(data[at + 5 : at + 7], "big")
            width = int.from_bytes(data[at + 7 : at + 9], "big")
            return (height, width, data[at + 9]) if data[at + 4] == 8 else None
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def _usable(folder: Path) -> Iterator[tuple[Path, bytes, int]]:
    """Yield (path, bytes, pixels) of photos that every peer can read, in a fixed random order."""
    paths = sorted(folder.rglob("*"))
    Random(0).shuffle(paths)
    for path in paths:
        if not path.is_file():
            continue
        data = path.read_bytes()
        frame = jpeg_frame(data)
        if frame is None:
            continue
        height, width, components = frame
        short, long = sorted((height, width))
        if components in (1, 3) and short >= SHORT_SIDE_MIN_PX and long <= ASPECT_MAX * short:
            yield path, data, height * width


def lay_out(photos: Path, work: Path, images: int) -> WorkPhotos:
    """Fill ``work/source`` with ``images`` files in the class folders of ``photos``.

    ``photos`` is a folder of class folders, or contains one named ``train``. Each distinct photo is
    copied once and linked as often as needed, so that the page cache holds all of them.

    Raises:
        ValueError: ``photos`` contains no usable photo.
    """
    folder = photos / "train" if (photos / "train").is_dir() else photos
    source = work / "source"
    shutil.rmtree(work, ignore_errors=True)
    first: list[Path] = []
    stored = pixels = 0
    for path, data, area in _usable(folder):
        if len(first) == images:
            break
        target = source / path.parent.name / f"{path.stem}_{0:05d}.JPEG"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        first.append(target)
        stored += len(data)
        pixels += area
    if not first:
        raise ValueError(f"{folder}: no JPEG photo in a class folder")
    for index in range(len(first), images):
        again, photo = divmod(index, len(first))
        name = first[photo].name.replace(f"_{0:05d}.", f"_{again:05d}.")
        os.link(first[photo], first[photo].with_name(name))
    return WorkPhotos(
        source=source,
        images=images,
        distinct=len(first),
        mean_bytes=stored / len(first),
        mean_megapixels=pixels / len(first) / 1e6,
    )


def warm(source: Path) -> None:
    """Read every photo once, so that no run finds a cold page cache."""
    for path in source.rglob("*.JPEG"):
        path.read_bytes()
