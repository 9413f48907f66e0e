"""Done markers: ``<shard>.json``, written after its shard is on disk, says the shard is whole."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from imgprep.atomic import read_json, write_json
from imgprep.errors import FormatError
from imgprep.format import SCHEMA_VERSION, shard_stem


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
    """Digest of source, spec and engine: a shard of another build does not count as done."""
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

    def write(self, dest: Path) -> None:
        """Write ``<shard>.json`` into ``dest``: from now on the shard is done."""
        fields = asdict(self)
        fields["skipped"] = [asdict(skip) for skip in self.skipped]
        write_json(
            dest / f"{self.stem}.json",
            {"schema_version": SCHEMA_VERSION, "shard": f"{self.stem}.tar", **fields},
        )


def read_marker(path: Path) -> Marker:
    """Read and check a done marker.

    Raises:
        FormatError: missing, malformed, or of another schema version.
    """
    value = read_json(path, "done marker")
    if value.get("schema_version") != SCHEMA_VERSION:
        raise FormatError(
            f"{path}: schema version {value.get('schema_version')!r:.80}, this imgprep reads "
            f"{SCHEMA_VERSION}"
        )
    try:
        return _from_json(value)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as exc:
        raise FormatError(f"{path}: malformed done marker: {exc!r:.200}") from exc


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


def done_marker(dest: Path, split: str, number: int, build_sha256: str) -> Marker | None:
    """The marker of a shard if it is done by this very build, else None.

    Sizes are compared, contents are not read again: that is what ``verify`` is for.
    """
    stem = shard_stem(split, number)
    try:
        marker = read_marker(dest / f"{stem}.json")
        tar_bytes = (dest / f"{stem}.tar").stat().st_size
        idx_exists = (dest / f"{stem}.idx").is_file()
    except (FormatError, OSError):
        return None
    same = (marker.split, marker.number, marker.build_sha256) == (split, number, build_sha256)
    return marker if same and tar_bytes == marker.bytes and idx_exists else None
