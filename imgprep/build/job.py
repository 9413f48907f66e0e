"""The job: scan, plan, build every shard that is not done, merge, publish."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imgprep.storage.writing import write_errors
from imgprep.build.options import BuildOptions, Listener, bad_images_message
from imgprep.processors import processors
from imgprep.runners.choose import check_reachable, runner_for
from imgprep.errors import (
    BadImagesError,
    BuildError,
    BuildInterruptedError,
    FormatError,
    UsageError,
)
from imgprep.build.estimate import Estimate, check_space, estimate_build
from imgprep.dataset.format import NPY_HEADER_BYTES, REPORT, SPLITS, brace_pattern, label_digits
from imgprep.dataset.index import DatasetIndex, load_index
from imgprep.sources.manifest import SourceScan
from imgprep.dataset.markers import Marker, Skip, done_markers
from imgprep.build.node import needs_of
from imgprep.build.split_plan import SplitPlan, plan_split
from imgprep.build.publish import Finished, publish_files, publish_index
from imgprep.build.report import BuildReport
from imgprep.build.shard_run import ShardRun
from imgprep.sources.scan import scan_source
from imgprep.spec import BuildSpec
from imgprep.build.state import (
    LOCK,
    BuildIdentity,
    StatePaths,
    begin,
    check_ours,
    check_places,
    drop_work_files,
    load_pixel_sum,
    locked,
    save_split,
)
from imgprep.storage import Location, Store, absolute, open_store
from imgprep.storage.reading import read_bytes, store_errors


@dataclass(frozen=True, slots=True)
class BuildOutcome:
    """A finished build."""

    index: DatasetIndex
    report: BuildReport
    built_images: int
    """Images of this run; 0 if everything was there already."""

    def to_json(self) -> dict[str, Any]:
        """For scripts: what was built, how fast, what was left out."""
        return {
            "fingerprint": self.index.fingerprint,
            "built_images": self.built_images,
            "splits": {
                name: {
                    "records": split.records,
                    "shards": len(split.shards),
                    "pattern": brace_pattern(name, len(split.shards)),
                }
                for name, split in self.index.splits.items()
            },
            "skipped": self.report.skipped_images,
            "timings": self.report.timings,
            "exit_code": self.report.exit_code,
        }

    def render(self) -> str:
        """For people: where the shards are, what was left out, what to do next."""
        lines, store = [], self.index.store
        for name, split in self.index.splits.items():
            pattern = brace_pattern(name, len(split.shards))
            size = sum(shard.bytes for shard in split.shards) / 2**20
            lines.append(
                f"{name:5} {split.records:,} records, {size:,.1f} MiB: {store.where(pattern)}"
            )
        if self.built_images:
            rate = self.report.timings["images_per_second"]
            lines.append(f"built {self.built_images:,} images at {rate:,.0f} img/s")
        else:
            lines.append("nothing to build: all shards were done")
        if self.report.skipped_images:
            lines.append(f"skipped {self.report.skipped_images} images: see {store.where(REPORT)}")
        lines.append(f"next: imgprep verify {store} --decode; imgprep stats {store}")
        return "\n".join(lines)


@dataclass(slots=True)
class _Job:
    """A build under way."""

    paths: StatePaths
    hold: str
    spec: BuildSpec
    options: BuildOptions
    listener: Listener
    scan: SourceScan
    plans: list[SplitPlan]
    identity: BuildIdentity
    started_at: float
    markers: dict[tuple[str, int], Marker] = field(default_factory=dict)
    bad: list[Skip] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)

    @property
    def store(self) -> Store:
        return self.paths.store

    @property
    def shards(self) -> list[tuple[str, int]]:
        return [(plan.split, number) for plan in self.plans for number in range(plan.shards)]


def build(
    source: str | Path, dest: Location, spec: BuildSpec, options: BuildOptions, listener: Listener
) -> BuildOutcome:
    """Build the dataset at ``dest`` (a path, a URL, a store) from ``source``, or go on with it.

    Returns when it is whole.

    Raises:
        UsageError, SourceError: the source is not understood.
        DestinationError: DEST is not ours, busy, changed, full or not writable.
        BadImagesError: images are bad and the policy is to fail.
        BuildError: a worker died, the build was interrupted, or a shard could not be made.
        StoreError: an object store does not answer, or refuses.
    """
    store = open_store(dest)
    check_places(source, store)
    check_ours(store)
    check_reachable(runner_for(options.runner, str(source), store.location))
    started = time.monotonic()
    scan = scan_source(source, options.layout, progress=listener.scanning)
    listener.scanned(scan)
    scan_seconds = time.monotonic() - started
    _check_problems(scan, options)
    plans = plan_all(scan, spec)
    identity = BuildIdentity(scan.identity(), spec.to_json(), _codecs())
    with locked(store) as hold:
        paths = StatePaths(store)
        with write_errors(store, "the plan"):
            begin(paths, identity, force=options.force)
        job = _Job(paths, hold, spec, options, listener, scan, plans, identity, started)
        job.timings["scan_seconds"] = scan_seconds
        return _run(job)


def dry_run(
    source: str | Path, dest: Location, spec: BuildSpec, options: BuildOptions, listener: Listener
) -> Estimate:
    """Scan and encode a seeded sample; writes nothing. Raises as ``build`` does."""
    store = open_store(dest)
    check_places(source, store)
    check_ours(store)
    scan = scan_source(source, options.layout, progress=listener.scanning)
    listener.scanned(scan)
    _check_problems(scan, options)
    jobs = options.jobs or processors()
    return estimate_build(scan, plan_all(scan, spec), spec, dest=store, jobs=jobs)


def plan_all(scan: SourceScan, spec: BuildSpec) -> list[SplitPlan]:
    """Plans of the chosen splits.

    Raises:
        UsageError: the source lacks the chosen split.
    """
    wanted = SPLITS if spec.split == "all" else (spec.split,)
    plans = [
        plan_split(split, len(scan.splits[split]), spec)
        for split in wanted
        if split in scan.splits and len(scan.splits[split])
    ]
    if not plans or (spec.split != "all" and len(plans) != 1):
        raise UsageError(
            f"{scan.root}: no usable images in split {spec.split!r}; it has "
            f"{', '.join(f'{name} ({len(rows)})' for name, rows in scan.splits.items()) or 'none'}"
        )
    return plans


def _codecs() -> dict[str, str]:
    from imgprep.image.prepare import codecs

    return codecs()


def _check_problems(scan: SourceScan, options: BuildOptions) -> None:
    """Under ``fail``, what the scan found wrong ends the build before any work is lost."""
    if options.on_error == "skip" or not scan.problems:
        return
    skips = [Skip(where=p.where, cause=p.cause) for p in scan.problems]
    raise BadImagesError(bad_images_message(skips, sum(scan.problem_counts.values()), options))


def _run(job: _Job) -> BuildOutcome:
    complete = _finished_index(job.store)
    pending = _pending(job, published=complete is not None)
    images = sum(_images(job, shard) for shard in pending)
    check_space(job.store, job.spec.image, images, len(pending))
    job.listener.started(images, len(job.shards), len(job.shards) - len(pending))
    if pending:
        _build_pending(job, pending, images)
        if complete is not None:
            _check_repaired(job, complete, pending)
    if complete is None:
        _publish(job)
        complete = load_index(job.store)
    with write_errors(job.store, "the end of the build"):
        drop_work_files(job.paths)
    return BuildOutcome(complete, _report(job), images)


def _publish(job: _Job) -> None:
    job.listener.publishing()
    started = time.monotonic()
    if any(plan.split == "train" for plan in job.plans):
        import sklearn.decomposition  # noqa: F401  # takes a second or two: timed apart

        job.timings["import_seconds"] = time.monotonic() - started
    finished = Finished(job.spec, job.identity, job.scan, _by_split(job))
    with write_errors(job.store, "statistics and index"):
        job.store.check_hold(LOCK, job.hold)
        files = publish_files(job.paths, finished)
        job.timings["publish_seconds"] = time.monotonic() - started
        job.timings["total_seconds"] = time.monotonic() - job.started_at
        publish_index(job.paths, finished, files, _report(job))


def _finished_index(store: Store) -> DatasetIndex | None:
    """The index if the dataset was published and what lies beside the shards is whole."""
    try:
        index = load_index(store)
        for name, sha256 in index.files.items():
            if hashlib.sha256(read_bytes(store, name)).hexdigest() != sha256:
                return None
    except (FormatError, OSError):
        return None
    return index


def _pending(job: _Job, *, published: bool) -> list[tuple[str, int]]:
    """Shards still to build; fills ``job.markers`` with the others.

    Until the statistics are published, a training shard also needs its pixel sum.
    """
    job.markers.update(done_markers(job.store, job.shards, job.identity.sha256))
    if not published:
        for shard in _without_pixel_sum(job):
            del job.markers[shard]
    return [shard for shard in job.shards if shard not in job.markers]


def _without_pixel_sum(job: _Job) -> list[tuple[str, int]]:
    """Training shards that are done, but whose pixel sum is not there as it was written.

    On an object store the size tells; the content is checked when it is merged.
    """
    train = [marker for (split, _), marker in job.markers.items() if split == "train"]
    if job.store.folder is None:
        with store_errors(job.store):
            sizes = job.store.entries(job.paths.moments)
        size_bytes = NPY_HEADER_BYTES + 4 * 3 * job.spec.image.size_px**2
        return [(m.split, m.number) for m in train if sizes.get(f"{m.stem}.npy") != size_bytes]

    def found(marker: Marker) -> bool:
        name = job.paths.pixel_sum(marker.split, marker.number)
        return load_pixel_sum(job.store, name, marker.pixel_sum_sha256) is not None

    return [(marker.split, marker.number) for marker in train if not found(marker)]


def _images(job: _Job, shard: tuple[str, int]) -> int:
    plan = next(plan for plan in job.plans if plan.split == shard[0])
    start, stop = plan.bounds(shard[1])
    return stop - start


def _build_pending(job: _Job, pending: list[tuple[str, int]], images: int) -> None:
    with write_errors(job.store, "the plan"):
        for plan in job.plans:
            save_split(job.paths, job.scan.splits[plan.split], plan)
    started = time.monotonic()
    try:
        _run_shards(job, pending)
    except KeyboardInterrupt as exc:
        raise BuildInterruptedError(
            f"interrupted: {len(job.markers)} of {len(job.shards)} shards are done; run the same "
            "command again to go on"
        ) from exc
    seconds = time.monotonic() - started
    job.timings["build_seconds"] = seconds
    job.timings["images"] = images
    job.timings["images_per_second"] = images / max(seconds, 1e-9)
    if job.bad and job.options.on_error == "fail":
        raise BadImagesError(bad_images_message(job.bad, len(job.bad), job.options))


def _run_shards(job: _Job, pending: list[tuple[str, int]]) -> None:
    from imgprep.build.worker import WorkerSetup

    setup = WorkerSetup(
        source=job.scan.absolute_root,
        dest=absolute(job.store),
        hold=job.hold,
        image=job.spec.image,
        build_sha256=job.identity.sha256,
        label_digits=label_digits(len(job.scan.labels.classes)),
        shards=tuple((plan.split, plan.shards) for plan in job.plans),
        skip_bad=job.options.on_error == "skip",
    )
    needs = needs_of(job.scan, job.store, job.identity)
    run = ShardRun(setup, needs, job.options, job.listener, job.markers)
    try:
        run.build(pending)
    finally:
        job.bad, job.timings["jobs"] = run.bad, run.jobs


def _check_repaired(job: _Job, index: DatasetIndex, pending: list[tuple[str, int]]) -> None:
    """A shard made again must be the shard that the index names, to the bit."""
    for split, number in pending:
        marker, stated = job.markers[split, number], index.splits[split].shards[number]
        if marker.sha256 != stated.sha256:
            job.store.remove(f"{marker.stem}.json")
            raise BuildError(
                f"{marker.stem}: made again, but not with the bytes that the index states: a file "
                "of the source was changed in place; build anew with --force"
            )


def _by_split(job: _Job) -> dict[str, Sequence[Marker]]:
    return {
        plan.split: [job.markers[plan.split, number] for number in range(plan.shards)]
        for plan in job.plans
    }


def _report(job: _Job) -> BuildReport:
    report = BuildReport(
        problems=[{"kind": p.kind, "where": p.where, "cause": p.cause} for p in job.scan.problems],
        problem_counts=dict(job.scan.problem_counts),
        timings=dict(job.timings),
        codecs=dict(job.identity.codecs),
    )
    for shard in sorted(job.markers):
        report.add(job.markers[shard])
    return report


__all__ = ["BuildOptions", "BuildOutcome", "Listener", "build", "dry_run", "plan_all"]
