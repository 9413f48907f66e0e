"""Decode only the needed region of a JPEG file, fast; undamaged baseline files only.

The environment variable ``IMGPREP_JPEG`` is read when this module is imported:

======== ===========================================================================
``auto`` the C extension if it was built (the default)
``full`` always the whole image by ``simplejpeg``; slower, the same pixels
======== ===========================================================================
"""

from __future__ import annotations

import importlib
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgprep.errors import UsageError
from imgprep.image.geometry import Placement, Region
from imgprep.image.jpegfile import JpegHeader

_jpeg: Any
try:
    _jpeg = importlib.import_module("imgprep.image._jpeg")
except ImportError:  # not built: the package was installed without a compiler or libjpeg-turbo
    _jpeg = None

JPEG_VARIABLE = "IMGPREP_JPEG"

_HUFFMAN_SEQUENTIAL = frozenset({0xC0, 0xC1})
# The tests compare these with a whole decode: grey, and 4:4:4, 4:2:2, 4:4:0, 4:2:0.
_SAMPLINGS = frozenset(
    {b"\x11", b"\x11\x11\x11", b"\x21\x11\x11", b"\x12\x11\x11", b"\x22\x11\x11"}
)


def choose(wanted: str | None) -> bool:
    """Whether a value of ``IMGPREP_JPEG`` selects the C extension; UsageError if it is unknown."""
    if wanted not in (None, "", "auto", "full"):
        raise UsageError(f"{JPEG_VARIABLE} must be auto or full; got {wanted!r}")
    return wanted != "full" and _jpeg is not None


ENABLED: bool = choose(os.environ.get(JPEG_VARIABLE))
"""Whether this process uses the C extension."""


def is_plain(header: JpegHeader) -> bool:
    """Whether the header allows ``decode_region``, which may still decline the file."""
    return ENABLED and header.frame_marker in _HUFFMAN_SEQUENTIAL and header.sampling in _SAMPLINGS


def decode_region(
    data: bytes, header: JpegHeader, region: Region, buffer: NDArray[np.uint8] | None
) -> tuple[NDArray[np.uint8], Placement] | None:
    """At least the region of the image, as (height, width, 3) uint8 RGB, and its placement.

    The pixels are written to ``buffer``, which is one-dimensional and large enough for the whole
    image, or to a new array. None if the file is damaged or of a kind that this decoder does not
    support. All of the file is read, so damage outside the region is noticed too.
    """
    rows = region.bottom - region.top
    if buffer is None:
        buffer = np.empty(rows * header.width_px * 3, np.uint8)
    columns = _jpeg.decode_region(
        data,
        buffer,
        header.height_px,
        header.width_px,
        region.top,
        region.bottom,
        region.left,
        region.right,
    )
    if not isinstance(columns, tuple):
        return None
    left, right = columns
    image_hwc = buffer[: rows * (right - left) * 3].reshape(rows, right - left, 3)
    return image_hwc, Placement(header.height_px, header.width_px, region.top, left)


def fault_in(data: bytes, header: JpegHeader) -> str:
    """What is wrong with the image data of a baseline file, also where libjpeg says nothing.

    libjpeg accepts some invalid codes, and runs of zeros past the end of a block. Empty if nothing
    is wrong, if the file is of another kind, or if the C extension was not built.
    """
    if _jpeg is None or header.frame_marker not in _HUFFMAN_SEQUENTIAL:
        return ""
    height, width = header.height_px, header.width_px
    row = np.empty(3 * width, np.uint8)
    fault = _jpeg.decode_region(data, row, height, width, 0, 1, 0, width)
    return fault if isinstance(fault, str) else ""
