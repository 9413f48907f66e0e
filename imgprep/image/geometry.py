"""Sizes, crops and regions in whole pixels: pure integer geometry, no files and no arrays."""

from __future__ import annotations

from dataclasses import dataclass

from imgprep.spec import LONG_SIDE_MAX


@dataclass(frozen=True, slots=True)
class Crop:
    """A rectangle at (``top``, ``left``) of the scaled image."""

    top: int
    left: int
    height_px: int
    width_px: int


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
    return Crop((height - size_px) // 2, (width - size_px) // 2, size_px, size_px)


def rectangle_crop(scaled_hw: tuple[int, int], size_px: int) -> Crop:
    """All of the scaled image; the middle of a long side above ``LONG_SIDE_MAX * size_px``.

    The central square of the crop is the central square of the scaled image.
    """
    square = centre_crop(scaled_hw, size_px)
    longest = LONG_SIDE_MAX * size_px
    top, left = (
        0 if side <= longest else start - (longest - size_px) // 2
        for side, start in zip(scaled_hw, (square.top, square.left), strict=True)
    )
    height, width = (min(side, longest) for side in scaled_hw)
    return Crop(top, left, height, width)


def covered_region(source_hw: tuple[int, int], scaled_hw: tuple[int, int], crop: Crop) -> Region:
    """The source pixels that the crop of the scaled image covers, wholly or partly."""
    height, width = source_hw
    tall, wide = scaled_hw
    return Region(
        crop.top * height // tall,
        -(-(crop.top + crop.height_px) * height // tall),
        crop.left * width // wide,
        -(-(crop.left + crop.width_px) * width // wide),
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
        (crop.left + crop.width_px) * width / scaled_width,
        (crop.top + crop.height_px) * height / scaled_height,
    )
