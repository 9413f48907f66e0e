"""Colour statistics from moments: the content of ``rgb_pca.json``, and a report as text or JSON.

``rgb_pca.json`` holds exact integers (``rgb_sum``, ``rgb_second_moment``) and the figures derived
from them. At full size these integers exceed 2^53. Python reads them exactly; a reader that turns
JSON numbers into doubles does not, and should use the derived figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from imgprep.colour.moments import Moments, RgbMoments
from imgprep.colour.pca import LEVELS, SIGN_CONVENTION, RgbPca, angle_degrees, fit_pca
from imgprep.colour.published import (
    PUBLISHED_MEANS,
    PUBLISHED_PCAS,
    PUBLISHED_STDEVS,
    Comparison,
    compare,
)
from imgprep.dataset.format import PIXEL_SUM, RGB_PCA, RGB_PCA_VERSION
from imgprep.dataset.index import DatasetIndex, load_index, read_checked
from imgprep.dataset.npyfile import read_npy
from imgprep.errors import FormatError
from imgprep.spec import Shape, Solver
from imgprep.storage import Location
from imgprep.storage.atomic import json_object
from imgprep.wording import counted

SCALE_NOTE = (
    "pixels in levels 0-255; eigenvalues and covariance in levels squared, divisor n - 1; divide "
    "eigenvalues by 255^2 for pixels on the 0-1 scale; eigenvectors: rows R, G, B, column k "
    "belongs to eigenvalue k"
)
_REFERENCE_SOLVER: Solver = "scikit-learn"
_INTEGER_MAX = 2**96
"""Far above any real sum, and small enough that products of such integers can be printed."""


def rgb_pca_json(moments: Moments | RgbMoments, pca: RgbPca) -> dict[str, Any]:
    """The content of ``rgb_pca.json``: exact sums, and the mean, covariance and PCA from them."""
    rgb = moments.rgb
    return {
        "schema_version": RGB_PCA_VERSION,
        "images": rgb.images,
        "size_px": rgb.size_px,
        "pixels": rgb.pixels,
        "rgb_sum": list(rgb.sums),
        "rgb_second_moment": [list(row) for row in rgb.second_matrix()],
        "rgb_mean": rgb.mean().tolist(),
        "rgb_covariance": rgb.covariance().tolist(),
        "eigenvalues": pca.eigenvalues.tolist(),
        "eigenvectors": pca.eigenvectors.tolist(),
        "solver": pca.solver,
        "sign_convention": SIGN_CONVENTION,
        "scale": SCALE_NOTE,
    }


def rgb_moments_from_json(value: object) -> RgbMoments:
    """The exact RGB moments in ``rgb_pca.json``; the derived figures are not read.

    Raises:
        FormatError: another kind of file, another version, or sums that no images can have.
    """
    if not isinstance(value, Mapping):
        raise FormatError(f"{RGB_PCA}: expected a JSON object, got {type(value).__name__}")
    if value.get("schema_version") != RGB_PCA_VERSION:
        raise FormatError(
            f"{RGB_PCA}: schema version {value.get('schema_version')!r:.80}, this imgprep reads "
            f"{RGB_PCA_VERSION}"
        )
    (images, size_px, pixels) = (_integer(value, name) for name in ("images", "size_px", "pixels"))
    r, g, b = _integers(value.get("rgb_sum"), "rgb_sum")
    rows = value.get("rgb_second_moment")
    if not isinstance(rows, list) or len(rows) != 3:
        raise FormatError(f"{RGB_PCA}: rgb_second_moment is not 3 rows of 3 integers")
    (rr, rg, rb), (gr, gg, gb), (br, bg, bb) = (_integers(row, "rgb_second_moment") for row in rows)
    if (rg, rb, gb) != (gr, br, bg):
        raise FormatError(f"{RGB_PCA}: rgb_second_moment is not symmetric")
    try:
        rgb = RgbMoments(images, size_px, (r, g, b), (rr, gg, bb, rg, rb, gb))
    except FormatError as exc:
        raise FormatError(f"{RGB_PCA}: {exc}") from exc
    if pixels != rgb.pixels:
        raise FormatError(
            f"{RGB_PCA}: states {pixels} pixels; {images} images of {size_px} px have {rgb.pixels}"
        )
    return rgb


def moments_from_json(value: object, pixel_sum_hwc: NDArray[np.int64]) -> Moments:
    """The full moments from ``rgb_pca.json`` and the pixel sum (size, size, 3) int64.

    Raises:
        FormatError: either is malformed, or they are of different builds.
    """
    rgb = rgb_moments_from_json(value)
    try:
        moments = Moments(rgb.images, pixel_sum_hwc, rgb.second)
    except FormatError as exc:
        raise FormatError(f"{PIXEL_SUM}: {exc}") from exc
    if (moments.size_px, moments.rgb_sum) != (rgb.size_px, rgb.sums):
        raise FormatError(
            f"{RGB_PCA} and {PIXEL_SUM} are of different builds: RGB sums {rgb.sums} of "
            f"{rgb.size_px} px images and {moments.rgb_sum} of {moments.size_px} px images"
        )
    return moments


def load_moments(location: Location) -> Moments:
    """The full moments of a finished dataset. Raises as ``moments_of``."""
    return moments_of(load_index(location))


def moments_of(index: DatasetIndex) -> Moments:
    """The full moments of a dataset, from its ``rgb_pca.json`` and ``pixel_sum.npy``.

    Raises:
        FormatError: the dataset is unfinished or has no training split, or a file is not the one
            that the index describes.
        StoreError: an object store does not answer, or refuses.
    """
    store = index.store
    if RGB_PCA not in index.files:
        raise FormatError(f"{store}: no statistics: the dataset was built without a training split")
    value = json_object(read_checked(index, RGB_PCA), store.where(RGB_PCA), "statistics")
    try:
        pixel_sum_hwc = read_npy(read_checked(index, PIXEL_SUM))
    except ValueError as exc:
        raise FormatError(f"{store.where(PIXEL_SUM)}: not a whole .npy file: {exc}") from exc
    try:
        return moments_from_json(value, pixel_sum_hwc)
    except FormatError as exc:
        raise FormatError(f"{store}: {exc}") from exc


def _integer(value: Mapping[str, Any], name: str) -> int:
    number = value.get(name)
    if not _is_integer(number):
        raise FormatError(f"{RGB_PCA}: {name} is {number!r:.80}, not an integer of a sensible size")
    return number


def _is_integer(value: object) -> TypeGuard[int]:
    return type(value) is int and abs(value) < _INTEGER_MAX


def _integers(value: object, name: str) -> tuple[int, int, int]:
    if (
        not isinstance(value, list)
        or len(value) != 3
        or not all(_is_integer(number) for number in value)
    ):
        raise FormatError(f"{RGB_PCA}: {name} has {value!r:.80}, not 3 integers of a sensible size")
    first, second, third = value
    return (first, second, third)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StatsReport:
    """The colour statistics of a training split; made by ``stats_report``."""

    rgb: RgbMoments
    shape: Shape
    """Shape of the records. Of rectangles, the central squares count."""
    pca: RgbPca
    stdev_rgb: NDArray[np.float64]
    """Standard deviation of R, G, B (3,) over all pixels, divisor n - 1, levels 0-255."""
    comparisons: tuple[Comparison, ...]
    angle_to_reference: NDArray[np.float64] | None
    """Degrees between our axes and scikit-learn's (3,), if another solver was chosen."""

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values; names end in the scale of their figures."""
        pca, angle = self.pca, self.angle_to_reference
        return {
            "images": self.rgb.images,
            "size_px": self.rgb.size_px,
            "pixels": self.rgb.pixels,
            "solver": pca.solver,
            "solver_steps": list(pca.steps),
            "angle_to_scikit_learn_degrees": None if angle is None else angle.tolist(),
            "eigenvalues_255": pca.eigenvalues.tolist(),
            "eigenvalues_01": (pca.eigenvalues / LEVELS**2).tolist(),
            "stdevs_255": pca.stdevs.tolist(),
            "stdevs_01": (pca.stdevs / LEVELS).tolist(),
            "eigenvectors": pca.eigenvectors.tolist(),
            "axis_is_unique": list(pca.axis_is_unique),
            "explained_variance_ratio": pca.explained_variance_ratio.tolist(),
            "sign_convention": SIGN_CONVENTION,
            "mean_rgb_255": pca.mean_rgb.tolist(),
            "mean_rgb_01": (pca.mean_rgb / LEVELS).tolist(),
            "stdev_rgb_255": self.stdev_rgb.tolist(),
            "stdev_rgb_01": (self.stdev_rgb / LEVELS).tolist(),
            "published": {
                "pca": [
                    {
                        **asdict(beside.theirs),
                        "stdev_ratio": beside.stdev_ratio.tolist(),
                        "angle_degrees": beside.angle_degrees.tolist(),
                    }
                    for beside in self.comparisons
                ],
                "mean_rgb_255": [asdict(theirs) for theirs in PUBLISHED_MEANS],
                "stdev_rgb_255": [asdict(theirs) for theirs in PUBLISHED_STDEVS],
            },
        }

    def render(self) -> str:
        """The report as plain text of at most 80 columns, without a final newline."""
        blocks = (self._components(), self._beside(), self._colour(), self._notes())
        return "\n\n".join("\n".join(block) for block in blocks)

    def _components(self) -> list[str]:
        rgb, pca = self.rgb, self.pca
        what = "central square" if self.shape == "rectangle" else "image"
        rows = [
            f"RGB PCA of {counted(rgb.images, what)} of {rgb.size_px}x{rgb.size_px}: "
            f"all {rgb.pixels:,} pixels",
            "",
            _heading(f"Components, by {pca.solver}", "PC1", "PC2", "PC3"),
            _row("standard deviation", "0-255", pca.stdevs, ".3f"),
            _row("", "0-1", pca.stdevs / LEVELS, ".5f"),
            _row("eigenvalue", "0-255", pca.eigenvalues, ".2f"),
            _row("", "0-1", pca.eigenvalues / LEVELS**2, ".5f"),
            _row("explained variance", "%", 100 * pca.explained_variance_ratio, ".2f"),
            _row("eigenvector", "R", pca.eigenvectors[0], "+.4f"),
            _row("", "G", pca.eigenvectors[1], "+.4f"),
            _row("", "B", pca.eigenvectors[2], "+.4f"),
        ]
        if self.angle_to_reference is not None:
            rows.append(_row("angle, degrees", _REFERENCE_SOLVER, self.angle_to_reference, ".1e"))
        if pca.steps:
            rows.append(_row("gradient steps", "", pca.steps, "d"))
        return rows

    def _beside(self) -> list[str]:
        sides = self.comparisons
        return [
            _heading("Compared with published values", "PC1", "PC2", "PC3"),
            _row("standard deviation", "ours", self.pca.stdevs, ".2f"),
            *(_row("", side.theirs.key, side.theirs.stdevs, ".2f") for side in sides),
            *(_row("ours / theirs", side.theirs.key, side.stdev_ratio, ".3f") for side in sides),
            *(_row("angle, degrees", side.theirs.key, side.angle_degrees, ".2f") for side in sides),
        ]

    def _colour(self) -> list[str]:
        mean, stdev = self.pca.mean_rgb, self.stdev_rgb
        return [
            _heading("Colour", "R", "G", "B"),
            _row("mean", "ours, 0-1", mean / LEVELS, ".4f"),
            _row("", "ours, 0-255", mean, ".2f"),
            *(_row("", theirs.key, theirs.rgb, ".2f") for theirs in PUBLISHED_MEANS),
            _row("standard deviation", "ours, 0-1", stdev / LEVELS, ".4f"),
            _row("", "ours, 0-255", stdev, ".2f"),
            *(_row("", theirs.key, theirs.rgb, ".2f") for theirs in PUBLISHED_STDEVS),
        ]

    def _notes(self) -> list[str]:
        tied = [f"PC{k}" for k, unique in enumerate(self.pca.axis_is_unique, 1) if not unique]
        warning = f"{', '.join(tied)}: equal variances, so these axes and angles are arbitrary."
        return [
            *([warning] if tied else []),
            "Signs: each axis points to the positive side of the nearest of",
            "  (1, 1, 1) brightness, (1, 0, -1) red-blue, (1, -2, 1) magenta-green.",
            "Standard deviations: over all pixels of all images, divisor n - 1.",
            *(f"{theirs.key}: {theirs.source}" for theirs in PUBLISHED_PCAS),
            f"{PUBLISHED_MEANS[-1].key}: {PUBLISHED_MEANS[-1].source}",
        ]


def stats_report(
    moments: Moments | RgbMoments, solver: Solver = _REFERENCE_SOLVER, shape: Shape = "square"
) -> StatsReport:
    """Compute the report; another solver than scikit-learn is compared with scikit-learn.

    Raises:
        FormatError: moments of no images.
        UsageError: unknown solver.
    """
    rgb = moments.rgb
    pca = fit_pca(rgb, solver)
    angle = None
    if solver != _REFERENCE_SOLVER:
        reference = fit_pca(rgb, _REFERENCE_SOLVER)
        angle = angle_degrees(pca.eigenvectors, reference.eigenvectors)
    return StatsReport(
        rgb=rgb,
        shape=shape,
        pca=pca,
        stdev_rgb=np.sqrt(np.diag(rgb.covariance())),
        comparisons=compare(pca),
        angle_to_reference=angle,
    )


def _heading(title: str, *columns: str) -> str:
    return f"{title:<36}" + "".join(f"{column:>14}" for column in columns)


def _row(
    label: str, unit: str, numbers: Sequence[float] | NDArray[np.float64], number_format: str
) -> str:
    return f"  {label:<20}{unit:<14}" + "".join(f"{format(x, number_format):>14}" for x in numbers)
