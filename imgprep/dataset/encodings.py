"""The pixels of a stored record, whichever way it is encoded."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from imgprep.dataset.format import NPY_HEADER_BYTES
from imgprep.errors import FormatError, ImageError
from imgprep.image.decode import decode_image


def record_view(content: bytes, encoding: str, size_px: int) -> NDArray[np.uint8]:
    """Pixels (size, size, 3) of the image file of a record, good until the next one is decoded.

    Raises:
        FormatError: it does not decode, or to another size; names only the cause.
    """
    shape = (size_px, size_px, 3)
    try:
        if encoding == "raw":
            return np.frombuffer(content, np.uint8, offset=NPY_HEADER_BYTES).reshape(shape)
        limit = 1 + size_px**2 // 1_000_000  # whatever is larger is no record
        image_hwc = decode_image(content, max_megapixels=limit, exif="ignore").image_hwc
    except (ImageError, ValueError) as exc:
        raise FormatError(f"does not decode: {exc}") from exc
    if image_hwc.shape != shape:
        raise FormatError(f"decodes to {image_hwc.shape}, not {shape}")
    return image_hwc


def record_pixels(content: bytes, encoding: str, size_px: int) -> NDArray[np.uint8]:
    """The same as a new array.

    Raises:
        FormatError: as ``record_view``.
    """
    try:
        return record_view(content, encoding, size_px).copy()
    except FormatError as exc:
        raise FormatError(f"the record {exc}") from exc
