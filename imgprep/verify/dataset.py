"""Check that a dataset is what its index states: shards, labels, statistics. Reads only."""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import time
import zlib
from array import array
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgprep.colour.moments import Moments
from imgprep.colour.stats import moments_of
from imgprep.dataset.card import card_fault, timm_fault
from imgprep.dataset.encodings import encoding_of
from imgprep.dataset.format import (
    CARD,
    DATASET_INFO,
    LABELS,
    MEAN_IMAGE_NPY,
    MEAN_IMAGE_PNG,
    PIXEL_SUM,
    REPORT,
    RGB_PCA,
    SPLITS,
    TIMM_INFO,
    sources_name,
)
from imgprep.dataset.index import DatasetIndex, SplitInfo, load_index
from imgprep.dataset.labels import LabelMap
from imgprep.dataset.npyfile import read_npy
from imgprep.errors import EXIT_DAMAGED, EXIT_DONE, DamageError, FormatError, ImageError
from imgprep.image.decode import decode_image
from imgprep.runners.choose import open_runner, runner_for
from imgprep.runners.runner import LOCAL, Progress, Workload
from imgprep.storage import Location, Store, open_store
from imgprep.storage.reading import exists, load_json, names_in, read_bytes
from imgprep.verify.shard import Damage, ShardCheck, VerifySetup, VerifyTask, verify_shard
from imgprep.wording import counted

SOURCE_LINE_BYTES_MAX = 64 * 1024
"""Limit on one line of an untrusted file; two paths with every byte escaped are shorter."""


@dataclass(slots=True)
class VerifyReport:
    """The result of verify."""

    folder: str
    """Path or URL of the dataset."""
    shards: int = 0
    records: dict[str, int] = field(default_factory=dict)
    decoded: bool = False
    damages: list[Damage] = field(default_factory=list)
    mean_difference_levels: float | None = None
    """Largest difference of the mean of the decoded records from mean_image.npy, 0-255."""
    covariance_difference: float | None = None
    """Largest difference of the RGB covariance of the decoded records from the stored one, as a
    share of the largest covariance. JPEG at quality 95 changes it by some tenths of a per cent."""
    seconds: float = 0.0

    @property
    def exit_code(self) -> int:
        """0, or 4 if anything is damaged."""
        return EXIT_DAMAGED if self.damages else EXIT_DONE

    def render(self) -> str:
        """For people: what was checked and what is damaged."""
        counts = ", ".join(
            counted(records, f"{name} record") for name, records in self.records.items()
        )
        how = "hashed and decoded" if self.decoded else "hashed"
        lines = [f"{counted(self.shards, 'shard')} ({counts}) {how} in {self.seconds:.1f} s"]
        if self.mean_difference_levels is not None:
            lines.append(
                "mean of the decoded training records and mean_image.npy differ by at most "
                f"{self.mean_difference_levels:.3f} levels of 255"
            )
        if self.covariance_difference is not None:
            lines.append(
                "their RGB covariance and the one in rgb_pca.json differ by at most "
                f"{100 * self.covariance_difference:.2f} % of the largest"
            )
        lines += [f"DAMAGED {damage.where}: {damage.what}" for damage in self.damages]
        if self.damages:
            lines.append(
                "To repair a shard, remove its .tar and .idx; to repair another file, remove it. "
                "Then run build-shards again."
            )
        else:
            lines.append("OK: everything is as the index states")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {**asdict(self), "ok": not self.damages}


