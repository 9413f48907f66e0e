"""Check from the markers of a JPEG file, without decoding it, that no scan is missing.

A decoder fills what was never coded with grey, without a warning: the components without a scan,
and the bits of progressive coefficients that no scan refines (ITU-T T.81 annex G).
"""

from __future__ import annotations

from dataclasses import dataclass

from imgprep.errors import ImageError
from imgprep.image.decoded import megapixels
from imgprep.image.jpegfile import DNL, EOI, SOS, JpegHeader, iter_segments
from imgprep.wording import counted

SCANS_MAX = 100
"""Scans that an image of the largest allowed size may have; a smaller image may have more.

Encoders write about 10. Chromium stops at 100 scans and DALI at 256, whatever the image size.
"""

_PROGRESSIVE_FRAMES = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_COEFFICIENTS = 64
_NOT_CODED = 255


@dataclass(frozen=True, kw_only=True, slots=True)
class JpegScans:
    """What the markers from the first scan to the end of the image declare."""

    count: int
    incomplete_components: int
    """Components with a coefficient that no scan codes, or codes to its last bit."""
    defined_height_px: int | None
    """The height in the DNL segment after the first scan; None if there is none."""
    has_end: bool
    """Whether there is an end marker (EOI)."""


def read_scans(data: bytes, header: JpegHeader) -> JpegScans:
    """Read all markers from the first scan on. Compressed data is skipped, not decoded."""
    # For each component and coefficient, the number of low bits that are not coded yet.
    uncoded_bits = [bytearray([_NOT_CODED]) * _COEFFICIENTS for _ in header.component_ids]
    count, defined_height, has_end = 0, None, False
    previous = 0
    for marker, offset, end in iter_segments(data, header.scan_offset):
        segment = data[offset:end]
        if marker == SOS:
            count += 1
            _note_scan(segment, header, uncoded_bits)
        elif marker == DNL and previous == SOS and count == 1 and len(segment) == 6:
            defined_height = int.from_bytes(segment[4:], "big")
        elif marker == EOI:
            has_end = True
            break
        previous = marker
    return JpegScans(
        count=count,
        incomplete_components=sum(map(any, uncoded_bits)),
        defined_height_px=defined_height,
        has_end=has_end,
    )


def _note_scan(segment: bytes, header: JpegHeader, uncoded_bits: list[bytearray]) -> None:
    """Store in ``uncoded_bits`` what a scan codes, by its header (an SOS segment)."""
    n_components = segment[4] if len(segment) > 4 else 0
    if len(segment) != 8 + 2 * n_components:
        return  # the decoder reports it
    first, last, low_bits = 0, _COEFFICIENTS - 1, 0
    if header.frame_marker in _PROGRESSIVE_FRAMES:
        first, last, low_bits = segment[-3], segment[-2], segment[-1] & 15
        if not first <= last < _COEFFICIENTS:
            return
    used: set[int] = set()
    for identifier in segment[5:-3:2]:
        for index, declared in enumerate(header.component_ids):
            # Some files give two components the same identifier; libjpeg takes them in order.
            if declared == identifier and index not in used:
                used.add(index)
                uncoded_bits[index][first : last + 1] = bytes([low_bits]) * (last + 1 - first)
                break


def check_scans(scans: JpegScans, header: JpegHeader, max_megapixels: int) -> None:
    """ImageError if scans are missing, or if there are so many that decoding takes too long.

    The time to decode is proportional to scans times pixels, even if the file is small.
    """
    if scans.incomplete_components:
        raise ImageError(
            f"{'damaged' if scans.has_end else 'truncated'} JPEG: scans are missing: "
            f"{scans.incomplete_components} of {counted(header.components, 'component')} incomplete"
        )
    if scans.count * header.height_px * header.width_px > SCANS_MAX * max_megapixels * 1_000_000:
        raise ImageError(
            f"has {scans.count} scans of {header.width_px}x{header.height_px} pixels, which take "
            f"too long to decode: the limit is {SCANS_MAX} scans of {megapixels(max_megapixels)} "
            "(--max-megapixels raises it)"
        )


def with_height(data: bytes, header: JpegHeader, height_px: int) -> bytes:
    """The file with another height in its frame header, which is where decoders look for it."""
    frame = header.frame_offset
    return data[: frame + 5] + height_px.to_bytes(2, "big") + data[frame + 7 :]


def with_end(data: bytes) -> bytes:
    """The file with an end marker (EOI) after its last byte."""
    return data.removesuffix(b"\xff") + b"\xff\xd9"
