"""Pixel arithmetic: area shrinking and exact colour moments, in C if the extension was built.

The environment variable ``IMGPREP_KERNEL`` selects the code when this module is imported:

========== ==========================================================================
``auto``   the first of the three below that is available (the default)
``c-avx2`` the C extension with AVX2
``c``      the C extension in plain C; the same bytes as ``c-avx2``
``numpy``  no extension; the same moments, area shrinking within 1 level of C
========== ==========================================================================

The numpy code is the reference: it computes the area average in exact integers and rounds half
up. The C code uses 16-bit fixed point, and exact integers above a shrink factor of 30.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgprep.errors import UsageError
from imgprep.image.geometry import Crop, Placement, covered_region

_kernel: Any
try:
    _kernel = importlib.import_module("imgprep.image._kernel")
except ImportError:  # not built: the package was installed without a compiler
    _kernel = None

KERNEL_VARIABLE = "IMGPREP_KERNEL"

RgbProducts = tuple[int, int, int, int, int, int]
"""Sums over all pixels of the products rr, gg, bb, rg, rb, gb."""


def available_backends() -> tuple[str, ...]:
    """The backends that this process can use, fastest first."""
    compiled = () if _kernel is None else (("c-avx2", "c") if _kernel.HAS_AVX2 else ("c",))
    return (*compiled, "numpy")


def choose_backend(wanted: str | None) -> str:
    """The backend for a value of ``IMGPREP_KERNEL``; UsageError if it is not available."""
    available = available_backends()
    if wanted in (None, "", "auto"):
        return available[0]
    if wanted not in available:
        raise UsageError(
            f"{KERNEL_VARIABLE} must be one of auto, {', '.join(available)} on this machine; "
            f"got {wanted!r}"
        )
    return str(wanted)


BACKEND: str = choose_backend(os.environ.get(KERNEL_VARIABLE))
"""The code that this process uses: ``c-avx2``, ``c`` or ``numpy``."""


def area_shrink(
    image_hwc: NDArray[np.uint8],
    scaled_hw: tuple[int, int],
    crop: Crop,
    *,
    placement: Placement | None = None,
    backend: str | None = None,
) -> NDArray[np.uint8]:
    """The ``crop`` of the image shrunk to ``scaled_hw`` by area averaging (OpenCV's INTER_AREA).

    ``image_hwc`` is C-contiguous (height, width, 3) uint8: the whole image, or the region of it
    that starts at ``placement``. The result is a new uint8 array with the crop. An output pixel
    is the mean of the source area that it covers; pixels at the edge count by their covered
    fraction. ValueError if ``scaled_hw`` is larger than the image in an axis, if the crop is not
    inside the scaled image, or if it needs pixels that ``image_hwc`` does not have.
    """
    backend = backend or BACKEND
    placement = placement or Placement(*image_hwc.shape[:2])
    if backend == "numpy":
        return _area_shrink_numpy(image_hwc, scaled_hw, crop, placement)
    out_hwc = np.empty((crop.height_px, crop.width_px, 3), np.uint8)
    _kernel.area_shrink(
        image_hwc,
        out_hwc,
        placement.full_height,
        placement.full_width,
        placement.top,
        placement.left,
        *scaled_hw,
        crop.top,
        crop.left,
        backend == "c-avx2",
    )
    return out_hwc


def add_moments(
    image_hwc: NDArray[np.uint8],
    pixel_sum_hwc: NDArray[np.uint32],
    *,
    backend: str | None = None,
) -> RgbProducts:
    """Add the image to ``pixel_sum_hwc`` in place; return its exact sums of products.

    Both arrays are C-contiguous and have the same shape (height, width, 3). ValueError if a shape
    or type is wrong. A ``uint32`` pixel sum can hold 16.8 million images.
    """
    backend = backend or BACKEND
    if backend == "numpy":
        return _add_moments_numpy(image_hwc, pixel_sum_hwc)
    products: RgbProducts = _kernel.add_moments(image_hwc, pixel_sum_hwc, backend == "c-avx2")
    return products


def _check_image(array: NDArray[Any], dtype: type[np.generic], what: str) -> None:
    valid = array.ndim == 3 and array.shape[2] == 3 and array.dtype == dtype and array.size
    if not valid or not array.flags.c_contiguous:
        name = np.dtype(dtype).name
        raise ValueError(f"{what} must be a C-contiguous (height, width, 3) array of {name}")


def _overlaps(
    n_source: int, n_scaled: int, first: int, count: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The first source sample of each of ``count`` outputs, and (count, taps) integer weights.

    Source sample j covers [j*n_scaled, (j+1)*n_scaled) and output i [i*n_source, (i+1)*n_source).
    A weight is the length of the overlap; the weights of an output sum to ``n_source``. Taps past
    the last covered sample have weight 0.
    """
    begin = np.arange(first, first + count, dtype=np.int64) * n_source
    start = begin // n_scaled
    n_taps = int((-(-(begin + n_source) // n_scaled) - start).max())
    samples = (start[:, None] + np.arange(n_taps)) * n_scaled
    ends = np.minimum(begin[:, None] + n_source, samples + n_scaled)
    shared: NDArray[np.int64] = np.maximum(ends - np.maximum(begin[:, None], samples), 0)
    return start, shared.astype(np.float64)


def _weighted(
    samples: NDArray[Any], start: NDArray[np.int64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """For each row of weights, the weighted sum of the samples that begin at its ``start``."""
    tail = (1,) * (samples.ndim - 1)
    sums = np.zeros((len(start), *samples.shape[1:]))
    for tap in range(weights.shape[1]):
        chosen = np.minimum(start + tap, len(samples) - 1)
        sums += weights[:, tap].reshape(-1, *tail) * samples[chosen]
    return sums


def _area_shrink_numpy(
    image_hwc: NDArray[np.uint8], scaled_hw: tuple[int, int], crop: Crop, placement: Placement
) -> NDArray[np.uint8]:
    _check_image(image_hwc, np.uint8, "image")
    height, width = placement.full_height, placement.full_width
    tall, wide = scaled_hw
    rows, columns = crop.height_px, crop.width_px
    inside = 0 <= crop.top <= tall - rows and 0 <= crop.left <= wide - columns
    inside = inside and rows >= 1 and columns >= 1
    fits = inside and tall <= height and wide <= width
    region = covered_region((height, width), scaled_hw, crop) if fits else None
    if region is None or not placement.contains(region, image_hwc.shape):
        raise ValueError(
            "the scaled size must be from 1 to the source size in both axes, and the crop "
            "must be inside it and inside the given pixels"
        )
    # All values are integers below 2**53, exact in float64, so the order of sums does not matter.
    row, down = _overlaps(height, tall, crop.top, rows)
    column, across = _overlaps(width, wide, crop.left, columns)
    left, right = region.left - placement.left, region.right - placement.left
    lines = _weighted(image_hwc[:, left:right], row - placement.top, down)
    totals = _weighted(lines.swapaxes(0, 1), column - region.left, across)
    area = height * width
    levels = (totals.swapaxes(0, 1).astype(np.int64) + area // 2) // area
    return np.ascontiguousarray(levels, dtype=np.uint8)


def _add_moments_numpy(
    image_hwc: NDArray[np.uint8], pixel_sum_hwc: NDArray[np.uint32]
) -> RgbProducts:
    _check_image(image_hwc, np.uint8, "image")
    _check_image(pixel_sum_hwc, np.uint32, "pixel_sum")
    if image_hwc.shape != pixel_sum_hwc.shape:
        raise ValueError("pixel_sum must have the same shape as the image")
    pixel_sum_hwc += image_hwc
    # float64 sums are exact up to 2**53, which is 138 gigapixels.
    pixels = image_hwc.reshape(-1, 3).astype(np.float64)
    gram = pixels.T @ pixels
    pairs = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
    rr, gg, bb, rg, rb, gb = (int(gram[i, j]) for i, j in pairs)
    return rr, gg, bb, rg, rb, gb
