"""PCA of the RGB values of all pixels, from their exact moments, by two independent solvers.

``scikit-learn``
    ``sklearn.decomposition.PCA`` itself, on six points that have exactly the mean and the sample
    covariance of all the pixels: mean +- c times the columns of a Cholesky factor. PCA sees a data
    set only through these two, so the result is that of ``PCA(n_components=3).fit(every_pixel)``.
``gradient-ascent``
    The textbook method, as a check without LAPACK: centre, maximise the variance ``w'Cw`` over unit
    vectors ``w`` along its gradient, remove that axis, repeat.

Sign convention (``SIGN_CONVENTION``): the sign of an eigenvector is arbitrary, and "largest
component positive" flips between similar data sets, because red and blue weigh almost the same in
the second axis of photographs. So each axis is compared with three fixed opponent-colour
directions and points to the positive side of the nearest one; a tie goes to the first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from imgprep.colour.moments import Moments, RgbMoments
from imgprep.errors import FormatError
from imgprep.spec import SOLVERS, Solver, require_one_of

Reading = Literal["source", "paper"]
"""AlexNet's lighting noise as the 2012 source computes it, or as the paper describes it."""

LEVELS = 255
"""Factor from the 0-1 scale to the 0-255 scale."""

SIGN_CONVENTION = (
    "each axis points to the positive side of the nearest of "
    "(1, 1, 1) brightness, (1, 0, -1) red against blue, (1, -2, 1) magenta against green"
)
_OPPONENT_COLUMNS: NDArray[np.float64] = np.array(
    [[1.0, 1.0, 1.0], [1.0, 0.0, -2.0], [1.0, -1.0, 1.0]]
) / np.sqrt([3.0, 2.0, 6.0])

UNIQUE_GAP = 1e-6
"""Eigenvalues that differ by less than this fraction of the largest count as equal."""

ANGLE_STEP_RAD = 1e-12
"""The ascent ends when a step turns the axis by less than this."""
GRADIENT_FLOOR = 4e-16
"""The ascent also ends when the gradient is below this fraction of the total variance: rounding."""
STEPS_MAX = 20_000
"""Most steps of an ascent; only (almost) equal eigenvalues need so many."""

_Vector: TypeAlias = tuple[float, float, float]
# Orthonormal and in general position: at least one has a component along the wanted axis.
_STARTS: tuple[_Vector, ...] = (
    (6 / 11, 6 / 11, 7 / 11),
    (-2 / 11, 9 / 11, -6 / 11),
    (9 / 11, -2 / 11, -6 / 11),
)


@dataclass(frozen=True, slots=True, eq=False)
class RgbPca:
    """The three principal components of RGB, largest variance first; pixels in levels 0-255.

    ``eigenvalues`` (3,): variances in levels squared (divisor n - 1), descending, zero beyond the
    exact rank. ``eigenvectors`` (3, 3): column k belongs to eigenvalue k, rows R, G, B; signs by
    ``SIGN_CONVENTION``. ``mean_rgb`` (3,). ``steps``: gradient steps per component, if any.
    """

    eigenvalues: NDArray[np.float64]
    eigenvectors: NDArray[np.float64]
    mean_rgb: NDArray[np.float64]
    solver: Solver
    steps: tuple[int, ...] = ()

    @property
    def stdevs(self) -> NDArray[np.float64]:
        """Square roots of the eigenvalues (3,), levels 0-255."""
        return np.sqrt(self.eigenvalues)

    def noise_multiplier(self, reading: Reading) -> NDArray[np.float64]:
        """Factor of each axis in AlexNet's lighting noise, besides alpha (3,); levels 0-255.

        ``source``: standard deviations on 0-255 (2012 source, convdata_jpeg.py 65). ``paper``: the
        eigenvalues, as the text says (4.1), with pixels on 0-1, and the shift scaled back by 255.
        """
        return self.stdevs if reading == "source" else self.eigenvalues / LEVELS

    @property
    def explained_variance_ratio(self) -> NDArray[np.float64]:
        """Share of each component in the total variance (3,); zeros if nothing varies."""
        total = float(self.eigenvalues.sum())
        return self.eigenvalues / total if total > 0 else np.zeros(3)

    @property
    def axis_is_unique(self) -> tuple[bool, bool, bool]:
        """Whether each axis is determined by the data.

        Where two eigenvalues are equal, every direction in the plane of their axes is an
        eigenvector, and solvers may disagree.
        """
        first, second, third = self.eigenvalues.tolist()
        gap_12, gap_23 = first - second, second - third
        least = UNIQUE_GAP * first
        upper, lower = gap_12 > least, gap_23 > least
        return (upper, upper and lower, lower)


