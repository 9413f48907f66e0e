"""Bytes of an image file to RGB pixels: JPEG by libjpeg-turbo, all else by Pillow.

JPEG goes to ``imgprep.image.jpegwindow`` first, which is fast but decodes sound baseline images
only. What it declines goes to libjpeg-turbo 3 (``simplejpeg``), which gives the same pixels and
says what is wrong with a file.

The format is told from the bytes. Hostile bytes raise ImageError and nothing else, and nothing is
printed. Pillow gives the same pixels as the others within 1 level.
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
from imgprep.image.geometry import Window
from imgprep.image.jpegfile import JpegHeader, mended, read_header
from imgprep.image.jpegwindow import decode_window, is_plain
from imgprep.spec import ExifPolicy

__all__ = ["Decoded", "Notes", "decode_image"]

# Images above this are decoded into memory of their own, so that a process stays small.
_KEPT_BUFFER_BYTES = 16 << 20

# Warnings of libjpeg (jerror.h) that say nothing against the pixels.
_HARMLESS = (
    "extraneous bytes before marker",
    "unknown JFIF revision",
    "Unknown Adobe color transform",
    "Invalid SOS parameters for sequential JPEG",
    "bad ICC marker",
)
# Found after the last scan: whatever else was wrong would have been reported first.
_AFTER_LAST_SCAN = "extraneous bytes before marker 0xd9"
# Warnings that mean lost pixels. Any other complaint is about what the decoder supports.
_HARMFUL = ("Corrupt JPEG data", "Premature end", "Inconsistent progression")

_local = threading.local()


def decode_image(
    data: bytes,
    *,
    max_megapixels: int,
    exif: ExifPolicy,
    window_of: Callable[[int, int], Window] | None = None,
) -> Decoded:
    """The whole image as RGB uint8, and notes on what it was.

    Grey becomes three equal channels; CMYK and YCCK go through Pillow, alpha is dropped as
    Pillow's ``convert("RGB")`` drops it, 16-bit samples keep their high byte, of several frames the
    first counts. ``exif="apply"`` turns the image upright. Where only some of the pixels are
    needed, ``window_of`` tells which from the height and width; at least those are given back.
    ImageError, with the cause alone: not an image, truncated, damaged (also outside the window),
    above ``max_megapixels``, or of a kind without a defined RGB value.
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
        if window_of is None or turn != 1:
            window = Window(0, height, 0, width)
        else:
            window = window_of(height, width)
        found = decode_window(data, header, window, _buffer(height * width * 3))
        if found is not None:
            image_hwc, part = found
            if turn == 1:
                return Decoded(image_hwc, notes, part)
            return Decoded(turn_upright(image_hwc, turn), notes)
    image_hwc, warnings = _decode_jpeg(data, header)
    return Decoded(turn_upright(image_hwc, turn), replace(notes, warnings=warnings))


def _decode_jpeg(data: bytes, header: JpegHeader) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """The whole image by libjpeg-turbo 3 or Pillow, and the warnings."""
    if header.components not in (1, 3):
        return _decode_four(data, header)
    buffer = _buffer(header.height_px * header.width_px * 3)
    try:
        return _turbo(data, buffer=buffer), ()
    except ValueError as exc:
        complaint = _message(exc)
    if any(text in complaint for text in _HARMLESS):
        return _decode_harmless(data, header, complaint)
    if any(text in complaint for text in _HARMFUL):
        raise ImageError(f"damaged JPEG: {complaint}")
    return _by_pillow(data, complaint)


def _turbo(
    data: bytes,
    colours: str = "RGB",
    *,
    strict: bool = True,
    buffer: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """libjpeg-turbo 3; ValueError carries its first complaint, a warning too when ``strict``."""
    try:
        image: NDArray[np.uint8] = simplejpeg.decode_jpeg(
            data, colours, buffer=buffer, strict=strict
        )
    except MemoryError as exc:
        raise ImageError("not enough memory to decode this JPEG") from exc
    return image


def _decode_harmless(
    data: bytes, header: JpegHeader, complaint: str
) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Decode in spite of a harmless warning, but only if no harmful one hides behind it."""
    data = mended(data, header)
    try:
        return _turbo(data), (complaint,)
    except ValueError as exc:
        second = _message(exc)
        if _AFTER_LAST_SCAN not in second:
            raise ImageError(f"damaged JPEG: {second}") from exc
    return _turbo(data, strict=False), tuple(dict.fromkeys((complaint, second)))


def _decode_four(data: bytes, header: JpegHeader) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """CMYK and YCCK by Pillow, which knows Adobe's inversion; libjpeg-turbo proves them whole."""
    warnings: tuple[str, ...] = ()
    try:
        _turbo(mended(data, header), "CMYK")
    except ValueError as exc:
        complaint = _message(exc)
        if _AFTER_LAST_SCAN in complaint:
            warnings = (complaint,)
        elif any(text in complaint for text in _HARMFUL):
            raise ImageError(f"damaged JPEG: {complaint}") from exc
    image_hwc, more = _by_pillow(data, "")
    return image_hwc, warnings + more


def _by_pillow(data: bytes, complaint: str) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    # Pillow names truncation, but not every fault inside the image data.
    from imgprep.image.pillowfile import open_pixels

    try:
        opened = open_pixels(data, "JPEG", max_megapixels=None)
    except ImageError as exc:
        raise ImageError(f"damaged JPEG: {complaint}" if complaint else str(exc)) from exc
    return opened.image_hwc, opened.warnings


def _buffer(n_bytes: int) -> NDArray[np.uint8] | None:
    """This thread's decode buffer: a new array for each image would page-fault its pages anew."""
    if n_bytes > _KEPT_BUFFER_BYTES:
        return None
    buffer: NDArray[np.uint8] | None = getattr(_local, "buffer", None)
    if buffer is None or buffer.size < n_bytes:
        buffer = _local.buffer = np.empty(n_bytes, np.uint8)
    return buffer


def _message(exc: Exception) -> str:
    """The complaint without the name of the C function that made it."""
    return str(exc).split("(): ", 1)[-1]
