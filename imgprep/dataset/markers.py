"""Done markers: ``.imgprep/done/<shard>.json``, written once a shard is safe on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from imgprep.dataset.format import DONE_FOLDER, SCHEMA_VERSION, marker_name, shard_stem
from imgprep.dataset.older_versions import is_known, is_marker_v1, is_v1, marker_name_v1
from imgprep.errors import FormatError
from imgprep.spec import digest_of
from imgprep.storage import Store
from imgprep.storage.atomic import json_bytes
from imgprep.storage.reading import exists, in_order, load_json, names_in, store_errors

SHARD_WARNINGS_MAX = 100

_CHECKSUM = "content_sha256"


@dataclass(frozen=True, kw_only=True, slots=True)
class Skip:
    """An image that was skipped, and why."""

    where: str
    cause: str


@dataclass(frozen=True, kw_only=True, slots=True)
class FileWarning:
    """An image that was used although its decoder warned, and the warning."""

    where: str
    cause: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Marker:
    """One finished shard."""

    split: str
    number: int
    build_sha256: str
    """Digest of the build identity: a shard of another build does not count as done."""
    records: int
    bytes: int
    sha256: str
    idx_sha256: str
    counts: dict[str, int]
    """How many images were grey, CMYK, enlarged, and so on."""
    skipped: tuple[Skip, ...]
    warnings: tuple[FileWarning, ...]
    """The first ``SHARD_WARNINGS_MAX`` of the shard; ``counts`` has the number of all."""
    rgb_second: tuple[int, ...] | None
    """Sums of (rr, gg, bb, rg, rb, gb) over all pixels of the shard; None outside train."""
    pixel_sum_sha256: str | None
    """Digest of the shard's pixel sum, which stays in the state folder until the merge."""

    @property
    def stem(self) -> str:
        """Shard name without extension."""
        return shard_stem(self.split, self.number)

    @property
    def name(self) -> str:
        """Name of the marker's file."""
        return marker_name(self.stem)

    def write(self, store: Store) -> None:
        """Write the file: from now on the shard is done."""
        fields = asdict(self)
        fields["skipped"] = [asdict(skip) for skip in self.skipped]
        value = {"schema_version": SCHEMA_VERSION, "shard": f"{self.stem}.tar", **fields}
        store.write(self.name, json_bytes({**value, _CHECKSUM: digest_of(value)}))


def remove_marker(store: Store, stem: str) -> None:
    """Remove the done marker of a shard, of any version: the next build makes the shard again."""
    store.remove(marker_name(stem), marker_name_v1(stem))


def has_markers(store: Store) -> bool:
    """Whether a store has any done markers, of any version.

    Raises:
        StoreError: the store does not answer, or refuses.
    """
    return bool(names_in(store, DONE_FOLDER)) or any(map(is_marker_v1, names_in(store)))


def read_marker(store: Store, stem: str) -> Marker:
    """Read and check the done marker of a shard; where there is none, that of version 1.

    Raises:
        FormatError: missing, malformed, damaged, or of another schema version.
    """
    name = marker_name(stem)
    try:
        value = load_json(store, name, "done marker")
    except FormatError as exc:
        missing = isinstance(exc.__cause__, (FileNotFoundError, NotADirectoryError))
        if not missing or not exists(store, marker_name_v1(stem)):
            raise
        name = marker_name_v1(stem)
        value = load_json(store, name, "done marker")
    if not is_known(value):
        raise FormatError(
            f"{store.where(name)}: schema version {value.get('schema_version')!r:.80}; this "
            f"imgprep reads versions 1 to {SCHEMA_VERSION}"
        )
    if not is_v1(value) and value.pop(_CHECKSUM, None) != digest_of(value):
        raise FormatError(f"{store.where(name)}: damaged done marker: its checksum does not match")
    try:
        return _from_json(value)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as exc:
        raise FormatError(f"{store.where(name)}: malformed done marker: {exc!r:.200}") from exc


def _from_json(value: dict[str, Any]) -> Marker:
    second = value["rgb_second"]
    pixel_sum = value["pixel_sum_sha256"]
    return Marker(
        split=str(value["split"]),
        number=int(value["number"]),
        build_sha256=str(value["build_sha256"]),
        records=int(value["records"]),
        bytes=int(value["bytes"]),
        sha256=str(value["sha256"]),
        idx_sha256=str(value["idx_sha256"]),
        counts={str(name): int(count) for name, count in value["counts"].items()},
        skipped=tuple(
            Skip(where=str(skip["where"]), cause=str(skip["cause"])) for skip in value["skipped"]
        ),
        warnings=tuple(  # absent in markers of earlier versions
            FileWarning(where=str(each["where"]), cause=str(each["cause"]))
            for each in value.get("warnings", ())
        ),
        rgb_second=None if second is None else tuple(int(number) for number in second),
        pixel_sum_sha256=None if pixel_sum is None else str(pixel_sum),
    )


def done_markers(
    store: Store, shards: Sequence[tuple[str, int]], build_sha256: str
) -> dict[tuple[str, int], Marker]:
    """Markers of those of ``shards`` (split, number) that this build has finished.

    Sizes are compared. Contents are not read again: ``verify`` does that.

    Raises:
        StoreError: the store does not answer, or refuses.
    """
    with store_errors(store):
        sizes = store.entries()
        marked = store.entries(DONE_FOLDER)

    def is_marked(shard: tuple[str, int]) -> bool:
        stem = shard_stem(*shard)
        return f"{stem}.json" in marked or marker_name_v1(stem) in sizes

    def done(shard: tuple[str, int]) -> Marker | None:
        stem = shard_stem(*shard)
        try:
            marker = read_marker(store, stem)
        except FormatError:
            return None
        same = (marker.split, marker.number, marker.build_sha256) == (*shard, build_sha256)
        whole = sizes.get(f"{stem}.tar") == marker.bytes and sizes.get(f"{stem}.idx") is not None
        return marker if same and whole else None

    found = in_order(store, done, filter(is_marked, shards))
    return {(marker.split, marker.number): marker for marker in found if marker is not None}
