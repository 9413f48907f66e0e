"""What decoding gives back, and the two rules that every format shares."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imgprep.errors import ImageError
from imgprep.image.geometry import Part


@dataclass(frozen=True, slots=True)
class Notes:
    """What was found in a file besides its pixels."""

    format: str
    """``JPEG``, ``PNG``, ... by the bytes, whatever the name says."""
    mode: str
    """As stored: ``RGB``, ``L``, ``CMYK``, ``YCCK``, or Pillow's name (``P``, ``I;16``, ...)."""
    exif_orientation: int
    """1 to 8 as in EXIF; 1 is upright or none. Noted also where it is ignored."""
    warnings: tuple[str, ...]
    """Oddities that did not keep the image from being read whole."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """An image as C-contiguous (height, width, 3) uint8 RGB.

    ``image_hwc`` may lie in a buffer of the thread that decoded it, and is valid until the next
    decode in that thread: copy what has to live longer.
    """

    image_hwc: NDArray[np.uint8]
    notes: Notes
    part: Part | None = None
    """Where ``image_hwc`` lies in the image, if it is not all of it."""


def check_megapixels(height_px: int, width_px: int, max_megapixels: int) -> None:
    """ImageError if the declared size is zero or above the limit; called before decoding."""
    if height_px < 1 or width_px < 1:
        raise ImageError(f"declares an empty image of {width_px}x{height_px} pixels")
    if height_px * width_px > max_megapixels * 1_000_000:
        raise ImageError(
            f"declares {width_px}x{height_px} pixels, above the limit of {max_megapixels} "
            "megapixels (--max-megapixels raises it)"
        )


def turn_upright(image_hwc: NDArray[np.uint8], exif_orientation: int) -> NDArray[np.uint8]:
    """The image as EXIF orientation 1 to 8 wants it shown, C-contiguous."""
    if exif_orientation == 1:
        return image_hwc
    turned = image_hwc.swapaxes(0, 1) if exif_orientation >= 5 else image_hwc
    if exif_orientation in (3, 4, 7, 8):
        turned = turned[::-1]
    if exif_orientation in (2, 3, 6, 7):
        turned = turned[:, ::-1]
    return np.ascontiguousarray(turned)


def turn_back(image_hwc: NDArray[np.uint8], exif_orientation: int) -> NDArray[np.uint8]:
    """Undo ``turn_upright``. Only the two quarter turns are not their own inverse."""
    return turn_upright(image_hwc, {6: 8, 8: 6}.get(exif_orientation, exif_orientation))
