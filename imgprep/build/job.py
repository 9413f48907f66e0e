"""The whole build: scan, plan the splits, build every shard that is not done, merge, publish."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from imgprep.build.dest import LOCK, check_ours, check_places, locked
from imgprep.build.estimate import Estimate, check_space, estimate_build
from imgprep.build.identity import BuildIdentity
from imgprep.build.node import needs_of
from imgprep.build.options import BuildOptions, ProgressListener, bad_images_message
from imgprep.build.outcome import BuildOutcome
from imgprep.build.publish import BuiltShards, publish_files, publish_index, restore_files
from imgprep.build.report import BuildReport
from imgprep.build.resume import Shard, done_shards, finished_index
from imgprep.build.shard_run import ShardRun
from imgprep.build.split_plan import SplitPlan, plan_splits
from imgprep.build.state import StatePaths, begin, drop_work_files, save_split, upgrade
from imgprep.dataset.format import label_digits
from imgprep.dataset.index import DatasetIndex, load_index
from imgprep.dataset.markers import Marker, Skip, remove_marker
from imgprep.errors import BadImagesError, BuildError, BuildInterruptedError
from imgprep.processors import processors
from imgprep.runners.choose import check_reachable, runner_for
from imgprep.runners.runner import LOCAL
from imgprep.sources.classes import check_classes
from imgprep.sources.manifest import SourceScan
from imgprep.sources.scan import scan_source
from imgprep.spec import BuildSpec
from imgprep.storage import Location, Store, absolute, open_store
from imgprep.storage.writing import write_errors
from imgprep.wording import counted


@dataclass(slots=True)
class _Job:
    """A build under way."""

    paths: StatePaths
    hold: str
    spec: BuildSpec
    options: BuildOptions
    listener: ProgressListener
    scan: SourceScan
    plans: list[SplitPlan]
    identity: BuildIdentity
    started_at: float
    markers: dict[Shard, Marker] = field(default_factory=dict)
    bad: list[Skip] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)

    @property
    def store(self) -> Store:
        return self.paths.store

    @property
    def shards(self) -> list[Shard]:
        return [(plan.split, number) for plan in self.plans for number in range(plan.shards)]


def build(
    source: str | Path,
    dest: Location,
    spec: BuildSpec,
    options: BuildOptions,
    listener: ProgressListener,
) -> BuildOutcome:
    """Build the dataset at ``dest`` (a path, a URL, a store) from ``source``, or resume it.

    Returns once the dataset is whole.

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
    scan = _scan(source, spec, options, listener)
    scan_seconds = time.monotonic() - started
    plans = plan_splits(scan, spec)
    identity = BuildIdentity(scan.identity(), spec.to_json(), _codecs())
    with locked(store) as hold:
        paths = StatePaths(store)
        with write_errors(store, "the build identity"):
            begin(paths, identity, force=options.force)
        job = _Job(paths, hold, spec, options, listener, scan, plans, identity, started)
        job.timings["scan_seconds"] = scan_seconds
        return _run(job)


def dry_run(
    source: str | Path,
    dest: Location,
    spec: BuildSpec,
    options: BuildOptions,
    listener: ProgressListener,
) -> Estimate:
    """Scan and encode a seeded sample; writes nothing. Raises as ``build`` does."""
    store = open_store(dest)
    check_places(source, store)
    check_ours(store)
    scan = _scan(source, spec, options, listener)
    jobs = options.jobs or processors()
    if options.runner == LOCAL:
        jobs = min(jobs, processors())  # more do not make it faster
    return estimate_build(scan, plan_splits(scan, spec), spec, dest=store, jobs=jobs)


def _scan(
    source: str | Path, spec: BuildSpec, options: BuildOptions, listener: ProgressListener
) -> SourceScan:
    """Scan the source; raise if its classes are uncertain, or if the policy rejects a bad entry."""
    scan = scan_source(
        source,
        options.layout,
        split=spec.split,
        take=options.take,
        progress=listener.scanning,
    )
    listener.scanned(scan)
    check_classes(scan, options.label_order)
    _check_problems(scan, options)
    return scan


def _codecs() -> dict[str, str]:
    from imgprep.image.prepare import codecs

    return codecs()