def verify(
    location: Location, *, decode: bool, jobs: int | None, advanced: Callable[[int], None]
) -> VerifyReport:
    """Check a whole dataset; ``advanced`` is called with the number of records just checked.

    Raises:
        FormatError: no finished dataset is at ``location``.
        DamageError: the index itself is damaged.
        StoreError: an object store does not answer, or refuses.
    """
    started = time.monotonic()
    store = open_store(location)
    try:
        index = load_index(store)
    except FormatError as exc:
        if exists(store, DATASET_INFO):
            raise DamageError(str(exc)) from exc
        raise
    report = VerifyReport(str(store), decoded=decode)
    setup = VerifySetup.of(index, decode=decode)
    tasks = [VerifyTask(name, shard) for name, s in index.splits.items() for shard in s.shards]
    checks: dict[str, ShardCheck] = {}
    totals: list[Moments] = []
    name = runner_for(LOCAL, store.location)
    load = Workload(work=verify_shard, setup=setup, tasks=len(tasks), jobs=jobs)
    with open_runner(name, load) as runner:
        for event in runner.run(tasks):
            if isinstance(event, Progress):
                advanced(event.done)
            elif isinstance(event, ShardCheck):
                checks[event.task.shard.name] = event
                _take_moments(totals, event)
    for task in tasks:
        report.damages += checks[task.shard.name].damages
    report.shards = len(tasks)
    for name, split in index.splits.items():
        found = [checks[shard.name] for shard in split.shards]
        report.records[name] = sum(check.records for check in found)
        _check_labels(report, index, split, found)
    _check_files(report, index)
    _check_strays(report, index)
    _check_picture(report, index)
    _check_cards(report, index)
    _check_stats(report, index, totals[0] if totals else None)
    report.seconds = time.monotonic() - started
    return report


def _take_moments(totals: list[Moments], check: ShardCheck) -> None:
    """Add up moments as they arrive, so that memory does not grow with the number of shards."""
    if check.moments is not None:
        totals[:] = [totals[0] + check.moments if totals else check.moments]
        check.moments = None


def _check_labels(
    report: VerifyReport, index: DatasetIndex, split: SplitInfo, checks: list[ShardCheck]
) -> None:
    """Each key must occur once, with the label of its source."""
    rows = np.concatenate([np.zeros(0, np.int64), *(check.rows for check in checks)])
    labels = np.concatenate([np.zeros(0, np.int64), *(check.labels for check in checks)])
    unique, counts = np.unique(rows, return_counts=True)
    for row in unique[counts > 1][:20]:
        report.damages.append(Damage(f"{split.name}-{row:08d}", "the key appears more than once"))
    name = sources_name(split.name)
    if _is_reported_missing(index, name):
        return
    try:
        truth = read_source_labels(index.store, name)
    except FormatError as exc:
        report.damages.append(Damage(name, str(exc)))
        return
    if len(unique) and unique[-1] >= len(truth):
        report.damages.append(Damage(name, f"has no line for row {unique[-1]}"))
        return
    wrong = np.flatnonzero(truth[rows] != labels) if len(rows) else rows
    for at in wrong[:20]:
        key = f"{split.name}-{rows[at]:08d}"
        what = f"label {labels[at]}, its source has {truth[rows[at]]}"
        report.damages.append(Damage(key, what))


def read_source_labels(store: Store, name: str, *, classes: int | None = None) -> NDArray[np.int64]:
    """Label of each manifest row of a split, from ``<split>-sources.tsv.gz``.

    With ``classes``, every label must be below it.

    Raises:
        FormatError: missing or malformed.
    """
    labels = array("q")
    try:
        with gzip.open(io.BytesIO(read_bytes(store, name))) as file:
            while line := file.readline(SOURCE_LINE_BYTES_MAX):
                row, label, _ = line.split(b"\t", 2)
                if int(row) != len(labels) or not line.endswith(b"\n"):
                    raise ValueError(f"line {len(labels) + 1} is of row {int(row)}, or incomplete")
                labels.append(int(label))
    except (OSError, EOFError, ValueError, OverflowError, zlib.error) as exc:
        where = store.where(name)
        raise FormatError(f"{where}: malformed list of sources: {exc!s:.200}") from exc
    found = np.array(labels, dtype=np.int64)
    if classes is not None and len(found) and not (found.min() >= 0 and found.max() < classes):
        raise FormatError(f"{store.where(name)}: malformed list of sources: unknown label")
    return found


def _check_files(report: VerifyReport, index: DatasetIndex) -> None:
    for name, sha256 in index.files.items():
        try:
            found = hashlib.sha256(read_bytes(index.store, name)).hexdigest()
        except OSError as exc:
            report.damages.append(Damage(name, f"cannot be read: {exc.strerror}"))
            continue
        if found != sha256:
            report.damages.append(Damage(name, "its bytes are not those that were written"))
    try:
        load_json(index.store, REPORT, "report")
    except FormatError as exc:
        report.damages.append(Damage(REPORT, str(exc)))
    if _is_reported_missing(index, LABELS):
        return
    try:
        labels = LabelMap.from_json(load_json(index.store, LABELS, "labels"))
    except FormatError as exc:
        report.damages.append(Damage(LABELS, str(exc)))
        return
    if (len(labels.classes), labels.order_sha256) != (index.classes, index.label_order_sha256):
        report.damages.append(Damage(LABELS, "its classes or their order differ from the index"))


