"""Resize and centre crop in one step: only the pixels that survive the crop are computed."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from imgprep.geometry import centre_crop, scaled_size, source_box
from imgprep.kernel import area_shrink

ENLARGING_FILTER = "bicubic"
"""What ``area`` means when the short side must grow, as cuda-convnet2 (INTER_CUBIC)."""

# Half width of each Pillow kernel at scale 1, in pixels (Resample.c).
_SUPPORT_PX = {"box": 0.5, "bilinear": 1.0, "hamming": 1.0, "bicubic": 2.0, "lanczos": 3.0}


def resize_crop(
    image_hwc: NDArray[np.uint8], *, size_px: int, filter_name: str
) -> NDArray[np.uint8]:
    """The central ``size_px`` square after the short side became ``size_px``.

    ``image_hwc`` is C-contiguous (height, width, 3) uint8; the result is a new array, never a
    view of it. ``filter_name`` is one of ``imgprep.spec.FILTERS``: ``area`` shrinks by area
    averaging and enlarges by bicubic; the others are Pillow's (antialiased) in both directions.
    An image whose short side fits is only cropped. Equal to resizing all of the image and then
    cropping, within 1 level.
    """
    height, width, _ = image_hwc.shape
    short = min(height, width)
    scaled_hw = scaled_size(height, width, size_px)
    crop = centre_crop(scaled_hw, size_px)
    if short == size_px:
        rows = slice(crop.top, crop.top + size_px)
        return image_hwc[rows, crop.left : crop.left + size_px].copy()
    if filter_name == "area":
        if short > size_px:
            return area_shrink(image_hwc, scaled_hw, crop)
        filter_name = ENLARGING_FILTER
    box = source_box((height, width), scaled_hw, crop)
    return _resize_box(image_hwc, box, size_px, filter_name)


def _resize_box(
    image_hwc: NDArray[np.uint8],
    box: tuple[float, float, float, float],
    size_px: int,
    filter_name: str,
) -> NDArray[np.uint8]:
    """The box resampled by Pillow, which sees no more of the image than the kernel reaches.

    Cutting first keeps the copy into Pillow small, and keeps the box, which Pillow holds in
    32-bit floats, close to zero and so precise.
    """
    from PIL import Image

    left, top, right, bottom = box
    height, width, _ = image_hwc.shape
    x_from, x_to = _reach(left, right, width, size_px, filter_name)
    y_from, y_to = _reach(top, bottom, height, size_px, filter_name)
    window = np.ascontiguousarray(image_hwc[y_from:y_to, x_from:x_to])
    resized = Image.fromarray(window).resize(
        (size_px, size_px),
        Image.Resampling[filter_name.upper()],
        box=(left - x_from, top - y_from, right - x_from, bottom - y_from),
    )
    return np.array(resized)


def _reach(
    start: float, stop: float, n_source: int, size_px: int, filter_name: str
) -> tuple[int, int]:
    """First and one past the last source sample that outputs between start and stop can use."""
    scale = max((stop - start) / size_px, 1.0)
    margin = math.ceil(_SUPPORT_PX[filter_name] * scale) + 2
    return max(math.floor(start) - margin, 0), min(math.ceil(stop) + margin, n_source)
