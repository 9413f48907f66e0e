"""Decode the bytes of an image file to RGB: JPEG by libjpeg-turbo, other formats by Pillow.

A JPEG is first given to ``imgprep.image.jpegregion``, which is fast but supports undamaged
baseline files only. A file that it declines is given to libjpeg-turbo 3 (``simplejpeg``), which
gives the same pixels and reports what is wrong. JPEGs that libjpeg-turbo 3 does not support go to
Pillow, whose pixels are the same within 1 level.

The format is recognised by the bytes. Hostile bytes raise ImageError and nothing else, and nothing
is printed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from imgprep.errors import ImageError
from imgprep.image.decoded import Decoded, Notes, check_megapixels, turn_upright
from imgprep.image.geometry import Region
from imgprep.image.jpegfile import JpegHeader, read_header, repaired
from imgprep.image.jpegregion import decode_region, is_plain
from imgprep.spec import ExifPolicy

__all__ = ["Decoded", "Notes", "decode_image"]

# Larger images are decoded into a new array, so that the buffer kept by a process stays small.
_KEPT_BUFFER_BYTES = 16 << 20

# Warnings of libjpeg (jerror.h) that do not affect the pixels.
_HARMLESS = (
    "extraneous bytes before marker",
    "unknown JFIF revision",
    "Unknown Adobe color transform",
    "Invalid SOS parameters for sequential JPEG",
    "bad ICC marker",
)
# This one comes after the last scan: any other fault would have been reported before it.
_AFTER_LAST_SCAN = "extraneous bytes before marker 0xd9"
# Warnings that mean lost pixels. Any other message says what the decoder does not support.
_HARMFUL = ("Corrupt JPEG data", "Premature end", "Inconsistent progression")

_local = threading.local()


def decode_image(
    data: bytes,
    *,
    max_megapixels: int,
    exif: ExifPolicy,
    region_of: Callable[[int, int], Region] | None = None,
) -> Decoded:
    """The image as RGB uint8, and notes on its file.

    Grey becomes three equal channels; CMYK and YCCK are converted by Pillow; alpha is dropped as
    Pillow's ``convert("RGB")`` drops it; 16-bit samples keep their high byte; of several frames,
    the first is used. ``exif="apply"`` turns the image upright. If only a region is needed,
    ``region_of`` returns it for the height and width; the result has at least that region.
    ImageError, whose message is the cause alone: not an image, truncated, damaged (also outside
    the region), above ``max_megapixels``, or of a kind without a defined RGB value.
    """
    if data[:2] != b"\xff\xd8":
        from imgprep.image.pillowfile import decode_other

        return decode_other(data, max_megapixels=max_megapixels, exif=exif)
    header = read_header(data)
    check_megapixels(header.height_px, header.width_px, max_megapixels)
    notes = Notes("JPEG", header.mode, header.exif_orientation, ())
    turn = header.exif_orientation if exif == "apply" else 1
    if is_plain(header):
        height, width = header.height_px, header.width_px
        if region_of is None or turn != 1:
            region = Region(0, height, 0, width)
        else:
            region = region_of(height, width)
        decoded = decode_region(data, header, region, _buffer(height * width * 3))
        if decoded is not None:
            image_hwc, placement = decoded
            if turn == 1:
                return Decoded(image_hwc, notes, placement)
            return Decoded(turn_upright(image_hwc, turn), notes)
    image_hwc, warnings = _decode_jpeg(data, header)
    return Decoded(turn_upright(image_hwc, turn), replace(notes, warnings=warnings))


def _decode_jpeg(data: bytes, header: JpegHeader) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """The whole image, decoded by libjpeg-turbo 3 or Pillow, and the warnings."""
    if header.components not in (1, 3):
        return _decode_four(data, header)
    buffer = _buffer(header.height_px * header.width_px * 3)
    try:
        return _turbo(data, buffer=buffer), ()
    except ValueError as exc:
        message = _message(exc)
    if any(text in message for text in _HARMLESS):
        return _decode_harmless(data, header, message)
    if any(text in message for text in _HARMFUL):
        raise ImageError(f"damaged JPEG: {message}")
    return _by_pillow(data, message)


def _turbo(
    data: bytes,
    colours: str = "RGB",
    *,
    strict: bool = True,
    buffer: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """Decode by libjpeg-turbo 3; ValueError has its first error, or warning if ``strict``."""
    try:
        image: NDArray[np.uint8] = simplejpeg.decode_jpeg(
            data, colours, buffer=buffer, strict=strict
        )
    except MemoryError as exc:
        raise ImageError("not enough memory to decode this JPEG") from exc
    return image


def _decode_harmless(
    data: bytes, header: JpegHeader, message: str
) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Decode despite a harmless warning, but only if it does not hide a harmful one."""
    data = repaired(data, header)
    try:
        return _turbo(data), (message,)
    except ValueError as exc:
        second = _message(exc)
        if _AFTER_LAST_SCAN not in second:
            raise ImageError(f"damaged JPEG: {second}") from exc
    return _turbo(data, strict=False), tuple(dict.fromkeys((message, second)))


def _decode_four(data: bytes, header: JpegHeader) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Decode CMYK and YCCK by Pillow, which knows Adobe's inversion, after libjpeg-turbo 3 has
    checked the file for damage."""
    warnings: tuple[str, ...] = ()
    try:
        _turbo(repaired(data, header), "CMYK")
    except ValueError as exc:
        message = _message(exc)
        if _AFTER_LAST_SCAN in message:
            warnings = (message,)
        elif any(text in message for text in _HARMFUL):
            raise ImageError(f"damaged JPEG: {message}") from exc
    image_hwc, more = _by_pillow(data, "")
    return image_hwc, warnings + more


def _by_pillow(data: bytes, message: str) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    # Pillow reports truncation, but not every fault inside the image data.
    from imgprep.image.pillowfile import open_pixels

    try:
        opened = open_pixels(data, "JPEG", max_megapixels=None)
    except ImageError as exc:
        raise ImageError(f"damaged JPEG: {message}" if message else str(exc)) from exc
    return opened.image_hwc, opened.warnings


def _buffer(n_bytes: int) -> NDArray[np.uint8] | None:
    """This thread's decode buffer: reusing it avoids the page faults of a new array."""
    if n_bytes > _KEPT_BUFFER_BYTES:
        return None
    buffer: NDArray[np.uint8] | None = getattr(_local, "buffer", None)
    if buffer is None or buffer.size < n_bytes:
        buffer = _local.buffer = np.empty(n_bytes, np.uint8)
    return buffer


def _message(exc: Exception) -> str:
    """The message without the name of the C function that raised it."""
    return str(exc).split("(): ", 1)[-1]