def _is_reported_missing(index: DatasetIndex, name: str) -> bool:
    """Whether ``_check_files`` says of the file that it cannot be read: once is enough."""
    return name in index.files and not exists(index.store, name)


def _check_strays(report: VerifyReport, index: DatasetIndex) -> None:
    """Shards that a glob pattern would match, but that the index does not name."""
    known = {shard.name for split in index.splits.values() for shard in split.shards}
    pattern = re.compile(rf"({'|'.join(SPLITS)})-.*\.tar")
    for name in names_in(index.store):
        if name not in known and pattern.fullmatch(name):
            report.damages.append(Damage(name, "the index does not name this shard"))


def _check_stats(report: VerifyReport, index: DatasetIndex, decoded: Moments | None) -> None:
    """The statistics must agree with each other and, if decoded, with the pixels."""
    damaged = {damage.where for damage in report.damages}
    if RGB_PCA not in index.files or damaged & {RGB_PCA, PIXEL_SUM, MEAN_IMAGE_NPY}:
        return
    try:
        moments = moments_of(index)
        mean_image = read_npy(read_bytes(index.store, MEAN_IMAGE_NPY))
    except (FormatError, OSError, ValueError) as exc:
        report.damages.append(Damage(RGB_PCA, str(exc)))
        return
    if not np.array_equal(mean_image, moments.mean_image_hwc()):
        report.damages.append(Damage(MEAN_IMAGE_NPY, f"is not {PIXEL_SUM} / number of images"))
    if moments.images != index.splits["train"].records:
        records = counted(index.splits["train"].records, "record")
        what = f"is of {counted(moments.images, 'image')}, but train has {records}"
        report.damages.append(Damage(RGB_PCA, what))
    if decoded is None or decoded.images != moments.images:
        return
    difference = np.abs(decoded.mean_image_hwc() - mean_image)
    report.mean_difference_levels = float(difference.max())
    stored = moments.rgb_covariance()
    apart = float(np.abs(decoded.rgb_covariance() - stored).max())
    report.covariance_difference = apart / max(float(np.abs(stored).max()), 1e-9)
    if encoding_of(index.encoding).is_lossless and decoded != moments:
        report.damages.append(Damage(RGB_PCA, "differs from the statistics of the decoded records"))


def _check_picture(report: VerifyReport, index: DatasetIndex) -> None:
    """``mean_image.png`` must be the rounded mean image; the index has no hash of it."""
    if MEAN_IMAGE_NPY not in index.files:
        return
    try:
        data = read_bytes(index.store, MEAN_IMAGE_PNG)
        picture = decode_image(data, max_megapixels=1 + index.size_px**2 // 10**6, exif="ignore")
        if any(damage.where == MEAN_IMAGE_NPY for damage in report.damages):
            return
        mean_image = read_npy(read_bytes(index.store, MEAN_IMAGE_NPY))
    except (OSError, ImageError, ValueError) as exc:
        why = (exc.strerror if isinstance(exc, OSError) else None) or exc
        report.damages.append(Damage(MEAN_IMAGE_PNG, f"cannot be read: {why}"))
        return
    if not np.array_equal(picture.image_hwc, np.floor(mean_image + 0.5)):
        report.damages.append(Damage(MEAN_IMAGE_PNG, f"is not the picture of {MEAN_IMAGE_NPY}"))


def _check_cards(report: VerifyReport, index: DatasetIndex) -> None:
    """What other people's readers read must be of this dataset, where it exists."""
    info = load_json(index.store, DATASET_INFO, "dataset index")
    faults = {
        CARD: card_fault(index.store, index.fingerprint),
        TIMM_INFO: timm_fault(index.store, info),
    }
    report.damages += [Damage(name, fault) for name, fault in faults.items() if fault is not None]
