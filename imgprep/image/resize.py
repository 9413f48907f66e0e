"""Resize and centre-crop in one step: only pixels inside the crop are computed.

To add a filter, add an entry to ``_FILTERS`` below and its name to ``imgprep.spec.FilterName``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imgprep.image.geometry import (
    Crop,
    Placement,
    Region,
    centre_crop,
    covered_region,
    rectangle_crop,
    scaled_size,
    source_box,
)
from imgprep.image.kernel import area_shrink
from imgprep.spec import Shape

# Filters that resize the whole image do so up to this many scaled pixels per pixel of the crop.
_WHOLE_LIMIT = 4


class Resampler(Protocol):
    """Computes the ``crop`` of an image scaled to ``scaled_hw``: (height, width, 3) uint8.

    ``image_hwc`` is the ``needed_region`` of the image, and ``placement`` says where it is.
    """

    def __call__(
        self,
        image_hwc: NDArray[np.uint8],
        scaled_hw: tuple[int, int],
        crop: Crop,
        *,
        placement: Placement,
    ) -> NDArray[np.uint8]: ...


@dataclass(frozen=True, slots=True)
class PillowFilter:
    """A ``Resampler`` that uses one of Pillow's antialiased filters; it needs the whole image."""

    method: Image.Resampling
    support_px: float
    """Half width of the kernel at scale 1 (Resample.c)."""
    box_sensitive: bool
    """Resizing a source box differs from resizing the whole image.

    Pillow stores the box in 32-bit floats: an error of one bit makes BOX pick another pixel, and
    in the other filters can change a level between the two passes, which their negative lobes
    amplify to 2 levels.
    """

    def __call__(
        self,
        image_hwc: NDArray[np.uint8],
        scaled_hw: tuple[int, int],
        crop: Crop,
        *,
        placement: Placement,
    ) -> NDArray[np.uint8]:
        """See ``Resampler``."""
        source_pixels = placement.full_height * placement.full_width
        scaled_pixels = scaled_hw[0] * scaled_hw[1]
        whole = scaled_pixels <= max(source_pixels, _WHOLE_LIMIT * crop.height_px * crop.width_px)
        if self.box_sensitive and whole:
            full = Image.fromarray(image_hwc).resize(scaled_hw[::-1], self.method)
            right, bottom = crop.left + crop.width_px, crop.top + crop.height_px
            return np.array(full.crop((crop.left, crop.top, right, bottom)))
        if self.method == Image.Resampling.BOX:
            return _nearest(image_hwc, scaled_hw, crop)
        return self._resample_box(image_hwc, scaled_hw, crop)

    def _resample_box(
        self, image_hwc: NDArray[np.uint8], scaled_hw: tuple[int, int], crop: Crop
    ) -> NDArray[np.uint8]:
        """Resample only the crop, from the source pixels within reach of the filter.

        Cutting them out first keeps the copy into Pillow small, and the 32-bit box coordinates
        close to zero and so precise.
        """
        height, width, _ = image_hwc.shape
        left, top, right, bottom = source_box((height, width), scaled_hw, crop)
        x_from, x_to = self._reach(left, right, width, crop.width_px)
        y_from, y_to = self._reach(top, bottom, height, crop.height_px)
        source = np.ascontiguousarray(image_hwc[y_from:y_to, x_from:x_to])
        resized = Image.fromarray(source).resize(
            (crop.width_px, crop.height_px),
            self.method,
            box=(left - x_from, top - y_from, right - x_from, bottom - y_from),
        )
        return np.array(resized)

    def _reach(self, start: float, stop: float, n_source: int, n_crop: int) -> tuple[int, int]:
        """The first source sample that outputs from start to stop use, and one past the last."""
        scale = max((stop - start) / n_crop, 1.0)
        margin = math.ceil(self.support_px * scale) + 2
        return max(math.floor(start) - margin, 0), min(math.ceil(stop) + margin, n_source)


