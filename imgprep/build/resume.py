"""What an interrupted or finished build left in DEST: its index, and which shards are done."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from imgprep.build.state import StatePaths, load_pixel_sum
from imgprep.dataset.format import (
    CARD,
    MEAN_IMAGE_PNG,
    NPY_HEADER_BYTES,
    PIXEL_SUM,
    REPORT,
    TIMM_INFO,
)
from imgprep.dataset.index import DatasetIndex, load_index
from imgprep.dataset.markers import Marker, done_markers
from imgprep.errors import FormatError
from imgprep.storage import Store
from imgprep.storage.reading import read_bytes, store_errors

Shard = tuple[str, int]
"""Split and number."""


def finished_index(store: Store) -> tuple[DatasetIndex | None, tuple[str, ...]]:
    """The index of a published dataset, and which files beside its shards are lost or damaged.

    Without a whole ``pixel_sum.npy`` there is no index: the statistics need all training images.
    """
    try:
        index = load_index(store)
    except FormatError:
        return None, ()
    names = [*index.files, REPORT, TIMM_INFO, CARD]
    if PIXEL_SUM in index.files:
        names.append(MEAN_IMAGE_PNG)
    lost = tuple(name for name in names if not _is_whole(store, name, index.files.get(name)))
    return (None, ()) if PIXEL_SUM in lost else (index, lost)


def _is_whole(store: Store, name: str, sha256: str | None) -> bool:
    """Whether a file has the hash that the index states; one without a hash must only exist."""
    try:
        data = read_bytes(store, name)
    except OSError:
        return False
    return bool(data) if sha256 is None else hashlib.sha256(data).hexdigest() == sha256


def done_shards(
    paths: StatePaths, shards: Sequence[Shard], build_sha256: str, *, size_px: int, published: bool
) -> dict[Shard, Marker]:
    """Markers of the shards that need not be built.

    Until the statistics are published, a training shard also needs its pixel sum.
    """
    markers = done_markers(paths.store, shards, build_sha256)
    if not published:
        train = [marker for (split, _), marker in markers.items() if split == "train"]
        for marker in _without_pixel_sum(paths, train, size_px):
            del markers[marker.split, marker.number]
    return markers


def _without_pixel_sum(paths: StatePaths, train: list[Marker], size_px: int) -> list[Marker]:
    """Done training shards whose pixel sum is missing or not as it was written.

    On an object store only the size is compared; the merge checks the content.
    """
    store = paths.store
    if store.folder is None:
        with store_errors(store):
            sizes = store.entries(paths.moments)
        size_bytes = NPY_HEADER_BYTES + 4 * 3 * size_px**2
        return [marker for marker in train if sizes.get(f"{marker.stem}.npy") != size_bytes]

    def found(marker: Marker) -> bool:
        name = paths.pixel_sum(marker.split, marker.number)
        return load_pixel_sum(store, name, marker.pixel_sum_sha256) is not None

    return [marker for marker in train if not found(marker)]
