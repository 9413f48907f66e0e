"""The state folder of a build: its lock, what it was begun from, and what waits for the merge."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgprep.storage.atomic import json_bytes, save_npy
from imgprep.errors import ChangedError, DestinationError, UsageError
from imgprep.dataset.format import DATASET_INFO, SCHEMA_VERSION, SPLITS, STATE_FOLDER, shard_stem, published_names
from imgprep.sources.manifest import SplitManifest
from imgprep.dataset.npyfile import read_npy
from imgprep.build.split_plan import SplitPlan
from imgprep.spec import digest_of
from imgprep.storage import Location, Store, open_store
from imgprep.storage.reading import exists, load_json, read_bytes, store_words
from imgprep.storage.urls import file_system

LOCK = f"{STATE_FOLDER}/lock"
_SHARD_FILE = re.compile(rf"({'|'.join(SPLITS)})-[0-9]+\.(json|tar|idx)")


@dataclass(frozen=True, slots=True)
class BuildIdentity:
    """All that decides the bytes of a dataset; each part is a flat JSON object."""

    source: dict[str, Any]
    spec: dict[str, Any]
    codecs: dict[str, str]

    @property
    def sha256(self) -> str:
        """Digest that done markers carry."""
        return digest_of(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """The three parts as one JSON object."""
        return {"source": self.source, "spec": self.spec, "engine": self.codecs}


@dataclass(frozen=True, slots=True)
class StatePaths:
    """Names in the state folder of a store."""

    store: Store

    folder = STATE_FOLDER
    plan = f"{STATE_FOLDER}/plan.json"
    moments = f"{STATE_FOLDER}/moments"

    def manifest(self, split: str) -> str:
        """The folder of a split's manifest."""
        return f"{self.folder}/manifest-{split}"

    def order(self, split: str) -> str:
        """The write order of a split."""
        return f"{self.folder}/order-{split}.npy"

    def pixel_sum(self, split: str, number: int) -> str:
        """The pixel sum of a shard."""
        return f"{self.moments}/{shard_stem(split, number)}.npy"


def check_places(source: Location, dest: Location) -> None:
    """Refuse to write into the source, or around it.

    Raises:
        UsageError: one folder lies inside the other.
    """
    source_parts, dest_parts = _parts(source), _parts(dest)
    if source_parts == dest_parts[: len(source_parts)]:
        raise UsageError(f"DEST {dest} lies inside SOURCE {source}: choose a folder outside it")
    if dest_parts == source_parts[: len(dest_parts)]:
        raise UsageError(f"SOURCE {source} lies inside DEST {dest}: choose another DEST")


def _parts(location: Location) -> tuple[object, ...]:
    """The real place, from its root on: equal beginnings mean that one lies in the other."""
    store = open_store(location)
    if store.folder is not None:
        return ("file", *store.folder.resolve().parts)
    fs, path = file_system(store.location)
    protocols = (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)
    return (*protocols[:1], *filter(None, path.split("/")))


def check_ours(store: Store) -> None:
    """Accept a missing or empty folder, or one that imgprep began.

    Raises:
        DestinationError: DEST is a file, cannot be read, or holds something else.
    """
    try:
        entries = store.entries()
    except OSError as exc:
        if store.folder is None and not isinstance(exc, NotADirectoryError):
            raise DestinationError(f"{store}: {store_words(exc)}") from exc
        raise DestinationError(f"{store}: {exc.strerror}: DEST must be a folder to write") from exc
    if entries and (STATE_FOLDER not in entries or entries[STATE_FOLDER] is not None):
        raise DestinationError(
            f"{store} is not empty and was not made by imgprep: choose a new or empty folder"
        )


