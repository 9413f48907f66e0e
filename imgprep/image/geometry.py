"""Sizes, crops and regions in whole pixels: pure integer geometry, no files and no arrays."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Crop:
    """A square of ``size_px`` pixels at (``top``, ``left``) of the scaled image."""

    top: int
    left: int
    size_px: int


@dataclass(frozen=True, slots=True)
class Region:
    """Rows ``top`` to ``bottom`` and columns ``left`` to ``right`` of an image, ends excluded."""

    top: int
    bottom: int
    left: int
    right: int


@dataclass(frozen=True, slots=True)
class Placement:
    """Where an array of pixels is in the full image: the position of its first pixel."""

    full_height: int
    full_width: int
    top: int = 0
    left: int = 0

    def contains(self, region: Region, shape: tuple[int, ...]) -> bool:
        """Whether an array of this shape (height, width, ...), placed here, has the region."""
        bottom, right = self.top + shape[0], self.left + shape[1]
        rows = 0 <= self.top <= region.top and region.bottom <= bottom <= self.full_height
        return rows and 0 <= self.left <= region.left and region.right <= right <= self.full_width


def scaled_size(height_px: int, width_px: int, short_px: int) -> tuple[int, int]:
    """Height and width after the short side is resized to ``short_px``.

    The other side is ``floor(x + 0.5)`` of the exact quotient, computed in integers; cuda-convnet2
    rounds it in the same way (C ``round``).
    """
    short = min(height_px, width_px)
    if height_px <= width_px:
        return short_px, (2 * width_px * short_px + short) // (2 * short)
    return (2 * height_px * short_px + short) // (2 * short), short_px


def centre_crop(scaled_hw: tuple[int, int], size_px: int) -> Crop:
    """The central square; if the surplus is odd, one pixel more is cut at the right or bottom."""
    height, width = scaled_hw
    return Crop((height - size_px) // 2, (width - size_px) // 2, size_px)


def covered_region(source_hw: tuple[int, int], scaled_hw: tuple[int, int], crop: Crop) -> Region:
    """The source pixels that the crop of the scaled image covers, wholly or partly."""
    height, width = source_hw
    tall, wide = scaled_hw
    return Region(
        crop.top * height // tall,
        -(-(crop.top + crop.size_px) * height // tall),
        crop.left * width // wide,
        -(-(crop.left + crop.size_px) * width // wide),
    )


def source_box(
    source_hw: tuple[int, int], scaled_hw: tuple[int, int], crop: Crop
) -> tuple[float, float, float, float]:
    """The crop as (left, top, right, bottom) in source pixels, for ``PIL.Image.resize(box=)``.

    Each axis has its own scale factor, because the long side is rounded.
    """
    height, width = source_hw
    scaled_height, scaled_width = scaled_hw
    return (
        crop.left * width / scaled_width,
        crop.top * height / scaled_height,
        (crop.left + crop.size_px) * width / scaled_width,
        (crop.top + crop.size_px) * height / scaled_height,
    )
