"""Measures the disk of the destination folder, and whether all of ImageNet fits on it."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgprep.doctor.finding import Finding, Level
from imgprep.storage.urls import path_of

IMAGENET_IMAGES = 1_331_167
IMAGENET_BYTES = 44_300_000_000
"""All of ILSVRC2012 with default options, as measured on a sample (tools/README.md, "Disk")."""
RECORD_BYTES = IMAGENET_BYTES // IMAGENET_IMAGES
PIXEL_SUMS_BYTES = 1_000_000_000
"""Pixel sums that a build keeps beside the shards until it ends."""
BLOCK_BYTES = 1 << 20
FIRST_PART_BYTES = 4 << 20
MOST_BYTES = 64 << 20
WRITE_SECONDS = 0.8
"""No new part is written after this. Each part is twice the last, so it takes at most about 2 s."""


@dataclass(frozen=True, slots=True)
class DiskSpeed:
    """Measured sequential speed."""

    write_bytes_per_s: float
    read_bytes_per_s: float
    n_bytes: int


def measure(folder: Path) -> DiskSpeed:
    """Write an unnamed temporary file into ``folder``, flush it, and read it back.

    Raises:
        OSError: that is not possible.
    """
    block = os.urandom(BLOCK_BYTES)
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        fd, written, part = file.fileno(), 0, FIRST_PART_BYTES
        started = time.perf_counter()
        while written < MOST_BYTES and time.perf_counter() - started < WRITE_SECONDS:
            end = min(written + part, MOST_BYTES)
            while written < end:
                written += os.write(fd, block[: end - written])
            os.fsync(fd)
            part *= 2
        write_seconds = time.perf_counter() - started
        os.posix_fadvise(fd, 0, written, os.POSIX_FADV_DONTNEED)
        started, offset = time.perf_counter(), 0
        while offset < written and time.perf_counter() - started < WRITE_SECONDS:
            offset += len(os.pread(fd, BLOCK_BYTES, offset))
        read_seconds = time.perf_counter() - started
    return DiskSpeed(written / write_seconds, offset / read_seconds, written)


def examine(dest: str | None, *, quick: bool, images_per_s: float | None) -> list[Finding]:
    """Return the findings for DEST; None is the current folder, which need not be writable.

    A folder that does not exist yet is judged by the folder in which a build would make it.
    """
    folder = Path.cwd() if dest is None else path_of(dest)
    if folder is None:
        value = f"{dest}: not measured, since it is an object store"
        return [_finding("ok", "disk", value, facts={"dest": dest})]
    try:
        existing = _existing(folder)
        if quick:
            _check_writable(existing)
            return [_space(existing)]
        return [_speed(folder, existing, images_per_s), _space(existing)]
    except OSError as exc:
        level: Level = "note" if dest is None else "fix"
        value = f"{folder}: cannot be written: {exc.strerror or exc}"
        why = "a build there would fail"
        fix = "free some space, change its permissions, or give another folder with --dest"
        finding = _finding(level, "disk", value, why=why, fix=fix, facts={"folder": str(folder)})
        return [finding, *_space_if_known(folder)]


def _existing(folder: Path) -> Path:
    """Return the folder, or the closest folder above it that exists; OSError if it is a file."""
    absolute = folder.absolute()
    existing = next(each for each in (absolute, *absolute.parents) if each.exists())
    if not existing.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, f"{existing} is not a folder")
    return existing


def _check_writable(folder: Path) -> None:
    """Raise OSError if no file can be made in a folder."""
    with tempfile.TemporaryFile(dir=folder):
        pass


def _finding(level: Level, what: str, value: str, **more: Any) -> Finding:
    return Finding(group="build", level=level, what=what, value=value, **more)


def _speed(folder: Path, existing: Path, images_per_s: float | None) -> Finding:
    found = measure(existing)
    facts: dict[str, Any] = {"folder": str(folder), "measured_in": str(existing)}
    write, read = found.write_bytes_per_s / 1e6, found.read_bytes_per_s / 1e6
    facts |= {
        "write_mb_per_s": round(write, 1),
        "read_mb_per_s": round(read, 1),
        "bytes": found.n_bytes,
    }
    value = f"write {write:,.0f} MB/s, read {read:,.0f} MB/s at {existing}"
    needed = (images_per_s or 0.0) * RECORD_BYTES / 1e6
    if write < needed:
        why = f"the processors can fill {needed:,.0f} MB/s, so a build will wait for this disk"
        return _finding("note", "disk", value, why=why, fix="use a faster --dest", facts=facts)
    return _finding("ok", "disk", value, facts=facts)


def _space_if_known(folder: Path) -> list[Finding]:
    try:
        return [_space(_existing(folder))]
    except OSError:
        return []


def _space(existing: Path) -> Finding:
    free = shutil.disk_usage(existing).free
    needed = IMAGENET_BYTES + PIXEL_SUMS_BYTES
    facts = {"free_bytes": free, "imagenet_bytes": needed}
    value = f"{free / 1e9:,.0f} GB free; all of ImageNet takes {needed / 1e9:.0f} GB"
    if free < needed:
        fix = "free some space, give another --dest, or use --quality or --limit"
        return _finding(
            "note", "space", value, why="all of ImageNet does not fit", fix=fix, facts=facts
        )
    return _finding("ok", "space", value, facts=facts)
