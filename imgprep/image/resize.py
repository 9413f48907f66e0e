"""Resize and centre-crop in one step: only pixels inside the crop are computed."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imgprep.image.geometry import (
    Crop,
    Placement,
    Region,
    centre_crop,
    covered_region,
    scaled_size,
    source_box,
)
from imgprep.image.kernel import area_shrink

ENLARGING_FILTER = "bicubic"
"""The filter that ``area`` uses to enlarge, as in cuda-convnet2 (INTER_CUBIC)."""

# Half width of each Pillow kernel at scale 1, in pixels (Resample.c).
_SUPPORT_PX = {"box": 0.5, "bilinear": 1.0, "hamming": 1.0, "bicubic": 2.0, "lanczos": 3.0}

# Filters for which resizing a source box differs from resizing the whole image. Pillow stores the
# box in 32-bit floats: an error of one bit makes BOX pick another pixel, and in the other filters
# can change a level between the two passes, which their negative lobes amplify to 2 levels.
_BOX_SENSITIVE = frozenset({"box", "bicubic", "lanczos"})
# These filters resize the whole image up to this many scaled pixels per pixel of the crop.
_WHOLE_LIMIT = 4


def needed_region(height: int, width: int, *, size_px: int, filter_name: str) -> Region:
    """The region of an image of this size that ``resize_crop`` reads."""
    if min(height, width) < size_px or (filter_name != "area" and min(height, width) != size_px):
        return Region(0, height, 0, width)
    scaled_hw = scaled_size(height, width, size_px)
    return covered_region((height, width), scaled_hw, centre_crop(scaled_hw, size_px))


def resize_crop(
    image_hwc: NDArray[np.uint8],
    *,
    size_px: int,
    filter_name: str,
    placement: Placement | None = None,
) -> NDArray[np.uint8]:
    """The central ``size_px`` square after the short side is resized to ``size_px``.

    ``image_hwc`` is C-contiguous (height, width, 3) uint8; the result is a new array, never a
    view of it. ``filter_name`` is one of ``imgprep.spec.FILTERS``: ``area`` shrinks by area
    averaging and enlarges by bicubic; the others are Pillow's antialiased filters in both
    directions. An image whose short side is already ``size_px`` is only cropped. With
    ``placement``, ``image_hwc`` is a region of the image that has at least its ``needed_region``.

    The result equals resizing the whole image and then cropping, within 1 level (2 levels if
    bicubic or lanczos enlarge an image whose sides differ by more than a factor of 4).
    """
    placement = placement or Placement(*image_hwc.shape[:2])
    height, width = placement.full_height, placement.full_width
    short = min(height, width)
    scaled_hw = scaled_size(height, width, size_px)
    crop = centre_crop(scaled_hw, size_px)
    if short == size_px:
        return _cut(image_hwc, crop.top - placement.top, crop.left - placement.left, size_px).copy()
    if filter_name == "area":
        if short > size_px:
            return area_shrink(image_hwc, scaled_hw, crop, placement=placement)
        filter_name = ENLARGING_FILTER
    scaled_pixels = scaled_hw[0] * scaled_hw[1]
    whole = scaled_pixels <= max(height * width, _WHOLE_LIMIT * size_px * size_px)
    if filter_name in _BOX_SENSITIVE and whole:
        full = Image.fromarray(image_hwc).resize(scaled_hw[::-1], _method(filter_name))
        right, bottom = crop.left + size_px, crop.top + size_px
        return np.array(full.crop((crop.left, crop.top, right, bottom)))
    if filter_name == "box":
        return _nearest(image_hwc, scaled_hw, crop)
    return _resample_box(image_hwc, scaled_hw, crop, filter_name)


def _cut(image_hwc: NDArray[np.uint8], top: int, left: int, size_px: int) -> NDArray[np.uint8]:
    return image_hwc[top : top + size_px, left : left + size_px]


def _method(filter_name: str) -> Image.Resampling:
    return Image.Resampling[filter_name.upper()]


def _nearest(
    image_hwc: NDArray[np.uint8], scaled_hw: tuple[int, int], crop: Crop
) -> NDArray[np.uint8]:
    """Enlarge as Pillow's BOX does: each pixel copies the source pixel that Pillow would choose."""
    offsets = (crop.top, crop.left)
    rows, columns = (
        ((np.arange(at, at + crop.size_px) + 0.5) * (n_source / n_scaled)).astype(np.intp)
        for at, n_source, n_scaled in zip(offsets, image_hwc.shape, scaled_hw, strict=False)
    )
    return image_hwc[np.ix_(rows, columns)]


def _resample_box(
    image_hwc: NDArray[np.uint8], scaled_hw: tuple[int, int], crop: Crop, filter_name: str
) -> NDArray[np.uint8]:
    """Resample only the crop with Pillow, from the source pixels within reach of the filter.

    Cutting them out first keeps the copy into Pillow small, and the 32-bit box coordinates close
    to zero and so precise.
    """
    height, width, _ = image_hwc.shape
    left, top, right, bottom = source_box((height, width), scaled_hw, crop)
    x_from, x_to = _reach(left, right, width, crop.size_px, filter_name)
    y_from, y_to = _reach(top, bottom, height, crop.size_px, filter_name)
    source = np.ascontiguousarray(image_hwc[y_from:y_to, x_from:x_to])
    resized = Image.fromarray(source).resize(
        (crop.size_px, crop.size_px),
        _method(filter_name),
        box=(left - x_from, top - y_from, right - x_from, bottom - y_from),
    )
    return np.array(resized)


def _reach(
    start: float, stop: float, n_source: int, size_px: int, filter_name: str
) -> tuple[int, int]:
    """The first source sample that outputs between start and stop use, and one past the last."""
    scale = max((stop - start) / size_px, 1.0)
    margin = math.ceil(_SUPPORT_PX[filter_name] * scale) + 2
    return max(math.floor(start) - margin, 0), min(math.ceil(stop) + margin, n_source)
