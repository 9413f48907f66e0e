"""Read the header of a JPEG file, and repair harmless faults in it.

Markers are as in ITU-T T.81 annex B; bytes between segments are skipped, as libjpeg does.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from imgprep.errors import ImageError
from imgprep.image.exif import exif_orientation

EOI, SOS, DNL = 0xD9, 0xDA, 0xDC

_SOI, _APP0, _APP1, _APP14, _COM = 0xD8, 0xE0, 0xE1, 0xEE, 0xFE
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PLAIN_FRAMES = frozenset({0xC0, 0xC1, 0xC9})
# A marker that is not a fill byte, a stuffed byte of compressed data, a restart marker or TEM.
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")


@dataclass(frozen=True, slots=True)
class JpegHeader:
    """The declarations in the segments before the first scan."""

    height_px: int
    width_px: int
    component_ids: bytes
    frame_marker: int
    precision_bits: int
    """Bits per sample."""
    sampling: bytes
    """Horizontal and vertical sampling factor of each component, four bits each."""
    adobe_transform: int | None
    exif_orientation: int
    frame_offset: int
    frame_end: int
    """Offset and end of the frame header (SOF)."""
    scan_offset: int
    """Where the header of the first scan (SOS) begins."""

    @property
    def components(self) -> int:
        """The number of colour components."""
        return len(self.component_ids)

    @property
    def mode(self) -> str:
        """The stored colours by Pillow's names: ``L``, ``RGB``, ``CMYK`` or ``YCCK``."""
        if self.components == 4:
            return "YCCK" if self.adobe_transform == 2 else "CMYK"
        return {1: "L", 3: "RGB"}.get(self.components, f"{self.components} components")


def iter_segments(data: bytes, position: int) -> Iterator[tuple[int, int, int]]:
    """Marker, offset and end of each segment from ``position`` on, compressed data skipped.

    SOI and EOI are segments of two bytes. An end may be past the end of the data.
    """
    find, total = _MARKER.search, len(data)
    while match := find(data, position):
        position = match.end()
        marker = data[position - 1]
        end = position
        if marker != EOI and marker != _SOI:
            has_length = position + 2 <= total
            end = position + (data[position] << 8) + data[position + 1] if has_length else total + 1
        yield marker, position - 2, end
        # The decoder reports a length below 2; here it only must not cause an endless loop.
        if end > position:
            position = end


def read_header(data: bytes) -> JpegHeader:
    """Read the segments up to the first scan (a few microseconds); ImageError if there is none."""
    frame: tuple[int, int, int] | None = None
    transform: int | None = None
    orientation = 0
    for marker, offset, end in iter_segments(data, 2):
        if marker in (EOI, _SOI):
            raise ImageError(f"damaged JPEG: marker 0x{marker:02x} before any image data")
        if end > len(data):
            raise ImageError("truncated JPEG: the file ends inside its header")
        if marker == SOS:
            break
        body = offset + 4
        if marker in _FRAMES and frame is None:
            if end - body < 6:
                raise ImageError("damaged JPEG: the frame header is too short")
            frame = (marker, body, end)
        elif marker == _APP1 and not orientation and data[body : body + 6] == b"Exif\0\0":
            orientation = exif_orientation(data[body:end])
        elif marker == _APP14 and data[body : body + 5] == b"Adobe" and end - body >= 12:
            transform = data[body + 11]
    else:
        raise ImageError("truncated JPEG: the file ends before any image data")
    if frame is None:
        raise ImageError("damaged JPEG: image data without a frame header")
    marker, body, end = frame
    precision, height, width, components = struct.unpack_from(">BHHB", data, body)
    end = min(end, body + 6 + 3 * components)
    return JpegHeader(
        height_px=height,
        width_px=width,
        component_ids=data[body + 6 : end : 3],
        frame_marker=marker,
        precision_bits=precision,
        sampling=data[body + 7 : end : 3],
        adobe_transform=transform,
        exif_orientation=orientation or 1,
        frame_offset=body - 4,
        frame_end=end,
        scan_offset=offset,
    )


def repaired(data: bytes, header: JpegHeader) -> bytes:
    """The same image with a clean header, so that only faults in the image data remain.

    libjpeg reports only the first warning of a file, so a harmless one may hide a harmful one.
    Removed are bytes between segments, comments, and every APPn segment except JFIF and Adobe.
    Corrected are the JFIF revision, an unknown Adobe transform (to the one that libjpeg assumes),
    and the spectral parameters of a sequential scan.
    """
    clean = bytearray(b"\xff\xd8")
    for marker, offset, end in iter_segments(data, 2):
        if offset == header.scan_offset:
            break
        segment = bytearray(data[offset:end])
        if marker == _APP0 and segment[4:9] == b"JFIF\0" and len(segment) >= 11:
            segment[9:11] = b"\x01\x01"
        elif marker == _APP14 and segment[4:9] == b"Adobe" and len(segment) >= 16:
            if segment[15] not in (0, 1, 2):
                segment[15] = 2 if header.components == 4 else 1
        elif marker == _COM or _APP0 <= marker <= _APP0 + 15:
            continue
        clean += segment
    scan = bytearray(data[header.scan_offset :])
    if header.frame_marker in _PLAIN_FRAMES:
        end = 2 + (scan[2] << 8) + scan[3]
        if end >= 8:
            scan[end - 3 : end] = b"\x00\x3f\x00"
    return bytes(clean + scan)
