"""The state folder of a build: what its workers read, and what is kept until the merge."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imgprep.build.identity import BuildIdentity, is_current, refuse_changes, stored_identity
from imgprep.build.split_plan import SplitPlan
from imgprep.dataset.format import (
    DATASET_INFO,
    DONE_FOLDER,
    IDENTITY,
    SPLITS,
    STATE_FOLDER,
    published_names,
    shard_stem,
)
from imgprep.dataset.markers import Marker
from imgprep.dataset.npyfile import read_npy
from imgprep.dataset.older_versions import IDENTITY_V1, is_marker_v1
from imgprep.errors import ChangedError
from imgprep.sources.manifest import SplitManifest
from imgprep.storage import Store
from imgprep.storage.atomic import save_npy
from imgprep.storage.reading import exists, read_bytes

_SHARD_FILE = re.compile(rf"({'|'.join(SPLITS)})-[0-9]+\.(tar|idx)")


@dataclass(frozen=True, slots=True)
class StatePaths:
    """Names in the state folder of a store."""

    store: Store

    folder = STATE_FOLDER
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


def begin(paths: StatePaths, identity: BuildIdentity, *, force: bool) -> bool:
    """Start a build in DEST, or resume the one that was begun there; True if it is resumed.

    Raises:
        ChangedError: DEST was begun from another source, spec or codecs, and not ``force``.
    """
    store = paths.store
    begun = None if force else stored_identity(store)
    if begun is not None:
        refuse_changes(store, begun, identity)
    elif not force and exists(store, DATASET_INFO):
        raise ChangedError(
            f"{store} holds a dataset, but {IDENTITY}, which says what it was built from, is "
            "missing: restore that file, choose another DEST, or start over with --force"
        )
    else:
        clear(paths)
    for folder in ("", paths.folder, paths.moments, DONE_FOLDER):
        store.sweep(folder)
    if begun is None:
        identity.write(store)
        store.remove(IDENTITY_V1)
    return begun is not None


def upgrade(paths: StatePaths, identity: BuildIdentity, markers: Iterable[Marker]) -> None:
    """Turn the state of a build of version 1 or 2 into version 3.

    It may be interrupted anywhere and repeated: markers and identity are written first, then what
    version 1 left is removed, its identity last. An older index, and the markers of version 2,
    stay: they are still read.
    """
    store = paths.store
    if not exists(store, IDENTITY_V1):
        if not is_current(store):
            identity.write(store)
        return
    present = set(store.names(DONE_FOLDER))
    for marker in markers:
        if f"{marker.stem}.json" not in present:
            marker.write(store)
    identity.write(store)
    store.remove(*filter(is_marker_v1, store.names()))
    store.remove(IDENTITY_V1)


def clear(paths: StatePaths) -> None:
    """Remove what an earlier build left in DEST, except its identity, and nothing else."""
    store = paths.store
    names = store.names()
    shards = [name for name in names if _SHARD_FILE.fullmatch(name)]
    markers = [*filter(is_marker_v1, names)]
    markers += [f"{DONE_FOLDER}/{name}" for name in store.names(DONE_FOLDER)]
    published = set(names) & set(published_names())
    # The index goes before the markers and these before their shards: an interrupted removal
    # never leaves something that claims more than is there.
    for group in ({DATASET_INFO} & published, published, markers, shards):
        store.remove(*group)
    drop_work_files(paths)


def save_split(paths: StatePaths, manifest: SplitManifest, plan: SplitPlan) -> None:
    """Write manifest and split plan where every worker can map them."""
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
    """Local paths of a split's manifest and order, within the block."""
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
    """A shard's pixel sum, or None if it is missing or not as it was written."""
    try:
        narrow: NDArray[np.uint32] = read_npy(read_bytes(store, name))
    except (OSError, ValueError):
        return None
    if narrow.dtype != np.dtype("<u4") or hashlib.sha256(narrow.tobytes()).hexdigest() != sha256:
        return None
    return narrow.astype(np.int64)


def drop_work_files(paths: StatePaths) -> None:
    """Remove what only a running build needs, and what lost workers left half-written."""
    for folder in ("", paths.folder, DONE_FOLDER):
        paths.store.sweep(folder)
    for folder in (*map(paths.manifest, SPLITS), paths.moments):
        paths.store.remove_folder(folder)
    paths.store.remove(*map(paths.order, SPLITS))