def fit_pca(moments: Moments | RgbMoments, solver: Solver = "scikit-learn") -> RgbPca:
    """Principal components of all pixels behind ``moments``.

    Images of one colour give eigenvalues 0 and the opponent-colour axes. Raises ``FormatError``
    for moments of no images and ``UsageError`` for an unknown solver.
    """
    rgb = moments.rgb
    points = sigma_points(rgb)
    rank = (len(points) - 1) // 2
    steps: tuple[int, ...] = ()
    require_one_of("solver", solver, SOLVERS)
    if rank == 0:
        values, vectors = np.zeros(3), _OPPONENT_COLUMNS
    elif solver == "scikit-learn":
        values, vectors = _by_scikit_learn(points)
    else:
        values, vectors, steps = _by_gradient_ascent(rgb.covariance().tolist())
    values = np.where(np.arange(3) < rank, np.maximum(values, 0.0), 0.0)
    arrays = (values, orient(vectors), rgb.mean())
    for array in arrays:
        array.flags.writeable = False
    return RgbPca(*arrays, solver=solver, steps=steps)


def orient(eigenvectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same axes, in columns (3, n), with signs by ``SIGN_CONVENTION``."""
    coordinates = _OPPONENT_COLUMNS.T @ eigenvectors
    # A tie must not be decided by the last bit.
    nearest = np.argmax(np.round(np.abs(coordinates), 9), axis=0, keepdims=True)
    along = np.take_along_axis(coordinates, nearest, axis=0)
    return eigenvectors * np.where(along < 0, -1.0, 1.0)


def angle_degrees(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Angle between axes, column by column: (3, n) and (3, n) to (n,), degrees 0 to 90.

    Signs and lengths do not matter. Computed by ``atan2`` of cross and dot product, which stays
    accurate for tiny angles where ``acos`` does not. Where eigenvalues are equal the axes are not
    unique (``RgbPca.axis_is_unique``) and the angle is meaningless.
    """
    cross = np.linalg.norm(np.cross(a, b, axis=0), axis=0)
    dot = np.abs((a * b).sum(axis=0))
    degrees: NDArray[np.float64] = np.degrees(np.arctan2(cross, dot))
    return degrees


def cholesky_columns(rgb: RgbMoments) -> list[_Vector]:
    """Columns whose outer products add up to the sample covariance; their number is its rank.

    Pivoted Cholesky, semidefinite, in exact fractions with one root at the end: the rank is exact
    and small eigenvalues keep their digits beside large ones.
    """
    left = [[Fraction(x) for x in row] for row in rgb.scatter()]
    scale = rgb.scatter_scale(ddof=1)
    columns: list[_Vector] = []
    for _ in range(3):
        pivot = max(range(3), key=lambda i: left[i][i])
        top = left[pivot][pivot]
        if top <= 0:  # below 0: sums that no pixels have, see RgbMoments
            break
        root = math.sqrt(top / scale)
        ratios = [left[i][pivot] / top for i in range(3)]
        columns.append((float(ratios[0]) * root, float(ratios[1]) * root, float(ratios[2]) * root))
        left = [[left[i][j] - ratios[i] * ratios[j] * top for j in range(3)] for i in range(3)]
    return columns


def sigma_points(rgb: RgbMoments) -> NDArray[np.float64]:
    """Few points with the mean and the sample covariance of all pixels: (2 * rank + 1, 3).

    The mean itself, then mean + c v and mean - c v for each Cholesky column v; with m = 2 rank + 1
    points the sample covariance is 2 c^2 / (m - 1) times the one sought, hence c = sqrt(rank).
    """
    if rgb.images == 0:
        raise FormatError("PCA of no images: the training split of this dataset is empty")
    columns = np.array(cholesky_columns(rgb), dtype=np.float64).reshape(-1, 3)
    offsets = math.sqrt(len(columns)) * columns
    points: NDArray[np.float64] = np.concatenate([np.zeros((1, 3)), offsets, -offsets])
    return points + rgb.mean()


def _by_scikit_learn(
    points: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    from sklearn.decomposition import PCA  # takes a second to import; needed only here

    fitted = PCA(n_components=3, svd_solver="full").fit(points)
    return fitted.explained_variance_.copy(), fitted.components_.T.copy()


def _by_gradient_ascent(
    covariance: Sequence[Sequence[float]],
) -> tuple[NDArray[np.float64], NDArray[np.float64], tuple[int, ...]]:
    found: list[tuple[float, _Vector, int]] = []
    for _ in range(3):
        taken = [axis for _, axis, _ in found]
        climbs = [
            _climb(covariance, start, taken)
            for start in _STARTS
            if _length(_without(start, taken)) > 0.5
        ]
        # An ascent that starts at right angles to the solution ends on a saddle: take the highest.
        found.append(max(climbs, key=lambda climb: climb[0]))
    found.sort(key=lambda component: -component[0])
    values = np.array([value for value, _, _ in found])
    vectors = np.array([axis for _, axis, _ in found]).T
    return values, vectors, tuple(steps for _, _, steps in found)


def _climb(
    covariance: Sequence[Sequence[float]], start: _Vector, taken: Sequence[_Vector]
) -> tuple[float, _Vector, int]:
    """Steepest ascent of w'Cw on the unit sphere, orthogonal to the axes already found.

    In the plane of ``w`` and the gradient the best step has a closed form: the rotation that
    diagonalises C there. Every second step turns by nine tenths of it, because always taking the
    whole step makes steepest ascent zigzag.
    """
    floor = GRADIENT_FLOOR * (covariance[0][0] + covariance[1][1] + covariance[2][2])
    w = _unit(_without(start, taken))
    step = 0
    while True:
        cw = _times(covariance, w)
        variance = _dot(w, cw)
        gradient = _without(_without(cw, [*taken, w]), [*taken, w])
        slope = _length(gradient)
        if slope <= floor or step == STEPS_MAX:
            return variance, w, step
        step += 1
        uphill = _unit(gradient)
        across = _dot(uphill, _times(covariance, uphill))
        turn_rad = 0.5 * math.atan2(2 * slope, variance - across) * (0.9 if step % 2 else 1.0)
        cos, sin = math.cos(turn_rad), math.sin(turn_rad)
        w = _unit(_without(_combine(cos, w, sin, uphill), taken))
        if turn_rad < ANGLE_STEP_RAD:
            return _dot(w, _times(covariance, w)), w, step


def _dot(a: _Vector, b: _Vector) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _length(a: _Vector) -> float:
    return math.hypot(*a)


def _combine(x: float, a: _Vector, y: float, b: _Vector) -> _Vector:
    return (x * a[0] + y * b[0], x * a[1] + y * b[1], x * a[2] + y * b[2])


def _unit(a: _Vector) -> _Vector:
    length = _length(a)
    return (a[0] / length, a[1] / length, a[2] / length)


def _times(matrix: Sequence[Sequence[float]], a: _Vector) -> _Vector:
    first, second, third = (row[0] * a[0] + row[1] * a[1] + row[2] * a[2] for row in matrix)
    return (first, second, third)


def _without(a: _Vector, axes: Sequence[_Vector]) -> _Vector:
    """The component of ``a`` orthogonal to orthonormal ``axes``."""
    for axis in axes:
        a = _combine(1.0, a, -_dot(a, axis), axis)
    return a
