"""The pixels of a stored record, whichever way it is encoded."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from imgprep.errors import FormatError, ImageError
from imgprep.format import NPY_HEADER_BYTES


def record_pixels(content: bytes, encoding: str, size_px: int) -> NDArray[np.uint8]:
    """Pixels (size, size, 3) of the image file of a record: a new array.

    Raises:
        FormatError: it does not decode, or to another size; names only the cause.
    """
    from imgprep.decode import decode_image

    shape = (size_px, size_px, 3)
    try:
        if encoding == "raw":
            return np.frombuffer(content, np.uint8, offset=NPY_HEADER_BYTES).reshape(shape).copy()
        image_hwc = decode_image(content, max_megapixels=4000, exif="ignore").image_hwc.copy()
    except (ImageError, ValueError) as exc:
        raise FormatError(f"the record does not decode: {exc}") from exc
    if image_hwc.shape != shape:
        raise FormatError(f"the record decodes to {image_hwc.shape}, not {shape}")
    return image_hwc