@dataclass(frozen=True, slots=True)
class Filter:
    """What computes the pixels in each direction."""

    shrink: Resampler
    enlarge: Resampler
    shrinks_region: bool = False
    """``shrink`` reads only the source pixels that the crop covers, not the whole image."""


def _both(resampler: Resampler) -> Filter:
    return Filter(resampler, resampler)


BICUBIC = PillowFilter(Image.Resampling.BICUBIC, 2.0, box_sensitive=True)
_FILTERS: dict[str, Filter] = {
    # As cuda-convnet2: INTER_AREA shrinks, INTER_CUBIC enlarges.
    "area": Filter(shrink=area_shrink, enlarge=BICUBIC, shrinks_region=True),
    "box": _both(PillowFilter(Image.Resampling.BOX, 0.5, box_sensitive=True)),
    "bilinear": _both(PillowFilter(Image.Resampling.BILINEAR, 1.0, box_sensitive=False)),
    "hamming": _both(PillowFilter(Image.Resampling.HAMMING, 1.0, box_sensitive=False)),
    "bicubic": _both(BICUBIC),
    "lanczos": _both(PillowFilter(Image.Resampling.LANCZOS, 3.0, box_sensitive=True)),
}


def record_crop(scaled_hw: tuple[int, int], size_px: int, shape: Shape) -> Crop:
    """What a record of this shape shows of the scaled image."""
    return (rectangle_crop if shape == "rectangle" else centre_crop)(scaled_hw, size_px)


def central_square(image_hwc: NDArray[np.uint8], size_px: int) -> NDArray[np.uint8]:
    """The central square of a record, C-contiguous; a square record itself."""
    height, width = image_hwc.shape[:2]
    if height == width:
        return image_hwc
    return np.ascontiguousarray(_cut(image_hwc, centre_crop((height, width), size_px)))


def needed_region(
    height: int, width: int, *, size_px: int, filter_name: str, shape: Shape = "square"
) -> Region:
    """The region of an image of this size that ``resize_crop`` reads."""
    short = min(height, width)
    if short < size_px or (short > size_px and not _FILTERS[filter_name].shrinks_region):
        return Region(0, height, 0, width)
    scaled_hw = scaled_size(height, width, size_px)
    return covered_region((height, width), scaled_hw, record_crop(scaled_hw, size_px, shape))


def resize_crop(
    image_hwc: NDArray[np.uint8],
    *,
    size_px: int,
    filter_name: str,
    placement: Placement | None = None,
    shape: Shape = "square",
) -> NDArray[np.uint8]:
    """The record after the short side is resized to ``size_px``.

    ``square`` is the central square, ``rectangle`` all of the image (see ``rectangle_crop``).

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
    crop = record_crop(scaled_hw, size_px, shape)
    if short == size_px:
        here = replace(crop, top=crop.top - placement.top, left=crop.left - placement.left)
        return _cut(image_hwc, here).copy()
    chosen = _FILTERS[filter_name]
    resample = chosen.shrink if short > size_px else chosen.enlarge
    return resample(image_hwc, scaled_hw, crop, placement=placement)


def _cut(image_hwc: NDArray[np.uint8], crop: Crop) -> NDArray[np.uint8]:
    rows = slice(crop.top, crop.top + crop.height_px)
    return image_hwc[rows, crop.left : crop.left + crop.width_px]


def _nearest(
    image_hwc: NDArray[np.uint8], scaled_hw: tuple[int, int], crop: Crop
) -> NDArray[np.uint8]:
    """Enlarge as Pillow's BOX does: each pixel copies the source pixel that Pillow would choose."""
    height, width, _ = image_hwc.shape
    axes = (
        (crop.top, crop.height_px, height / scaled_hw[0]),
        (crop.left, crop.width_px, width / scaled_hw[1]),
    )
    rows, columns = (
        ((np.arange(first, first + count) + 0.5) * scale).astype(np.intp)
        for first, count, scale in axes
    )
    return image_hwc[np.ix_(rows, columns)]
