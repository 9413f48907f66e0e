"""Check one shard against the index: hash, tar structure, DALI index, labels, pixels."""

from __future__ import annotations

import hashlib
import mmap
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from imgprep.colour.moments import Moments, MomentsAccumulator
from imgprep.dataset.encodings import encoding_of
from imgprep.dataset.format import DALI_INDEX_VERSION, LABEL_DIGITS_MAX
from imgprep.dataset.index import DatasetIndex, ShardInfo
from imgprep.dataset.markers import has_markers, read_marker
from imgprep.dataset.shard_walk import BadTarError, Member, index_line, records
from imgprep.errors import FormatError, MemoryLimitError
from imgprep.image.resize import central_square
from imgprep.runners.runner import Tick
from imgprep.spec import Shape
from imgprep.storage import Store, absolute, open_store
from imgprep.storage.reading import on_disk, read_bytes, store_errors

HASH_BYTES = 1 << 20
DAMAGES_MAX = 20
"""Damages listed for one shard; one wrong length in a tar causes many."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifySetup:
    """What all shards of a dataset have in common."""

    location: str
    """Path or URL of the dataset, valid in any process."""
    size_px: int
    shape: Shape
    encoding: str
    classes: int
    label_digits: int
    decode: bool
    marked: bool
    """Whether there are done markers: a copy of the visible files alone has none."""

    @classmethod
    def of(cls, index: DatasetIndex, *, decode: bool) -> VerifySetup:
        """The setup for a dataset."""
        return cls(
            location=absolute(index.store),
            size_px=index.size_px,
            shape=index.shape,
            encoding=index.encoding,
            classes=index.classes,
            label_digits=index.label_digits,
            decode=decode,
            marked=has_markers(index.store),
        )


@dataclass(frozen=True, slots=True)
class VerifyTask:
    """Which shard to check."""

    split: str
    shard: ShardInfo

    def __str__(self) -> str:
        return self.shard.name


@dataclass(frozen=True, slots=True)
class Damage:
    """A file or record that is not as it was written."""

    where: str
    what: str


@dataclass(slots=True)
class ShardCheck:
    """The result of checking a shard."""

    task: VerifyTask
    damages: list[Damage] = field(default_factory=list)
    records: int = 0
    rows: array[int] = field(default_factory=lambda: array("q"))
    """Row number in each key, in order."""
    labels: array[int] = field(default_factory=lambda: array("q"))
    """Label of each record, in order."""
    moments: Moments | None = None
    """Moments of the decoded training records, if they were decoded."""


def verify_shard(task: VerifyTask, setup: VerifySetup, tick: Tick) -> Callable[[], ShardCheck]:
    """Check a shard; damage is listed and never raised.

    Raises:
        StoreError: the files cannot be read for a fault of the machine or of the store.
        MemoryLimitError: there is not enough memory for a record.
    """
    check = ShardCheck(task)
    store = open_store(setup.location)
    try:
        with (
            on_disk(store, task.shard.name, limit_bytes=task.shard.bytes) as path,
            store_errors(store, task.shard.name),
        ):
            tar_bytes = path.stat().st_size
            if tar_bytes != task.shard.bytes:
                _damage(check, f"{tar_bytes:,} bytes, the index states {task.shard.bytes:,}")
            lines: list[str] | None = None
            if tar_bytes:
                with (
                    path.open("rb") as file,
                    mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as tar,
                ):
                    lines = _check_tar(check, setup, tar, tick)
        idx = read_bytes(store, task.shard.idx_name)
        if lines is not None:
            _check_idx(check, idx, lines)
        if setup.marked:
            _check_marker(check, store, hashlib.sha256(idx).hexdigest())
    except OSError as exc:
        where = exc.filename or store.where(task.shard.name)
        _damage(check, f"cannot be read: {exc.strerror}: {where}")
    except FormatError as exc:
        _damage(check, str(exc))
    return partial(_give, check)


def _give(check: ShardCheck) -> ShardCheck:
    return check


def _damage(check: ShardCheck, what: str, where: str | None = None) -> None:
    if len(check.damages) < DAMAGES_MAX:
        check.damages.append(Damage(where or check.task.shard.name, what))


def _check_marker(check: ShardCheck, store: Store, idx_sha256: str) -> None:
    shard = check.task.shard
    marker = read_marker(store, shard.name.removesuffix(".tar"))
    if (marker.records, marker.bytes, marker.sha256) != (shard.records, shard.bytes, shard.sha256):
        _damage(check, "this done marker and the index state different shards", marker.name)
    if marker.idx_sha256 != idx_sha256:
        _damage(check, "its bytes are not those that were written", shard.idx_name)


def _check_tar(check: ShardCheck, setup: VerifySetup, tar: mmap.mmap, tick: Tick) -> list[str]:
    """Check the content of a tar; returns the lines that its DALI index must have."""
    digest = hashlib.sha256()
    with memoryview(tar) as view:
        for start in range(0, len(view), HASH_BYTES):
            with view[start : start + HASH_BYTES] as block:
                digest.update(block)
    if digest.hexdigest() != check.task.shard.sha256:
        _damage(check, "its bytes are not those that were written (SHA-256 differs)")
    lines: list[str] = []
    accumulator = None
    if setup.decode and check.task.split == "train":
        accumulator = MomentsAccumulator(setup.size_px)
    try:
        for image, label in records(tar, encoding_of(setup.encoding).extension):
            lines.append(index_line(image, label))
            _check_record(check, setup, tar, (image, label), accumulator)
            tick(None)
    except BadTarError as exc:
        _damage(check, str(exc))
    check.records = len(lines)
    if len(lines) != check.task.shard.records:
        _damage(check, f"{len(lines)} records, the index states {check.task.shard.records}")
    if accumulator is not None:
        check.moments = accumulator.moments()
    return lines


def _check_idx(check: ShardCheck, idx: bytes, lines: list[str]) -> None:
    name = check.task.shard.idx_name
    text = idx.decode("ascii", errors="replace").splitlines()
    if not text or text[0] != f"{DALI_INDEX_VERSION} {len(lines)}":
        _damage(check, f"first line is not '{DALI_INDEX_VERSION} {len(lines)}'", name)
    for number, (stated, found) in enumerate(zip(text[1:], lines, strict=False), 2):
        if stated != found:
            _damage(check, f"line {number} does not match the tar: {stated[:80]!r}", name)
            return
    if len(text) != len(lines) + 1:
        _damage(check, f"{len(text) - 1} lines for {len(lines)} records", name)


def _check_record(
    check: ShardCheck,
    setup: VerifySetup,
    tar: mmap.mmap,
    record: tuple[Member, Member],
    accumulator: MomentsAccumulator | None,
) -> None:
    image, label = record
    where = f"{check.task.shard.name}:{image.name}"
    split, _, row = image.name.partition(".")[0].rpartition("-")
    ascii_label = tar[label.offset : label.offset + label.size_bytes]
    if split != check.task.split or not row.isdigit() or len(row) > LABEL_DIGITS_MAX:
        _damage(check, "its key is not of this split", where)
        return
    if len(ascii_label) != setup.label_digits or not ascii_label.isdigit():
        _damage(check, f"its label {ascii_label[:16]!r} is not {setup.label_digits} digits", where)
        return
    check.rows.append(int(row))
    check.labels.append(int(ascii_label))
    if check.labels[-1] >= setup.classes:
        _damage(check, f"label {check.labels[-1]} of {setup.classes} classes", where)
    if setup.decode:
        data = tar[image.offset : image.offset + image.size_bytes]
        _decode(check, setup, data, where, accumulator)


def _decode(
    check: ShardCheck,
    setup: VerifySetup,
    data: bytes,
    where: str,
    accumulator: MomentsAccumulator | None,
) -> None:
    try:
        image_hwc = encoding_of(setup.encoding).view(data, setup.size_px, setup.shape)
    except FormatError as exc:
        _damage(check, str(exc), where)
        return
    except MemoryError as exc:
        raise MemoryLimitError.at(where) from exc
    if accumulator is not None:
        accumulator.add(central_square(image_hwc, setup.size_px))
