"""Pixel arithmetic: area shrinking and exact colour moments, in C where it was built.

The environment variable ``IMGPREP_KERNEL`` picks the code when this module is imported:

========== ==========================================================================
``auto``   the first that works of the three below (the default)
``c-avx2`` the C extension with AVX2
``c``      the C extension in plain C; the same bytes as ``c-avx2``
``numpy``  no extension; moments are equal, area shrinking is within 1 level of C
========== ==========================================================================

The numpy code is the definition: the area average is computed from exact integers and rounded
half up. The C code works in 16-bit fixed point (in exact integers above a shrink factor of 30).
"""

from __future__ import annotations

import importlib
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgprep.errors import UsageError
from imgprep.image.geometry import Crop, Part, covered

_kernel: Any
try:
    _kernel = importlib.import_module("imgprep.image._kernel")
except ImportError:  # not built: no compiler when the package was installed
    _kernel = None

KERNEL_VARIABLE = "IMGPREP_KERNEL"

Moments = tuple[int, int, int, int, int, int]


def available_backends() -> tuple[str, ...]:
    """The backends that work in this process, fastest first."""
    compiled = () if _kernel is None else (("c-avx2", "c") if _kernel.HAS_AVX2 else ("c",))
    return (*compiled, "numpy")


def choose_backend(wanted: str | None) -> str:
    """The backend for a value of ``IMGPREP_KERNEL``; UsageError if it does not work here."""
    working = available_backends()
    if wanted in (None, "", "auto"):
        return working[0]
    if wanted not in working:
        raise UsageError(
            f"{KERNEL_VARIABLE} is {wanted!r}, but here only auto, {', '.join(working)} work"
        )
    return str(wanted)


BACKEND: str = choose_backend(os.environ.get(KERNEL_VARIABLE))
"""Which code this process uses: ``c-avx2``, ``c`` or ``numpy``."""


def area_shrink(
    image_hwc: NDArray[np.uint8],
    scaled_hw: tuple[int, int],
    crop: Crop,
    *,
    part: Part | None = None,
    backend: str | None = None,
) -> NDArray[np.uint8]:
    """The ``crop`` of the image shrunk to ``scaled_hw`` by area averaging (as INTER_AREA).

    ``image_hwc`` is C-contiguous (height, width, 3) uint8, of the whole image or of the ``part``
    of it; the result is a new (size, size, 3) uint8 array. An output pixel is the mean of the
    source area that it covers, edge pixels by their covered fraction. ValueError if ``scaled_hw``
    is larger than the image in an axis, or if the crop leaves it or needs more than the part.
    """
    backend = backend or BACKEND
    part = part or Part(*image_hwc.shape[:2])
    if backend == "numpy":
        return _area_shrink_numpy(image_hwc, scaled_hw, crop, part)
    size = crop.size_px
    out_hwc = np.empty((size, size, 3), np.uint8)
    _kernel.area_shrink(
        image_hwc,
        out_hwc,
        part.full_height,
        part.full_width,
        part.top,
        part.left,
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
) -> Moments:
    """Add the image into ``pixel_sum_hwc`` in place; return its second colour moments.

    Both arrays are C-contiguous, of one shape (height, width, 3). Returns the exact sums over all
    pixels of the products rr, gg, bb, rg, rb, gb. ValueError if a shape or type is wrong. A
    ``uint32`` holds 16.8 million images.
    """
    backend = backend or BACKEND
    if backend == "numpy":
        return _add_moments_numpy(image_hwc, pixel_sum_hwc)
    moments: Moments = _kernel.add_moments(image_hwc, pixel_sum_hwc, backend == "c-avx2")
    return moments


def _check_image(array: NDArray[Any], dtype: type[np.generic], what: str) -> None:
    sound = array.ndim == 3 and array.shape[2] == 3 and array.dtype == dtype and array.size
    if not sound or not array.flags.c_contiguous:
        name = np.dtype(dtype).name
        raise ValueError(f"{what} must be a C-contiguous (height, width, 3) array of {name}")


def _overlaps(
    n_source: int, n_scaled: int, first: int, count: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """For each of ``count`` outputs its first source sample, and (count, taps) integer weights.

    Source sample j covers [j*n_scaled, (j+1)*n_scaled), output i [i*n_source, (i+1)*n_source); the
    weight is what both cover, and the weights of an output sum to ``n_source``. Samples past the
    last that is covered have weight 0.
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
    """Sums over axis 0 of the samples from ``start`` on, one for each row of weights."""
    tail = (1,) * (samples.ndim - 1)
    sums = np.zeros((len(start), *samples.shape[1:]))
    for tap in range(weights.shape[1]):
        chosen = np.minimum(start + tap, len(samples) - 1)
        sums += weights[:, tap].reshape(-1, *tail) * samples[chosen]
    return sums


def _area_shrink_numpy(
    image_hwc: NDArray[np.uint8], scaled_hw: tuple[int, int], crop: Crop, part: Part
) -> NDArray[np.uint8]:
    _check_image(image_hwc, np.uint8, "image")
    height, width = part.full_height, part.full_width
    tall, wide = scaled_hw
    size = crop.size_px
    inside = 0 <= crop.top <= tall - size and 0 <= crop.left <= wide - size and size >= 1
    fits = inside and tall <= height and wide <= width
    if not fits or not part.holds(covered((height, width), scaled_hw, crop), image_hwc.shape):
        raise ValueError(
            "the scaled size must be 1 to the source size in both axes, and the "
            "square crop must lie inside it and inside the part that is given"
        )
    # Integers below 2**53, which float64 holds exactly, so the order of sums does not matter.
    row, down = _overlaps(height, tall, crop.top, size)
    column, across = _overlaps(width, wide, crop.left, size)
    window = covered((height, width), scaled_hw, crop)
    left, right = window.left - part.left, window.right - part.left
    lines = _weighted(image_hwc[:, left:right], row - part.top, down)
    totals = _weighted(lines.swapaxes(0, 1), column - window.left, across)
    area = height * width
    levels = (totals.swapaxes(0, 1).astype(np.int64) + area // 2) // area
    return np.ascontiguousarray(levels, dtype=np.uint8)


def _add_moments_numpy(image_hwc: NDArray[np.uint8], pixel_sum_hwc: NDArray[np.uint32]) -> Moments:
    _check_image(image_hwc, np.uint8, "image")
    _check_image(pixel_sum_hwc, np.uint32, "pixel_sum")
    if image_hwc.shape != pixel_sum_hwc.shape:
        raise ValueError("pixel_sum must have the shape of the image")
    pixel_sum_hwc += image_hwc
    # Sums of up to 2**53 are exact in float64: 138 gigapixels.
    pixels = image_hwc.reshape(-1, 3).astype(np.float64)
    gram = pixels.T @ pixels
    pairs = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
    rr, gg, bb, rg, rb, gb = (int(gram[i, j]) for i, j in pairs)
    return rr, gg, bb, rg, rb, gb
