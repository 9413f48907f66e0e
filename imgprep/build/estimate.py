"""Estimate the disk space and the time that a build will take, before hours of work."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from imgprep.build.build_time import expected_seconds
from imgprep.build.split_plan import SplitPlan
from imgprep.dataset.encodings import encoding_of
from imgprep.dataset.markers import Skip
from imgprep.errors import DestinationError, ImageError
from imgprep.order import shuffled
from imgprep.progress import duration
from imgprep.sources.manifest import SourceScan
from imgprep.sources.reader import SourceReader
from imgprep.spec import BuildSpec, ImageSpec
from imgprep.storage import Location, open_store
from imgprep.wording import counted, printable, readable_bytes

SAMPLE_IMAGES = 300
READ_AHEAD_IMAGES = 32
RECORD_OVERHEAD_BYTES = 2200
"""Two tar headers, padding, label and index line."""
PIXEL_SUM_BYTES_PER_PX = 12
REFUSE_BELOW = 0.8
"""A build is refused below this share of the guess: the guess may be somewhat too high."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Disk and time for the whole build, extrapolated from a seeded sample."""

    images: int
    images_by_split: dict[str, int]
    classes: int
    selection: str
    """Which classes are used; empty for all."""
    sample_images: int
    record_bytes_mean: float
    total_bytes: int
    total_bytes_error: int
    """Half-width of the 95 % interval of ``total_bytes``."""
    seconds: float
    jobs: int
    free_bytes: int | None
    """None where DEST has no limit."""
    bad: tuple[Skip, ...]

    def to_json(self) -> dict[str, Any]:
        """As a flat JSON object."""
        return asdict(self)

    def _free(self) -> str:
        return "no limit" if self.free_bytes is None else readable_bytes(self.free_bytes)

    def render(self) -> str:
        """A few lines for people."""
        error = readable_bytes(self.total_bytes_error)
        splits = ", ".join(f"{images:,} {split}" for split, images in self.images_by_split.items())
        lines = [f"selection {self.selection}"] if self.selection else []
        lines += [
            f"classes   {self.classes:,}",
            f"images    {self.images:,} ({splits})",
            f"disk      {readable_bytes(self.total_bytes)} ± {error} "
            f"({self.record_bytes_mean:,.0f} bytes an image)",
            f"free      {self._free()}",
            f"time      about {duration(self.seconds)} with {counted(self.jobs, 'job')}, "
            "unless the disks are slower",
            f"sample    {counted(self.sample_images, 'image')}, {len(self.bad)} bad",
        ]
        lines += [f"  {printable(skip.where)}: {printable(skip.cause)}" for skip in self.bad[:20]]
        return "\n".join(lines)


def record_bytes_guess(spec: ImageSpec) -> float:
    """Expected bytes of a record; no image is read."""
    return encoding_of(spec.encoding).expected_bytes(spec) + RECORD_OVERHEAD_BYTES


def check_space(dest: Location, spec: ImageSpec, images: int, shards: int) -> None:
    """Refuse a build that certainly does not fit.

    Raises:
        DestinationError: free space is far below the guess.
    """
    moments = shards * spec.size_px**2 * PIXEL_SUM_BYTES_PER_PX
    expected = images * record_bytes_guess(spec) + moments
    free = open_store(dest).free_bytes()
    if free is not None and free < REFUSE_BELOW * expected:
        raise DestinationError(
            f"{dest}: about {readable_bytes(round(expected))} needed for "
            f"{counted(images, 'image')}, {readable_bytes(free)} free: free some space, or choose "
            "another DEST or --encoding"
        )


def estimate_build(
    scan: SourceScan, plans: list[SplitPlan], spec: BuildSpec, *, dest: Location, jobs: int
) -> Estimate:
    """Prepare and encode a seeded sample in this process; writes nothing."""
    from imgprep.image.prepare import prepare

    encoding = encoding_of(spec.image.encoding)
    images = sum(plan.images for plan in plans)
    picks = np.sort(shuffled(images, seed=spec.seed, name="estimate")[:SAMPLE_IMAGES])
    sizes: list[int] = []
    bad: list[Skip] = []
    started = time.perf_counter()
    first = 0
    for plan in plans:
        manifest = scan.splits[plan.split]
        with SourceReader(scan.root, manifest) as reader:
            here = picks[(picks >= first) & (picks < first + plan.images)]
            rows = plan.order[here - first].tolist()
            for number, row in enumerate(rows):
                if number % READ_AHEAD_IMAGES == 0:
                    reader.will_need(rows[number : number + READ_AHEAD_IMAGES])
                try:
                    prepared = prepare(reader.read(row), spec.image)
                    sizes.append(len(encoding.encode(prepared.image_hwc, spec.image)))
                except ImageError as exc:
                    bad.append(Skip(where=manifest.where(row), cause=str(exc)))
        first += plan.images
    seconds = time.perf_counter() - started
    mean = float(np.mean(sizes)) if sizes else 0.0
    spread = float(np.std(sizes)) / math.sqrt(len(sizes)) if sizes else 0.0
    return Estimate(
        images=images,
        images_by_split={plan.split: plan.images for plan in plans},
        classes=len(scan.labels),
        selection=str(scan.selection) if scan.selection else "",
        sample_images=len(picks),
        record_bytes_mean=mean,
        total_bytes=round(images * (mean + RECORD_OVERHEAD_BYTES)),
        total_bytes_error=round(1.96 * spread * images),
        seconds=expected_seconds(
            images,
            image_seconds=seconds / max(1, len(picks)),
            workers=jobs,
        ),
        jobs=jobs,
        free_bytes=open_store(dest).free_bytes(),
        bad=tuple(bad),
    )
