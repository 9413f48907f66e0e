"""Decode a whole JPEG image by libjpeg-turbo 3 (``simplejpeg``) or Pillow, and judge warnings.

A warning is harmless if no pixel is lost; then the image is used and the warning is noted. Any
other warning makes the image bad, where most programs would use it.
"""

from __future__ import annotations

import re

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from imgprep.errors import ImageError
from imgprep.image.jpegfile import JpegHeader, repaired
from imgprep.image.jpegregion import fault_in
from imgprep.image.jpegscans import JpegScans, with_end
from imgprep.image.memory import memory_errors

STRAY_BYTES_MAX = 1
"""Unused bytes after the compressed data that are harmless.

Some encoders write one byte too many. More of them mean that the data was damaged and the decoder
found the last pixel too early: one wrong bit can leave two.
"""

NO_END = "the end marker (EOI) is missing"

# Warnings of libjpeg (jerror.h) about metadata, which do not affect the pixels.
_HARMLESS = (
    "unknown JFIF revision",
    "Unknown Adobe color transform",
    "Invalid SOS parameters for sequential JPEG",
    "bad ICC marker",
)
_STRAY_BYTES = re.compile(r"(\d+) extraneous bytes before marker 0x([0-9a-f]{2})")
# Warnings that mean lost pixels. Any other message says what the decoder does not support.
_HARMFUL = ("Corrupt JPEG data", "Premature end", "Inconsistent progression")
_DATA_ENDS_EARLY = "premature end of data segment"

_LOSSLESS_FRAMES = frozenset({0xC3, 0xC7, 0xCB, 0xCF})
_HIERARCHICAL_FRAMES = frozenset({0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF})


def decode_whole(
    data: bytes, header: JpegHeader, scans: JpegScans, buffer: NDArray[np.uint8] | None
) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """The image as (height, width, 3) uint8 RGB, and its harmless warnings.

    ImageError, whose message is the cause alone, if pixels are lost or the kind is unsupported.
    """
    with memory_errors(header.height_px * header.width_px):
        return _decode(data, header, scans, buffer)


def _decode(
    data: bytes, header: JpegHeader, scans: JpegScans, buffer: NDArray[np.uint8] | None
) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    complete = data if scans.has_end else with_end(data)
    colours = "CMYK" if header.components == 4 else "RGB"
    try:
        image_hwc, warnings = _by_turbo(complete, header, colours, buffer)
    except ValueError as exc:
        message = _message(exc)
        if not scans.has_end and _DATA_ENDS_EARLY in message:
            raise ImageError("truncated JPEG: the file ends inside the image data") from exc
        if any(text in message for text in _HARMFUL):
            raise ImageError(f"damaged JPEG: {message}") from exc
        kind = _unsupported_kind(header)
        if kind:
            raise ImageError(f"unsupported JPEG: {kind}") from exc
        _check_data(complete, header)
        return _by_pillow(data, message)
    _check_data(complete, header)
    if not scans.has_end:
        warnings = (*warnings, NO_END)
    if colours == "CMYK":  # Pillow knows how Adobe inverts it
        image_hwc, more = _by_pillow(complete, "")
        warnings += more
    return image_hwc, warnings


def _by_turbo(
    data: bytes, header: JpegHeader, colours: str, buffer: NDArray[np.uint8] | None
) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Pixels and harmless warnings; ValueError, with libjpeg's message, for anything else."""
    try:
        return _turbo(data, colours, buffer=buffer), ()
    except ValueError as exc:
        first = _message(exc)
        if not any(text in first for text in _HARMLESS) and not _STRAY_BYTES.search(first):
            raise
    # libjpeg reports one warning, the first. It may hide others, and stray bytes may be in the
    # header, where they are harmless.
    data = repaired(data, header)
    try:
        return _turbo(data, colours, buffer=buffer), (first,)
    except ValueError as exc:
        second = _message(exc)
        if not _is_harmless_at_end(second):
            raise
    return _turbo(data, colours, strict=False), tuple(dict.fromkeys((first, second)))


def _is_harmless_at_end(message: str) -> bool:
    """Whether it is about a few stray bytes after the last scan, where any other fault in the
    image data would have been reported before."""
    stray = _STRAY_BYTES.search(message)
    return stray is not None and stray[2] == "d9" and int(stray[1]) <= STRAY_BYTES_MAX


def _turbo(
    data: bytes,
    colours: str,
    *,
    strict: bool = True,
    buffer: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """Decode; ValueError has libjpeg's first error, or its first warning if ``strict``."""
    image: NDArray[np.uint8] = simplejpeg.decode_jpeg(
        data, colours, buffer=buffer if colours == "RGB" else None, strict=strict
    )
    return image


def _check_data(data: bytes, header: JpegHeader) -> None:
    """ImageError for faults that libjpeg does not report, or Pillow hides."""
    fault = fault_in(repaired(data, header), header)
    if fault:
        raise ImageError(f"damaged JPEG: {fault}")


def _unsupported_kind(header: JpegHeader) -> str:
    """What neither libjpeg-turbo nor Pillow supports; empty for a kind that they do."""
    if header.frame_marker in _LOSSLESS_FRAMES:
        return "lossless compression"
    if header.frame_marker in _HIERARCHICAL_FRAMES:
        return "hierarchical compression"
    if header.precision_bits != 8 and 2 <= header.precision_bits <= 16:
        return f"{header.precision_bits} bits per sample"
    if header.components not in (1, 3, 4):
        return f"{header.components} colour components"
    return ""


def _by_pillow(data: bytes, message: str) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Decode by Pillow, which reports truncation, but not every fault inside the image data."""
    from imgprep.image.pillowfile import open_pixels

    try:
        image = open_pixels(data, "JPEG", max_megapixels=None)
    except ImageError as exc:
        raise ImageError(f"damaged JPEG: {message}" if message else str(exc)) from exc
    return image.image_hwc, image.warnings


def _message(exc: Exception) -> str:
    """The message without the name of the C function that raised it."""
    return str(exc).split("(): ", 1)[-1]
