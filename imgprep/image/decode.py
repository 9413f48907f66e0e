"""Decode the bytes of an image file to RGB: JPEG by libjpeg-turbo, other formats by Pillow.

A JPEG is first given to ``jpegregion``, which is fast but supports undamaged baseline files only.
The scans of a file that it declines are checked (``jpegscans``); then ``jpegwhole`` decodes it to
the same pixels, or reports what is wrong.

The format is recognised by the bytes. Hostile bytes raise ImageError and nothing else, and nothing
is printed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from imgprep.image.decoded import Decoded, Notes, check_megapixels, turn_upright
from imgprep.image.geometry import Region
from imgprep.image.jpegfile import JpegHeader, read_header
from imgprep.image.jpegregion import decode_region, is_plain
from imgprep.image.jpegscans import JpegScans, check_scans, read_scans, with_height
from imgprep.image.jpegwhole import decode_whole
from imgprep.spec import ExifPolicy

__all__ = ["Decoded", "Notes", "decode_image"]

RegionOf = Callable[[int, int], Region]
"""Returns the needed region for a height and width."""

# Larger images are decoded into a new array, so that the buffer kept by a process stays small.
_KEPT_BUFFER_BYTES = 16 << 20

_local = threading.local()


def decode_image(
    data: bytes,
    *,
    max_megapixels: int,
    exif: ExifPolicy,
    region_of: RegionOf | None = None,
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
    return _decode_jpeg(data, max_megapixels=max_megapixels, exif=exif, region_of=region_of)


def _decode_jpeg(
    data: bytes, *, max_megapixels: int, exif: ExifPolicy, region_of: RegionOf | None
) -> Decoded:
    header = read_header(data)
    if header.height_px == 0:
        data, header = _with_height(data, header, read_scans(data, header))
    check_megapixels(header.height_px, header.width_px, max_megapixels)
    turn = header.exif_orientation if exif == "apply" else 1
    buffer = _buffer(header.height_px * header.width_px * 3)
    notes = Notes("JPEG", header.mode, header.exif_orientation, ())
    if is_plain(header):
        region = Region(0, header.height_px, 0, header.width_px)
        if region_of is not None and turn == 1:
            region = region_of(header.height_px, header.width_px)
        decoded = decode_region(data, header, region, buffer)
        if decoded is not None:
            image_hwc, placement = decoded
            if turn == 1:
                return Decoded(image_hwc, notes, placement)
            return Decoded(turn_upright(image_hwc, turn), notes)
    scans = read_scans(data, header)
    check_scans(scans, header, max_megapixels)
    image_hwc, warnings = decode_whole(data, header, scans, buffer)
    return Decoded(turn_upright(image_hwc, turn), replace(notes, warnings=warnings))


def _with_height(data: bytes, header: JpegHeader, scans: JpegScans) -> tuple[bytes, JpegHeader]:
    """The file and header with the height that its DNL segment defines, if it has one."""
    height = scans.defined_height_px or header.height_px
    return with_height(data, header, height), replace(header, height_px=height)


def _buffer(n_bytes: int) -> NDArray[np.uint8] | None:
    """This thread's decode buffer: reusing it avoids the page faults of a new array."""
    if n_bytes > _KEPT_BUFFER_BYTES:
        return None
    buffer: NDArray[np.uint8] | None = getattr(_local, "buffer", None)
    if buffer is None or buffer.size < n_bytes:
        buffer = _local.buffer = np.empty(n_bytes, np.uint8)
    return buffer