def _check_problems(scan: SourceScan, options: BuildOptions) -> None:
    """Under ``fail``, what the scan found wrong ends the build before any work is done."""
    if options.on_error == "skip" or not scan.problems:
        return
    skips = [Skip(where=p.where, cause=p.cause) for p in scan.problems]
    raise BadImagesError(bad_images_message(skips, sum(scan.problem_counts.values()), options))


def _run(job: _Job) -> BuildOutcome:
    complete, lost = finished_index(job.store)
    job.markers.update(
        done_shards(
            job.paths,
            job.shards,
            job.identity.sha256,
            size_px=job.spec.image.size_px,
            published=complete is not None,
        )
    )
    pending = [shard for shard in job.shards if shard not in job.markers]
    images = sum(_images(job, shard) for shard in pending)
    check_space(job.store, job.spec.image, images, len(pending))
    job.listener.started(images, len(job.shards), len(job.shards) - len(pending))
    if pending or lost or complete is None:
        with write_errors(job.store, "the build identity"):
            upgrade(job.paths, job.identity, job.markers.values())
    if pending:
        _build_pending(job, pending, images)
        if complete is not None:
            _check_rebuilt(job, complete, pending)
    if complete is None:
        _publish(job)
    elif lost:
        with write_errors(job.store, "files beside the shards"):
            restore_files(job.store, _built(job), complete, lost, _report(job))
    if complete is None or lost:
        complete = load_index(job.store)
    with write_errors(job.store, "the end of the build"):
        drop_work_files(job.paths)
    records = sum(job.markers[shard].records for shard in pending)
    return BuildOutcome(complete, _report(job), images, records, lost)


def _publish(job: _Job) -> None:
    job.listener.publishing()
    started = time.monotonic()
    if any(plan.split == "train" for plan in job.plans):
        import sklearn.decomposition  # noqa: F401  # takes a second or two: timed separately

        job.timings["import_seconds"] = time.monotonic() - started
    built = _built(job)
    with write_errors(job.store, "statistics and index"):
        job.store.check_hold(LOCK, job.hold)
        files = publish_files(job.paths, built)
        job.timings["publish_seconds"] = time.monotonic() - started
        job.timings["total_seconds"] = time.monotonic() - job.started_at
        publish_index(job.paths, built, files, _report(job))


def _images(job: _Job, shard: Shard) -> int:
    plan = next(plan for plan in job.plans if plan.split == shard[0])
    start, stop = plan.bounds(shard[1])
    return stop - start


def _build_pending(job: _Job, pending: list[Shard], images: int) -> None:
    with write_errors(job.store, "manifests and split plans"):
        for plan in job.plans:
            save_split(job.paths, job.scan.splits[plan.split], plan)
    started = time.monotonic()
    try:
        _run_shards(job, pending)
    except KeyboardInterrupt as exc:
        raise BuildInterruptedError(
            f"interrupted: {len(job.markers)} of {counted(len(job.shards), 'shard')} done; run "
            "the same command again to resume"
        ) from exc
    seconds = time.monotonic() - started
    job.timings["build_seconds"] = seconds
    job.timings["images"] = images
    job.timings["images_per_second"] = images / max(seconds, 1e-9)
    if job.bad and job.options.on_error == "fail":
        raise BadImagesError(bad_images_message(job.bad, len(job.bad), job.options))


def _run_shards(job: _Job, pending: list[Shard]) -> None:
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


def _check_rebuilt(job: _Job, index: DatasetIndex, pending: list[Shard]) -> None:
    """A rebuilt shard of a finished dataset must have the bytes that the index states."""
    for split, number in pending:
        marker, stated = job.markers[split, number], index.splits[split].shards[number]
        if marker.sha256 != stated.sha256:
            remove_marker(job.store, marker.stem)
            raise BuildError(
                f"{marker.stem}: rebuilt, but not with the bytes that the index states: a file of "
                "the source was changed in place; start over with --force"
            )


def _built(job: _Job) -> BuiltShards:
    markers: dict[str, Sequence[Marker]] = {
        plan.split: [job.markers[plan.split, number] for number in range(plan.shards)]
        for plan in job.plans
    }
    return BuiltShards(job.spec, job.identity, job.scan, markers)


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
