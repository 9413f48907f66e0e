"""The state folder of a build: its lock, what it was begun from, and what waits for the merge."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgprep.atomic import (
    partial_file,
    read_json,
    read_regular,
    remove_partials,
    save_npy,
    write_json,
)
from imgprep.errors import BusyError, ChangedError, DestinationError, UsageError
from imgprep.format import DATASET_INFO, SCHEMA_VERSION, SPLITS, STATE_FOLDER, shard_stem
from imgprep.manifest import SplitManifest
from imgprep.npyfile import read_npy
from imgprep.plan import SplitPlan
from imgprep.spec import digest_of

PLAN = "plan.json"
LOCK = "lock"
LOCK_SECONDS = 3.0
"""How long to wait for DEST: the workers of a killed build hold it for a moment."""


@dataclass(frozen=True, slots=True)
class BuildIdentity:
    """All that decides the bytes of a dataset; each part is a flat JSON object."""

    source: dict[str, Any]
    spec: dict[str, Any]
    engine: dict[str, str]

    @property
    def sha256(self) -> str:
        """Digest that done markers carry."""
        return digest_of(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """The three parts as one JSON object."""
        return {"source": self.source, "spec": self.spec, "engine": self.engine}


@dataclass(frozen=True, slots=True)
class StatePaths:
    """Where things are in the state folder of ``dest``."""

    dest: Path

    @property
    def folder(self) -> Path:
        return self.dest / STATE_FOLDER

    @property
    def plan(self) -> Path:
        return self.folder / PLAN

    def manifest(self, split: str) -> Path:
        return self.folder / f"manifest-{split}"

    def order(self, split: str) -> Path:
        return self.folder / f"order-{split}.npy"

    def pixel_sum(self, split: str, number: int) -> Path:
        return self.folder / "moments" / f"{shard_stem(split, number)}.npy"


def check_places(source: Path, dest: Path) -> None:
    """Refuse to write into the source, or around it.

    Raises:
        UsageError: one folder lies inside the other.
    """
    source_real, dest_real = source.resolve(), dest.resolve()
    if dest_real == source_real or source_real in dest_real.parents:
        raise UsageError(f"DEST {dest} lies inside SOURCE {source}: choose a folder outside it")
    if dest_real in source_real.parents:
        raise UsageError(f"SOURCE {source} lies inside DEST {dest}: choose another DEST")


def check_ours(dest: Path) -> None:
    """Accept a missing or empty folder, or one that imgprep began.

    Raises:
        DestinationError: DEST is a file, cannot be read, or holds something else.
    """
    try:
        names = {entry.name for entry in os.scandir(dest)}
    except FileNotFoundError:
        return
    except OSError as exc:
        raise DestinationError(f"{dest}: {exc.strerror}: DEST must be a folder to write") from exc
    if names and not (dest / STATE_FOLDER).is_dir():
        raise DestinationError(
            f"{dest} is not empty and was not made by imgprep: choose a new or empty folder"
        )


@contextmanager
def locked(dest: Path) -> Iterator[StatePaths]:
    """Create DEST and its state folder and hold them alone.

    Raises:
        BusyError: another build holds DEST.
        DestinationError: DEST cannot be made or written.
    """
    paths = StatePaths(dest)
    try:
        paths.folder.mkdir(parents=True, exist_ok=True)
        fd = os.open(paths.folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as exc:
        raise DestinationError(f"{dest}: cannot write: {exc.strerror}") from exc
    try:
        _take_lock(fd, dest)
        yield paths
    finally:
        os.close(fd)


def _take_lock(fd: int, dest: Path) -> None:
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            if time.monotonic() > deadline:
                raise BusyError(f"{dest}: another build is writing here: wait for it") from exc
            time.sleep(0.05)


def begin(paths: StatePaths, identity: BuildIdentity, *, force: bool) -> bool:
    """Start a build in DEST or go on with it; True if it goes on.

    Raises:
        ChangedError: DEST was begun from another source, spec or engine, and not ``force``.
    """
    resumed = False
    if paths.plan.exists() and not force:
        _refuse_changes(paths, read_json(paths.plan, "build plan"), identity)
        resumed = True
    else:
        clear(paths)
    for folder in (paths.dest, paths.folder, paths.folder / "moments"):
        folder.mkdir(exist_ok=True)
        remove_partials(folder)
    if not resumed:
        write_json(paths.plan, {"schema_version": SCHEMA_VERSION, **identity.to_json()})
    return resumed


def _refuse_changes(paths: StatePaths, begun: dict[str, Any], identity: BuildIdentity) -> None:
    if begun.get("schema_version") != SCHEMA_VERSION:
        raise ChangedError(
            f"{paths.dest}: begun by an imgprep of schema version "
            f"{begun.get('schema_version')!r:.80}, this one writes {SCHEMA_VERSION}: choose "
            "another DEST, or --force to start over"
        )
    changes = [
        f"{part}.{name}: {_short(old)} then, {_short(new)} now"
        for part, fields in identity.to_json().items()
        for name, old, new in _differences(begun.get(part), fields)
    ]
    if changes:
        raise ChangedError(
            f"{paths.dest} was begun from something else:\n  "
            + "\n  ".join(changes)
            + "\nRestore that, choose another DEST, or start over with --force."
        )


def _differences(old: object, new: dict[str, Any]) -> list[tuple[str, object, object]]:
    then = old if isinstance(old, dict) else {}
    changed = (name for name in sorted(set(then) | set(new)) if then.get(name) != new.get(name))
    return [(name, then.get(name), new.get(name)) for name in changed]


def _short(value: object) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:12]}…"


def clear(paths: StatePaths) -> None:
    """Remove what an earlier build of ours left in DEST, and nothing else; the index goes first."""
    from imgprep.publish import published_names

    (paths.dest / DATASET_INFO).unlink(missing_ok=True)
    for name in published_names():
        (paths.dest / name).unlink(missing_ok=True)
    for split in SPLITS:
        for extension in ("json", "tar", "idx"):
            for path in paths.dest.glob(f"{split}-[0-9]*[0-9].{extension}"):
                path.unlink()
        shutil.rmtree(paths.manifest(split), ignore_errors=True)
        paths.order(split).unlink(missing_ok=True)
    shutil.rmtree(paths.folder / "moments", ignore_errors=True)
    paths.plan.unlink(missing_ok=True)


def save_split(paths: StatePaths, manifest: SplitManifest, plan: SplitPlan) -> None:
    """Leave manifest and plan of a split where every worker can map them."""
    manifest.save(paths.manifest(plan.split))
    with partial_file(paths.order(plan.split)) as file:
        save_npy(file, plan.order)


def save_pixel_sum(path: Path, pixel_sum_hwc: NDArray[np.int64]) -> str:
    """Keep a shard's pixel sum until the merge; returns the SHA-256 (hex) of its uint32 content."""
    narrow = pixel_sum_hwc.astype("<u4")
    with partial_file(path) as file:
        save_npy(file, narrow)
    return hashlib.sha256(narrow.tobytes()).hexdigest()


def load_pixel_sum(path: Path, sha256: str | None) -> NDArray[np.int64] | None:
    """A shard's pixel sum, or None if it is not there as it was written."""
    try:
        narrow: NDArray[np.uint32] = read_npy(read_regular(path))
    except (OSError, ValueError):
        return None
    if narrow.dtype != np.dtype("<u4") or hashlib.sha256(narrow.tobytes()).hexdigest() != sha256:
        return None
    return narrow.astype(np.int64)


def drop_work_files(paths: StatePaths) -> None:
    """Remove what only a running build needs, once the dataset is whole."""
    for split in SPLITS:
        shutil.rmtree(paths.manifest(split), ignore_errors=True)
        paths.order(split).unlink(missing_ok=True)
    shutil.rmtree(paths.folder / "moments", ignore_errors=True)
