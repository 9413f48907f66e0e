"""Where the pixels of a record come from: pure integer geometry, no files, no arrays."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Crop:
    """A square of ``size_px`` pixels at (``top``, ``left``) of the scaled image."""

    top: int
    left: int
    size_px: int


@dataclass(frozen=True, slots=True)
class Window:
    """Rows ``top`` to ``bottom`` and columns ``left`` to ``right`` of an image, ends excluded."""

    top: int
    bottom: int
    left: int
    right: int


@dataclass(frozen=True, slots=True)
class Part:
    """Where pixels lie in the image that they are a part of: their first row and column."""

    full_height: int
    full_width: int
    top: int = 0
    left: int = 0

    def holds(self, window: Window, shape: tuple[int, ...]) -> bool:
        """Whether a part of this shape (height, width, ...) holds all of the window."""
        bottom, right = self.top + shape[0], self.left + shape[1]
        rows = 0 <= self.top <= window.top and window.bottom <= bottom <= self.full_height
        return rows and 0 <= self.left <= window.left and window.right <= right <= self.full_width


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


def covered(source_hw: tuple[int, int], scaled_hw: tuple[int, int], crop: Crop) -> Window:
    """The source pixels that the crop of the scaled image covers, in part or whole."""
    height, width = source_hw
    tall, wide = scaled_hw
    return Window(
        crop.top * height // tall,
        -(-(crop.top + crop.size_px) * height // tall),
        crop.left * width // wide,
        -(-(crop.left + crop.size_px) * width // wide),
    )


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
