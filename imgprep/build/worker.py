"""Build one shard from the source, as the manifest and split plan in the state folder say."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from functools import partial as partial_call

from imgprep.build.dest import LOCK
from imgprep.build.split_plan import SplitPlan
from imgprep.build.state import StatePaths, save_pixel_sum, split_files
from imgprep.colour.moments import MomentsAccumulator
from imgprep.dataset.encodings import encoding_of
from imgprep.dataset.format import label_bytes, record_key, shard_stem
from imgprep.dataset.markers import SHARD_WARNINGS_MAX, FileWarning, Marker, Skip
from imgprep.dataset.npyfile import map_npy
from imgprep.dataset.shards import ShardFacts, ShardWriter
from imgprep.errors import BuildError, ImageError, MemoryLimitError
from imgprep.image.prepare import Prepared, prepare
from imgprep.image.resize import central_square
from imgprep.runners.runner import Tick
from imgprep.sources.manifest import SplitManifest
from imgprep.sources.reader import SourceReader
from imgprep.spec import LONG_SIDE_MAX, ImageSpec
from imgprep.storage import Partial, Store, open_store
from imgprep.storage.writing import write_errors
from imgprep.wording import printable

READ_AHEAD_IMAGES = 16
WARNING_LETTERS_MAX = 300
"""A longer decoder warning is cut in the marker and the report."""
_UPRIGHT = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerSetup:
    """What every shard of a build has in common."""

    source: str
    dest: str
    """Location of the store, valid in any process."""
    hold: str
    """Token of the build's lock on it: a worker whose build lost the lock writes nothing more."""
    image: ImageSpec
    build_sha256: str
    label_digits: int
    shards: tuple[tuple[str, int], ...]
    """Split names with their number of shards."""
    skip_bad: bool

    def shard_count(self, split: str) -> int:
        """Number of shards of a split."""
        return dict(self.shards)[split]


@dataclass(frozen=True, slots=True)
class ShardTask:
    """Which shard to build."""

    split: str
    number: int

    def __str__(self) -> str:
        return shard_stem(self.split, self.number)


@dataclass(frozen=True, slots=True)
class ShardResult:
    """The result of a task: the marker of the finished shard, or None if it has bad images."""

    task: ShardTask
    marker: Marker | None


@dataclass(slots=True)
class _Draft:
    """A shard whose bytes are written but not yet flushed and renamed."""

    task: ShardTask
    setup: WorkerSetup
    store: Store
    partial: Partial
    writer: ShardWriter
    accumulator: MomentsAccumulator | None
    skipped: list[Skip] = field(default_factory=list)
    warnings: list[FileWarning] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


def build_shard(task: ShardTask, setup: WorkerSetup, tick: Tick) -> Callable[[], ShardResult]:
    """Read, prepare and write one shard under a temporary name.

    Returns the rest of the work: a function that flushes and renames the shard and writes its
    marker last. That part waits for the disk, so a worker may run it beside the next shard.
    Under ``fail`` a shard with a bad image is not published, but all its images are tried, so that
    one run names every bad image.

    Raises:
        DestinationError: the disk is full or cannot be written.
        SourceFaultError: a file of the source cannot be read now, or has changed.
        MemoryLimitError: there is not enough memory for an image.
        BuildError: none of the images of the shard can be used.
        WorkerStoppedError: raised by ``tick``; what was half-written is removed.
    """
    split = _open_split(setup, task.split)
    store = _open_dest(setup.dest)
    name = f"{task}.tar"
    with write_errors(store, name):
        partial = store.partial(name)
        try:
            draft = _Draft(
                task,
                setup,
                store,
                partial,
                ShardWriter(partial.file, encoding_of(setup.image.encoding).extension),
                MomentsAccumulator(setup.image.size_px) if task.split == "train" else None,
            )
            _fill(draft, split, tick)
            facts = draft.writer.finish()
            if draft.skipped and not setup.skip_bad:
                partial.abandon()
                return partial_call(ShardResult, task, None)
            if not facts.records:
                first = printable(f"{draft.skipped[0].where}: {draft.skipped[0].cause}")
                raise BuildError(
                    f"{name}: none of its images can be used; the first is {first}: "
                    "fix the source, or make shards larger with --shard-images"
                )
        except BaseException:
            partial.abandon()
            raise
    return partial_call(_publish, draft, facts)


@cache
def _open_dest(location: str) -> Store:
    return open_store(location)


@dataclass(frozen=True, slots=True)
class _Split:
    plan: SplitPlan
    manifest: SplitManifest
    reader: SourceReader


