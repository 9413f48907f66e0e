"""Where the pixels of a record come from: pure integer geometry, no files, no arrays."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Crop:
    """A square of ``size_px`` pixels at (``top``, ``left``) of the scaled image."""

    top: int
    left: int
    size_px: int


def scaled_size(height_px: int, width_px: int, short_px: int) -> tuple[int, int]:
    """Height and width after the short side became ``short_px``.

    The other side is ``floor(x + 0.5)`` of the exact quotient, as cuda-convnet2 rounds it (C
    ``round``), computed in integers.
    """
    short = min(height_px, width_px)
    if height_px <= width_px:
        return short_px, (2 * width_px * short_px + short) // (2 * short)
    return (2 * height_px * short_px + short) // (2 * short), short_px


def centre_crop(scaled_hw: tuple[int, int], size_px: int) -> Crop:
    """The central square; an odd surplus pixel goes to the right and to the bottom."""
    height, width = scaled_hw
    return Crop((height - size_px) // 2, (width - size_px) // 2, size_px)


def source_box(
    source_hw: tuple[int, int], scaled_hw: tuple[int, int], crop: Crop
) -> tuple[float, float, float, float]:
    """The crop as (left, top, right, bottom) in source pixels, for ``PIL.Image.resize(box=)``.

    Each axis has its own factor, since the long side was rounded.
    """
    height, width = source_hw
    scaled_height, scaled_width = scaled_hw
    return (
        crop.left * width / scaled_width,
        crop.top * height / scaled_height,
        (crop.left + crop.size_px) * width / scaled_width,
        (crop.top + crop.size_px) * height / scaled_height,
    )
