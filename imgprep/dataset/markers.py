"""Done markers: ``<shard>.json``, written after its shard is on disk, says the shard is whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from imgprep.dataset.format import SCHEMA_VERSION, shard_stem
from imgprep.errors import FormatError
from imgprep.storage import Store
from imgprep.storage.atomic import json_bytes
from imgprep.storage.reading import in_order, load_json, store_errors


@dataclass(frozen=True, kw_only=True, slots=True)
class Skip:
    """An image that was left out, and why."""

    where: str
    cause: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Marker:
    """One finished shard."""

    split: str
    number: int
    build_sha256: str
    """Digest of source, spec and codecs: a shard of another build does not count as done."""
    records: int
    bytes: int
    sha256: str
    idx_sha256: str
    counts: dict[str, int]
    """How many images were grey, CMYK, enlarged, and so on."""
    skipped: tuple[Skip, ...]
    rgb_second: tuple[int, ...] | None
    """Sums of (rr, gg, bb, rg, rb, gb) over all pixels of the shard; None outside train."""
    pixel_sum_sha256: str | None
    """Digest of the shard's pixel sum, which waits in the state folder for the merge."""

    @property
    def stem(self) -> str:
        """Shard name without extension."""
        return shard_stem(self.split, self.number)

    def write(self, store: Store) -> None:
        """Write ``<shard>.json``: from now on the shard is done."""
        fields = asdict(self)
        fields["skipped"] = [asdict(skip) for skip in self.skipped]
        value = {"schema_version": SCHEMA_VERSION, "shard": f"{self.stem}.tar", **fields}
        store.write(f"{self.stem}.json", json_bytes(value))


def read_marker(store: Store, stem: str) -> Marker:
    """Read and check the done marker of a shard.

    Raises:
        FormatError: missing, malformed, or of another schema version.
    """
    name = f"{stem}.json"
    value = load_json(store, name, "done marker")
    if value.get("schema_version") != SCHEMA_VERSION:
        raise FormatError(
            f"{store.where(name)}: schema version {value.get('schema_version')!r:.80}, this "
            f"imgprep reads {SCHEMA_VERSION}"
        )
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
        rgb_second=None if second is None else tuple(int(number) for number in second),
        pixel_sum_sha256=None if pixel_sum is None else str(pixel_sum),
    )


def done_markers(
    store: Store, shards: Sequence[tuple[str, int]], build_sha256: str
) -> dict[tuple[str, int], Marker]:
    """Markers of those of ``shards`` (split, number) that are done by this very build.

    Sizes are compared, contents are not read again: that is what ``verify`` is for.

    Raises:
        StoreError: the store does not answer, or refuses.
    """
    with store_errors(store):
        sizes = store.entries()

    def done(shard: tuple[str, int]) -> Marker | None:
        return _done(store, shard, sizes, build_sha256)

    found = in_order(store, done, [shard for shard in shards if _is_marked(shard, sizes)])
    return {(marker.split, marker.number): marker for marker in found if marker is not None}


def _is_marked(shard: tuple[str, int], sizes: Mapping[str, int | None]) -> bool:
    return f"{shard_stem(*shard)}.json" in sizes


def _done(
    store: Store, shard: tuple[str, int], sizes: Mapping[str, int | None], build_sha256: str
) -> Marker | None:
    stem = shard_stem(*shard)
    try:
        marker = read_marker(store, stem)
    except FormatError:
        return None
    same = (marker.split, marker.number, marker.build_sha256) == (*shard, build_sha256)
    whole = sizes.get(f"{stem}.tar") == marker.bytes and sizes.get(f"{stem}.idx") is not None
    return marker if same and whole else None
