"""PCA of colours step by step: centre, climb, deflate; beside scikit-learn's result.

The climb is power iteration: the axis is multiplied by the covariance and shortened to length 1,
which turns it towards the direction of the largest variance. Then the covariance along the axis is
removed (deflation), and the next climb finds the next axis. All figures are exact up to rounding,
because the covariance comes from the exact sums over all pixels of the dataset.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgprep.colour.moments import Moments, RgbMoments
from imgprep.colour.pca import RgbPca, angle_degrees, cholesky_columns, fit_pca
from imgprep.errors import FormatError
from imgprep.wording import counted
from train.errors import DataError

TURN_MIN = 1e-13
"""A climb ends when a step moves the axis, of length 1, by less than this."""
STEPS_MAX = 5000
"""Most steps of a climb; only (almost) equal eigenvalues need so many."""
TIE = 1e-9
"""Climbs whose variances differ by less than this fraction have found the same."""

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Climb:
    """The climb to one axis."""

    path: Array
    """(steps + 1, 3): the axis after each step, R, G, B, from the start (one channel alone)."""
    variances: Array
    """(steps + 1,): variance of the remaining colours along it, levels squared."""
    angle_to_reference: float
    """Degrees between the axis found and that of scikit-learn."""
    is_unique: bool
    """Whether the data determine the axis; if not, the angle says nothing."""

    @property
    def steps(self) -> int:
        """Number of multiplications by the covariance."""
        return len(self.path) - 1

    @property
    def axis(self) -> Array:
        """The axis found (3,), of length 1."""
        return np.asarray(self.path[-1])

    @property
    def eigenvalue(self) -> float:
        """Variance along it, levels squared."""
        return float(self.variances[-1])

    def to_json(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "steps": self.steps,
            "axis": self.axis.tolist(),
            "eigenvalue": self.eigenvalue,
            "variances": self.variances.tolist(),
            "angle_to_scikit_learn_degrees": self.angle_to_reference,
            "is_unique": self.is_unique,
        }


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PcaSteps:
    """The whole computation, beside that of scikit-learn."""

    pixels: int
    """Number of pixels behind the covariance."""
    mean_rgb: Array
    climbs: tuple[Climb, ...]
    """One for each axis with variance: 3, or fewer for grey photographs."""
    reference: RgbPca
    cloud_rgb: NDArray[np.uint8]
    """A few pixels (n, 3), to draw."""

    @property
    def missing(self) -> str:
        """Say which axes do not exist, and why; empty for photographs in colour."""
        found = len(self.climbs)
        if found == 3:
            return ""
        if found == 1:
            return "The photographs are grey (or all of one hue): there is no second colour axis."
        return f"The colours vary along {counted(found, 'axis', 'axes')} only."

    def after(self, axes: int) -> Array:
        """Return the centred cloud (n, 3) without its parts along the first ``axes`` axes."""
        left = self.cloud_rgb - self.mean_rgb
        for climb in self.climbs[:axes]:
            left = left - np.outer(left @ climb.axis, climb.axis)
        return np.asarray(left)

    def to_json(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "pixels": self.pixels,
            "mean_rgb": self.mean_rgb.tolist(),
            "climbs": [climb.to_json() for climb in self.climbs],
            "scikit_learn": {
                "eigenvalues": self.reference.eigenvalues.tolist(),
                "axes": self.reference.eigenvectors.T.tolist(),
            },
        }


def pca_steps(moments: Moments | RgbMoments, cloud_rgb: NDArray[np.uint8]) -> PcaSteps:
    """Compute the axes of the colours behind ``moments``; ``cloud_rgb`` is only drawn.

    Raises:
        DataError: there are no images, or all their pixels have one colour.
    """
    rgb = moments.rgb
    try:
        reference = fit_pca(rgb)
    except FormatError as exc:
        raise DataError(str(exc)) from exc
    rank = len(cholesky_columns(rgb))
    if rank == 0:
        raise DataError("all pixels of the training images have the same colour: PCA has no axis")
    left = rgb.covariance()
    climbs = []
    for k in range(rank):
        path, variances = best_climb(left)
        axis = path[-1]
        climbs.append(
            Climb(
                path=path,
                variances=variances,
                angle_to_reference=float(
                    angle_degrees(axis[:, None], reference.eigenvectors[:, k : k + 1])[0]
                ),
                is_unique=reference.axis_is_unique[k],
            )
        )
        left = deflated(left, axis)
    return PcaSteps(
        pixels=rgb.pixels,
        mean_rgb=rgb.mean(),
        climbs=tuple(climbs),
        reference=reference,
        cloud_rgb=cloud_rgb,
    )


def best_climb(covariance: Array) -> tuple[Array, Array]:
    """Find the axis of the largest variance by power iteration: its path and its variances.

    It starts from each channel alone, since a start at right angles to the axis would never get
    there, and keeps the climb that gets highest; of a tie, the first.
    """
    paths = [power_iteration(covariance, start) for start in np.eye(covariance.shape[0])]
    best = paths[0]
    for other in paths[1:]:
        if other[1][-1] > best[1][-1] * (1 + TIE):
            best = other
    return best


def power_iteration(covariance: Array, start: Array) -> tuple[Array, Array]:
    """Multiply ``start`` by the covariance again and again.

    Returns the vectors of length 1 (steps + 1, 3) and the variance along each (steps + 1,).
    """
    path = [start / np.linalg.norm(start)]
    while len(path) <= STEPS_MAX:
        product = covariance @ path[-1]
        length = np.linalg.norm(product)
        if length == 0:
            break
        path.append(product / length)
        if np.linalg.norm(path[-1] - path[-2]) < TURN_MIN:
            break
    steps = np.array(path)
    return steps, np.einsum("ki,ij,kj->k", steps, covariance, steps)


def deflated(covariance: Array, axis: Array) -> Array:
    """Return the covariance of what is left when the parts along ``axis`` are removed."""
    rest = np.eye(len(axis)) - np.outer(axis, axis)
    return np.asarray(rest @ covariance @ rest)