@cache
def _open_split(setup: WorkerSetup, split: str) -> _Split:
    store = _open_dest(setup.dest)
    with (
        write_errors(store, "a copy of the manifest"),
        split_files(StatePaths(store), split) as (manifest_folder, order_file),
    ):  # what is mapped stays mapped after downloaded files are removed
        manifest = SplitManifest.load(manifest_folder)
        order = map_npy(order_file)
    plan = SplitPlan(split, order, setup.shard_count(split))
    return _Split(plan, manifest, SourceReader(setup.source, manifest))


def _fill(draft: _Draft, split: _Split, tick: Tick) -> None:
    rows = split.plan.rows(draft.task.number)
    indices = rows.tolist()
    labels = split.manifest.rows["label"][rows].tolist()
    for position, (index, label) in enumerate(zip(indices, labels, strict=True)):
        if position % READ_AHEAD_IMAGES == 0:
            first = position + READ_AHEAD_IMAGES if position else 0
            split.reader.will_need(indices[first : position + 2 * READ_AHEAD_IMAGES])
        try:
            prepared = prepare(split.reader.read(index), draft.setup.image)
            _add(draft, index, label, prepared)
        except ImageError as exc:
            draft.skipped.append(Skip(where=split.manifest.where(index), cause=str(exc)))
            tick(draft.skipped[-1])
        except MemoryError as exc:
            raise MemoryLimitError.at(split.manifest.where(index)) from exc
        else:
            if prepared.notes.warnings and len(draft.warnings) < SHARD_WARNINGS_MAX:
                cause = "; ".join(prepared.notes.warnings)[:WARNING_LETTERS_MAX]
                draft.warnings.append(FileWarning(where=split.manifest.where(index), cause=cause))
            tick(None)


def _add(draft: _Draft, index: int, label: int, prepared: Prepared) -> None:
    """Append a record, unless the shard has a bad image and will not be published."""
    setup = draft.setup
    _count(draft.counts, prepared)
    if draft.accumulator is not None:
        draft.accumulator.add(central_square(prepared.image_hwc, setup.image.size_px))
    if setup.skip_bad or not draft.skipped:
        image = encoding_of(setup.image.encoding).encode(prepared.image_hwc, setup.image)
        label_ascii = label_bytes(label, setup.label_digits)
        draft.writer.add(record_key(draft.task.split, index), image, label_ascii)


def _count(counts: Counter[str], prepared: Prepared) -> None:
    notes = prepared.notes
    counts[f"format {notes.format}"] += 1
    counts[f"mode {notes.mode}"] += 1
    if notes.exif_orientation != _UPRIGHT:
        counts["exif rotated"] += 1
    if prepared.enlarged:
        counts["enlarged"] += 1
    if prepared.cut:
        counts[f"longer than {LONG_SIDE_MAX}:1"] += 1
    if notes.warnings:
        counts["decoder warnings"] += 1


def _publish(draft: _Draft, facts: ShardFacts) -> ShardResult:
    """Flush and rename the tar, write the files that belong to it, and the marker last."""
    task, setup, store = draft.task, draft.setup, draft.store
    with write_errors(store, f"{task}.tar"):
        try:
            store.check_hold(LOCK, setup.hold)
        except BaseException:
            draft.partial.abandon()
            raise
        draft.partial.commit()
        store.write(f"{task}.idx", facts.idx_bytes)  # flushes the entries of the folder too
        second, pixel_sum_sha256 = _publish_moments(draft)
        marker = Marker(
            split=task.split,
            number=task.number,
            build_sha256=setup.build_sha256,
            records=facts.records,
            bytes=facts.tar_bytes,
            sha256=facts.tar_sha256,
            idx_sha256=hashlib.sha256(facts.idx_bytes).hexdigest(),
            counts=dict(sorted(draft.counts.items())),
            skipped=tuple(draft.skipped),
            warnings=tuple(draft.warnings),
            rgb_second=second,
            pixel_sum_sha256=pixel_sum_sha256,
        )
        marker.write(store)
    return ShardResult(task, marker)


def _publish_moments(draft: _Draft) -> tuple[tuple[int, ...] | None, str | None]:
    if draft.accumulator is None:
        return None, None
    moments = draft.accumulator.moments()
    name = StatePaths(draft.store).pixel_sum(draft.task.split, draft.task.number)
    return moments.second, save_pixel_sum(draft.store, name, moments.pixel_sum_hwc)
