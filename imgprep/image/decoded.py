"""The result of decoding, and the two rules that apply to every format."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imgprep.errors import ImageError
from imgprep.image.geometry import Placement


@dataclass(frozen=True, slots=True)
class Notes:
    """Facts about an image file other than its pixels."""

    format: str
    """``JPEG``, ``PNG``, ... as told by the bytes, not by the file name."""
    mode: str
    """As stored: ``RGB``, ``L``, ``CMYK``, ``YCCK``, or Pillow's name (``P``, ``I;16``, ...)."""
    exif_orientation: int
    """1 to 8 as in EXIF; 1 means upright or no tag. Also set if the orientation is not applied."""
    warnings: tuple[str, ...]
    """What the decoder warned of, although every pixel could be read."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """An image as C-contiguous (height, width, 3) uint8 RGB.

    ``image_hwc`` may be in a buffer that the decoding thread reuses: it is valid until the next
    decode in that thread, so copy it to keep it longer.
    """

    image_hwc: NDArray[np.uint8]
    notes: Notes
    placement: Placement | None = None
    """Where ``image_hwc`` is in the full image; None if it is the full image."""


def check_megapixels(height_px: int, width_px: int, max_megapixels: int) -> None:
    """ImageError if the declared size is zero or above the limit. Call it before decoding."""
    if height_px < 1 or width_px < 1:
        raise ImageError(f"declares an empty image of {width_px}x{height_px} pixels")
    if height_px * width_px > max_megapixels * 1_000_000:
        raise ImageError(
            f"declares {width_px}x{height_px} pixels, above the limit of "
            f"{megapixels(max_megapixels)} (--max-megapixels raises it)"
        )


def megapixels(count: int) -> str:
    """The count with its unit, in the singular or plural."""
    return f"{count} megapixel{'s' * (count != 1)}"


def turn_upright(image_hwc: NDArray[np.uint8], exif_orientation: int) -> NDArray[np.uint8]:
    """The image turned and mirrored as EXIF orientation 1 to 8 says, C-contiguous."""
    if exif_orientation == 1:
        return image_hwc
    turned = image_hwc.swapaxes(0, 1) if exif_orientation >= 5 else image_hwc
    if exif_orientation in (3, 4, 7, 8):
        turned = turned[::-1]
    if exif_orientation in (2, 3, 6, 7):
        turned = turned[:, ::-1]
    return np.ascontiguousarray(turned)


def turn_back(image_hwc: NDArray[np.uint8], exif_orientation: int) -> NDArray[np.uint8]:
    """Undo ``turn_upright``. All but the two quarter turns are their own inverse."""
    return turn_upright(image_hwc, {6: 8, 8: 6}.get(exif_orientation, exif_orientation))
