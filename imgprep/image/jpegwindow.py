"""The part of a JPEG image that is needed, decoded fast: sound baseline images only.

The environment variable ``IMGPREP_JPEG`` is read when this module is imported:

======== ===========================================================================
``auto`` the C extension where it was built (the default)
``full`` always the whole image by ``simplejpeg``; the same pixels, only slower
======== ===========================================================================
"""

from __future__ import annotations

import importlib
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgprep.errors import UsageError
from imgprep.image.geometry import Part, Window
from imgprep.image.jpegfile import JpegHeader

_jpeg: Any
try:
    _jpeg = importlib.import_module("imgprep.image._jpeg")
except ImportError:  # not built: no compiler or no libjpeg-turbo when the package was installed
    _jpeg = None

JPEG_VARIABLE = "IMGPREP_JPEG"

_HUFFMAN_SEQUENTIAL = frozenset({0xC0, 0xC1})
# Those that the tests prove equal to a whole decode: grey, and 4:4:4, 4:2:2, 4:4:0, 4:2:0.
_SAMPLINGS = frozenset(
    {b"\x11", b"\x11\x11\x11", b"\x21\x11\x11", b"\x12\x11\x11", b"\x22\x11\x11"}
)


def choose(wanted: str | None) -> bool:
    """Whether the C extension is used, for a value of ``IMGPREP_JPEG``; UsageError for others."""
    if wanted not in (None, "", "auto", "full"):
        raise UsageError(f"{JPEG_VARIABLE} is {wanted!r}, but only auto and full are known")
    return wanted != "full" and _jpeg is not None


ENABLED: bool = choose(os.environ.get(JPEG_VARIABLE))
"""Whether this process uses the C extension."""


def is_plain(header: JpegHeader) -> bool:
    """Whether ``decode_window`` is worth a try."""
    return ENABLED and header.frame_marker in _HUFFMAN_SEQUENTIAL and header.sampling in _SAMPLINGS


def decode_window(
    data: bytes, header: JpegHeader, window: Window, buffer: NDArray[np.uint8] | None
) -> tuple[NDArray[np.uint8], Part] | None:
    """At least the window of the image, as (height, width, 3) uint8 RGB, and where it lies.

    The pixels lie in ``buffer``, one-dimensional and large enough for the whole image, or in
    memory of their own. None if the image is not sound, or not of the kind that this does: all
    the data are looked at, so that damage outside the window is noticed too.
    """
    rows = window.bottom - window.top
    if buffer is None:
        buffer = np.empty(rows * header.width_px * 3, np.uint8)
    columns = _jpeg.decode_window(
        data,
        buffer,
        header.height_px,
        header.width_px,
        window.top,
        window.bottom,
        window.left,
        window.right,
    )
    if columns is None:
        return None
    left, right = columns
    image_hwc = buffer[: rows * (right - left) * 3].reshape(rows, right - left, 3)
    return image_hwc, Part(header.height_px, header.width_px, window.top, left)
