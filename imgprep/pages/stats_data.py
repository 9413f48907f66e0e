"""Gather what the statistics page shows from the dataset; nothing is drawn here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgprep.colour.pca import LEVELS, Reading, RgbPca
from imgprep.colour.stats import StatsReport, moments_of, stats_report
from imgprep.dataset.format import REPORT, sources_name
from imgprep.dataset.index import DatasetIndex, load_index, load_labels
from imgprep.dataset.labels import LabelMap
from imgprep.errors import FormatError
from imgprep.image.resize import central_square
from imgprep.order import stream_key
from imgprep.pages.preview import PreviewOptions, SheetRecord, choose_records
from imgprep.spec import Solver
from imgprep.storage import Location, Store
from imgprep.storage.reading import load_json
from imgprep.verify.dataset import read_source_labels

READINGS: tuple[Reading, ...] = ("source", "paper")
NOISE_SD = 0.1
"""Standard deviation of alpha (paper, section 4.1)."""
STEPS = (-3, -2, -1, 0, 1, 2, 3)
"""Multiples of the noise's standard deviation to show."""
CLOUD_PIXELS = 1500
SAMPLE = PreviewOptions(seed=0, classes=32, records=4, shards_max=2)
"""Records that the cloud and the photo are taken from. Few shards are enough: the records of a
shard are a random sample already, and a shard in an object store is downloaded whole."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StatsData:
    """Everything that the page shows."""

    index: DatasetIndex
    labels: LabelMap
    report: StatsReport
    mean_image_hwc: NDArray[np.uint8]
    build: Mapping[str, Any]
    """``report.json``."""
    class_counts: Mapping[str, NDArray[np.int64]]
    """Source images of each class, by split."""
    cloud_rgb: NDArray[np.uint8]
    """Pixels (n, 3) of ``cloud_records`` records."""
    cloud_records: int
    photo: SheetRecord
    """The record on which the noise is shown."""


def gather(location: Location, solver: Solver) -> StatsData:
    """Read what the page needs; a few shards at most, whatever the size of the dataset.

    Raises:
        FormatError: there is no finished dataset with a training split, or it is damaged.
        StoreError: the object store does not answer, or refuses.
    """
    index = load_index(location)
    store = index.store
    moments = moments_of(index)
    labels = load_labels(index)
    label_of_row = {
        name: read_source_labels(store, sources_name(name), classes=len(labels))
        for name in index.splits
    }
    records = choose_records(index, "train", label_of_row["train"], SAMPLE)
    photos = [shown for row in records.values() for shown in row]
    if not photos:
        raise FormatError(f"{location}: the training split has no records to show")
    return StatsData(
        index=index,
        labels=labels,
        report=stats_report(moments, solver, index.shape),
        mean_image_hwc=np.floor(moments.mean_image_hwc() + 0.5).astype(np.uint8),
        build=_build_report(store),
        class_counts={
            name: np.bincount(rows, minlength=len(labels)) for name, rows in label_of_row.items()
        },
        cloud_rgb=cloud(
            [central_square(photo.pixels_hwc, index.size_px) for photo in photos], CLOUD_PIXELS
        ),
        cloud_records=len(photos),
        photo=most_colourful(photos),
    )


def _build_report(store: Store) -> Mapping[str, Any]:
    """Read ``report.json`` and check the fields that the page uses."""
    value = load_json(store, REPORT, "build report")
    try:
        counts = [*value.get("problem_counts", {}).values()]
        counts += (n for part in value.get("counts", {}).values() for n in part.values())
        left_out = [*value.get("problems", [])]
        left_out += (each for part in value.get("skipped", {}).values() for each in part)
        sound = (
            all(type(count) is int for count in counts)
            and all(
                isinstance(each, dict) and {"where", "cause"} <= each.keys() for each in left_out
            )
            and isinstance(value.get("versions", {}), dict)
        )
    except (AttributeError, TypeError):
        sound = False
    if not sound:
        raise FormatError(f"{store.where(REPORT)}: malformed build report: rebuild the dataset")
    return value


def cloud(pictures: Sequence[NDArray[np.uint8]], pixels: int) -> NDArray[np.uint8]:
    """Draw a seeded sample (pixels, 3) from (height, width, 3) pictures of equal size."""
    words = np.random.Philox(key=stream_key(0, "stats-page-cloud")).random_raw(pixels)
    stack = np.stack(pictures).reshape(-1, 3)
    drawn: NDArray[np.uint8] = stack[np.asarray(words, np.uint64) % np.uint64(len(stack))]
    return drawn


def most_colourful(photos: Sequence[SheetRecord]) -> SheetRecord:
    """Return the photo whose red-blue and green-magenta differences vary most; ties by key."""

    def spread(photo: SheetRecord) -> float:
        r, g, b = np.moveaxis(photo.pixels_hwc.astype(np.float64), 2, 0)
        return math.hypot(float(np.std(r - b)), float(np.std(g - (r + b) / 2)))

    return max(sorted(photos, key=lambda photo: photo.key), key=spread)


def shift_levels(pca: RgbPca, reading: Reading) -> NDArray[np.float64]:
    """Return how one standard deviation of the noise shifts R, G and B, in levels 0-255.

    (3, 3): column k is the shift by component k. The multipliers are those of
    ``RgbPca.noise_multiplier``, times 0.1.
    """
    shift: NDArray[np.float64] = NOISE_SD * pca.noise_multiplier(reading) * pca.eigenvectors
    return shift


def under_noise(
    pixels_hwc: NDArray[np.uint8], pca: RgbPca, reading: Reading, component: int, step: float
) -> NDArray[np.uint8]:
    """Add ``step`` standard deviations of the noise along one component; clip to 0-255."""
    moved = pixels_hwc + step * shift_levels(pca, reading)[:, component]
    return np.clip(np.floor(moved + 0.5), 0, LEVELS).astype(np.uint8)