@contextmanager
def locked(store: Store) -> Iterator[str]:
    """Create DEST and its state folder and hold them alone; gives the token of this hold.

    Raises:
        BusyError: another build holds DEST.
        DestinationError: DEST cannot be made or written.
    """
    hold = store.hold(LOCK)
    try:
        token = hold.__enter__()
    except OSError as exc:
        why = exc.strerror if store.folder is not None else store_words(exc)
        raise DestinationError(f"{store}: cannot write: {why}") from exc
    try:
        yield token
    finally:
        hold.__exit__(None, None, None)


def begin(paths: StatePaths, identity: BuildIdentity, *, force: bool) -> bool:
    """Start a build in DEST or go on with it; True if it goes on.

    Raises:
        ChangedError: DEST was begun from another source, spec or codecs, and not ``force``.
    """
    store = paths.store
    resumed = exists(store, paths.plan) and not force
    if resumed:
        _refuse_changes(store, load_json(store, paths.plan, "build plan"), identity)
    else:
        clear(paths)
    for folder in ("", paths.folder, paths.moments):
        store.sweep(folder)
    if not resumed:
        plan = {"schema_version": SCHEMA_VERSION, **identity.to_json()}
        store.write(paths.plan, json_bytes(plan))
    return resumed


def _refuse_changes(store: Store, begun: dict[str, Any], identity: BuildIdentity) -> None:
    if begun.get("schema_version") != SCHEMA_VERSION:
        raise ChangedError(
            f"{store}: begun by an imgprep of schema version "
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
            f"{store} was begun from something else:\n  "
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
    """Remove what an earlier build of ours left in DEST, and nothing else, but for its plan."""
    store = paths.store
    names = store.names()
    shards = [name for name in names if _SHARD_FILE.fullmatch(name)]
    markers = [name for name in shards if name.endswith(".json")]
    published = set(names) & set(published_names())
    for group in ({DATASET_INFO} & published, published, markers, shards):
        store.remove(*group)  # no index outlives a marker, no marker its shard
    drop_work_files(paths)


def save_split(paths: StatePaths, manifest: SplitManifest, plan: SplitPlan) -> None:
    """Leave manifest and plan of a split where every worker can map them."""
    with paths.store.new_folder(paths.manifest(plan.split)) as folder:
        manifest.save(folder)
    partial = paths.store.partial(paths.order(plan.split))
    try:
        save_npy(partial.file, plan.order)
    except BaseException:
        partial.abandon()
        raise
    partial.commit()


@contextmanager
def split_files(paths: StatePaths, split: str) -> Iterator[tuple[Path, Path]]:
    """Local paths of a split's manifest and order, for the time of the block."""
    store = paths.store
    with (
        store.as_folder(paths.manifest(split)) as manifest,
        store.as_file(paths.order(split)) as order,
    ):
        yield manifest, order


def save_pixel_sum(store: Store, name: str, pixel_sum_hwc: NDArray[np.int64]) -> str:
    """Keep a shard's pixel sum until the merge; returns the SHA-256 (hex) of its uint32 content."""
    narrow = pixel_sum_hwc.astype("<u4")
    file = io.BytesIO()
    np.save(file, narrow, allow_pickle=False)
    store.write(name, file.getvalue())
    return hashlib.sha256(narrow.tobytes()).hexdigest()


def load_pixel_sum(store: Store, name: str, sha256: str | None) -> NDArray[np.int64] | None:
    """A shard's pixel sum, or None if it is not there as it was written."""
    try:
        narrow: NDArray[np.uint32] = read_npy(read_bytes(store, name))
    except (OSError, ValueError):
        return None
    if narrow.dtype != np.dtype("<u4") or hashlib.sha256(narrow.tobytes()).hexdigest() != sha256:
        return None
    return narrow.astype(np.int64)


def drop_work_files(paths: StatePaths) -> None:
    """Remove what only a running build needs, once the dataset is whole.

    That is also what workers left half-written that were lost on the way.
    """
    for folder in ("", paths.folder):
        paths.store.sweep(folder)
    for folder in (*map(paths.manifest, SPLITS), paths.moments):
        paths.store.remove_folder(folder)
    paths.store.remove(*map(paths.order, SPLITS))
