"""Exact integer moments of a set of images: the sums that mean image, RGB mean and PCA come from.

Sums of integers do not depend on the order of the images, on the number of workers or on how
partial results are merged. Divisions come last, once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from imgprep.errors import FormatError
from imgprep.image.kernel import RgbProducts, add_moments

FOLD_IMAGES = 2**24
"""Images that a uint32 per-pixel sum can always hold: 255 * 2^24 < 2^32."""

LEVEL_MAX = 255

IntMatrix: TypeAlias = tuple[tuple[int, int, int], tuple[int, int, int], tuple[int, int, int]]


def _require(ok: bool, message: str) -> None:
    if not ok:
        raise FormatError(message)


@dataclass(frozen=True, slots=True)
class RgbMoments:
    """Count, sum and sums of products of the RGB values of all pixels: Python integers, exact.

    They determine mean, covariance and PCA. ``FormatError`` if no image can have such sums.
    """

    images: int
    size_px: int
    sums: tuple[int, int, int]
    """Sum of R, of G, of B over all pixels, in levels 0-255."""
    second: RgbProducts

    def __post_init__(self) -> None:
        _require(self.images >= 0, f"moments: the number of images is {self.images}")
        _require(self.size_px >= 1, f"moments: the image side is {self.size_px} pixels")
        for total, squares in zip(self.sums, self.second[:3], strict=True):
            _require(
                0 <= total <= LEVEL_MAX * self.pixels and total <= squares <= LEVEL_MAX * total,
                f"moments: channel sum {total} and sum of squares {squares} cannot come from "
                f"{self.pixels} pixels of 0-255",
            )
        _require(
            min(row[i] for i, row in enumerate(self.scatter())) >= 0,
            "moments: sums of products contradict the channel sums (negative variance)",
        )

    @property
    def rgb(self) -> RgbMoments:
        """Itself, so that functions can accept ``Moments`` and ``RgbMoments``."""
        return self

    @property
    def pixels(self) -> int:
        return self.images * self.size_px**2

    def second_matrix(self) -> IntMatrix:
        """The sums of products as a symmetric 3x3 matrix, rows and columns R, G, B."""
        rr, gg, bb, rg, rb, gb = self.second
        return ((rr, rg, rb), (rg, gg, gb), (rb, gb, bb))

    def scatter(self) -> IntMatrix:
        """``n * Sxy - Sx * Sy``, exact: the covariance times ``scatter_scale``."""
        n, s, m = self.pixels, self.sums, self.second_matrix()
        rr, gg, bb = (n * m[i][i] - s[i] * s[i] for i in range(3))
        rg, rb, gb = (n * m[i][j] - s[i] * s[j] for i, j in ((0, 1), (0, 2), (1, 2)))
        return ((rr, rg, rb), (rg, gg, gb), (rb, gb, bb))

    def scatter_scale(self, ddof: int = 1) -> int:
        """``n * (n - ddof)``: the divisor that turns ``scatter`` into the covariance."""
        _require(self.pixels > ddof, f"moments of {self.images} images: too few for a covariance")
        return self.pixels * (self.pixels - ddof)

    def mean(self) -> NDArray[np.float64]:
        """Mean R, G, B (3,), levels 0-255; each is the exact quotient, rounded once."""
        _require(self.images > 0, "moments of no images have no mean: build a split with images")
        return np.array([total / self.pixels for total in self.sums], dtype=np.float64)

    def covariance(self, ddof: int = 1) -> NDArray[np.float64]:
        """Covariance (3, 3) of R, G, B in levels squared; ``ddof=1`` is the sample covariance.

        Differences are taken in integers and divided once, so no digits cancel.
        """
        scale = self.scatter_scale(ddof)
        return np.array([[x / scale for x in row] for row in self.scatter()], dtype=np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """The moments of a set of square RGB images; compared by value, added with ``+``."""

    images: int
    pixel_sum_hwc: NDArray[np.int64]
    """Sum of the images (size, size, 3), read-only and C-contiguous, as it is written to a file."""
    second: RgbProducts
    """Over all pixels of all images."""

    def __post_init__(self) -> None:
        array = self.pixel_sum_hwc
        _require(
            array.ndim == 3 and array.shape[0] == array.shape[1] >= 1 and array.shape[2] == 3,
            f"moments: the pixel sum has shape {array.shape}, not (size, size, 3)",
        )
        _require(
            array.dtype == np.dtype(np.int64),
            f"moments: the pixel sum is {array.dtype}, not int64",
        )
        frozen = np.ascontiguousarray(array).view()
        frozen.flags.writeable = False
        object.__setattr__(self, "pixel_sum_hwc", frozen)

    @classmethod
    def empty(cls, size_px: int) -> Moments:
        """The moments of no images of ``size_px``: the neutral element of ``+``."""
        return cls(0, np.zeros((size_px, size_px, 3), dtype=np.int64), (0, 0, 0, 0, 0, 0))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Moments):
            return NotImplemented
        return (
            self.images == other.images
            and self.second == other.second
            and np.array_equal(self.pixel_sum_hwc, other.pixel_sum_hwc)
        )

    __hash__ = None  # type: ignore[assignment]

    def __add__(self, other: Moments) -> Moments:
        return merge(self, other)

    @property
    def size_px(self) -> int:
        return int(self.pixel_sum_hwc.shape[0])

    @property
    def pixels(self) -> int:
        return self.images * self.size_px**2

    @property
    def rgb_sum(self) -> tuple[int, int, int]:
        """Sum of R, of G, of B over all pixels of all images."""
        # Rows are added as Python integers: no size and count of images can overflow.
        r, g, b = (sum(row) for row in self.pixel_sum_hwc.sum(axis=0).T.tolist())
        return (r, g, b)

    @property
    def rgb(self) -> RgbMoments:
        """The RGB moments alone. ``FormatError`` if they contradict each other."""
        return RgbMoments(self.images, self.size_px, self.rgb_sum, self.second)

    def rgb_mean(self) -> NDArray[np.float64]:
        """Mean R, G, B (3,), levels 0-255."""
        return self.rgb.mean()

    def rgb_covariance(self, ddof: int = 1) -> NDArray[np.float64]:
        """Covariance (3, 3) of R, G, B in levels squared; see ``RgbMoments.covariance``."""
        return self.rgb.covariance(ddof)

    def mean_image_hwc(self) -> NDArray[np.float32]:
        """The mean image (size, size, 3) float32, RGB, levels 0-255."""
        _require(self.images > 0, "there is no mean image of no images")
        return (self.pixel_sum_hwc / self.images).astype(np.float32)


def merge(a: Moments, b: Moments) -> Moments:
    """The moments of both sets of images. ``FormatError`` if their sizes differ."""
    _require(
        a.size_px == b.size_px,
        f"moments of {a.size_px} px and {b.size_px} px images cannot be merged",
    )
    rr, gg, bb, rg, rb, gb = (x + y for x, y in zip(a.second, b.second, strict=True))
    return Moments(a.images + b.images, a.pixel_sum_hwc + b.pixel_sum_hwc, (rr, gg, bb, rg, rb, gb))


class MomentsAccumulator:
    """Adds up images one by one: per pixel in uint32, moved to int64 before it overflows."""

    def __init__(self, size_px: int, *, fold_images: int = FOLD_IMAGES) -> None:
        if not 1 <= fold_images <= FOLD_IMAGES:
            raise ValueError(f"fold_images must be 1 to {FOLD_IMAGES}, not {fold_images}")
        shape = (size_px, size_px, 3)
        self._fold_images = fold_images
        self._images = 0
        self._unfolded = 0
        self._recent_u32 = np.zeros(shape, dtype=np.uint32)
        self._folded_i64 = np.zeros(shape, dtype=np.int64)
        self._second = [0] * 6

    def add(self, image_hwc: NDArray[np.uint8]) -> None:
        """Add one (size, size, 3) uint8 image."""
        if self._unfolded == self._fold_images:
            self._fold()
        for i, value in enumerate(add_moments(image_hwc, self._recent_u32)):
            self._second[i] += value
        self._images += 1
        self._unfolded += 1

    def moments(self) -> Moments:
        """The moments of all images added so far; more may be added afterwards."""
        self._fold()
        rr, gg, bb, rg, rb, gb = self._second
        return Moments(self._images, self._folded_i64.copy(), (rr, gg, bb, rg, rb, gb))

    def _fold(self) -> None:
        self._folded_i64 += self._recent_u32
        self._recent_u32.fill(0)
        self._unfolded = 0
