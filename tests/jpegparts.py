"""Take JPEG files apart at their markers, and put together files that no encoder here writes."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.imagefiles import saved

SOI, EOI = b"\xff\xd8", b"\xff\xd9"
_MARKER_IN_DATA = re.compile(rb"\xff[^\x00\xd0-\xd7]")


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def split_scans(data: bytes) -> tuple[bytes, list[bytes]]:
    """The header of an undamaged JPEG, and its scans, each with the tables before it."""
    end = data.index(b"\xff\xda")
    header = data[:end]
    scans, start = [], end
    while data[start : start + 2] != EOI:
        scan = data.index(b"\xff\xda", start)
        compressed = scan + 2 + int.from_bytes(data[scan + 2 : scan + 4], "big")
        match = _MARKER_IN_DATA.search(data, compressed)
        assert match is not None
        end = match.start()
        scans.append(data[start:end])
        start = end
    return header, scans


def joined(header: bytes, scans: Iterable[bytes], end: bytes = EOI) -> bytes:
    return b"".join((header, *scans, end))


def three_scans(image_hwc: NDArray[np.uint8], **options: object) -> tuple[bytes, list[bytes]]:
    """A baseline YCbCr file with one scan for each component: its header and scans.

    The scan of a grey file is the same as that of one component, so three of them are combined.
    """
    planes = [
        saved(plane, "JPEG", **options)
        for plane in Image.fromarray(image_hwc).convert("YCbCr").split()
    ]
    header, _ = split_scans(planes[0])
    frame = header.index(b"\xff\xc0")
    height, width = image_hwc.shape[:2]
    components = b"".join(bytes([number, 0x11, 0]) for number in (1, 2, 3))
    new_frame = segment(0xC0, struct.pack(">BHHB", 8, height, width, 3) + components)
    old_end = frame + 2 + int.from_bytes(header[frame + 2 : frame + 4], "big")
    scans = []
    for number, plane in enumerate(planes, 1):
        _, (scan,) = split_scans(plane)
        scans.append(scan[:5] + bytes([number]) + scan[6:])
    return header[:frame] + new_frame + header[old_end:], scans


def without_height(data: bytes, *, after_scan: int = 0) -> bytes:
    """The file with height 0 in its frame header and the true height in a DNL segment."""
    header, scans = split_scans(data)
    (frame,) = (at for at in (header.find(b"\xff\xc0"), header.find(b"\xff\xc2")) if at > 0)
    height = header[frame + 5 : frame + 7]
    header = header[: frame + 5] + b"\0\0" + header[frame + 7 :]
    scans[after_scan] += segment(0xDC, height)
    return joined(header, scans)


def many_scans(side_px: int, bands: Sequence[tuple[int, int]], bits: int) -> bytes:
    """A grey progressive file without any detail: for each band of coefficients ``bits`` scans.

    Each scan after the first says in a few bytes that all blocks are zero.
    """
    blocks = (-(-side_px // 8)) ** 2
    tables = segment(0xDB, bytes([0]) + bytes([1]) * 64)
    frame = segment(0xC2, struct.pack(">BHHB", 8, side_px, side_px, 1) + bytes([1, 0x11, 0]))
    # The code of 4 bits `n` means: the next 2**n blocks, and as many more as n bits say, are zero.
    runs = bytes(16 * n for n in range(15))
    tables += segment(0xC4, bytes([0x10, 0, 0, 0, 15, *[0] * 12]) + runs)
    tables += segment(0xC4, bytes([0x00, 1, *[0] * 15, 0]))
    scans = [_scan((0, 0), 0, 0, "0" * blocks)]
    for band in bands:
        for low in reversed(range(bits)):
            high = 0 if low == bits - 1 else low + 1
            scans.append(_scan(band, high, low, _zero_blocks(blocks)))
    return joined(SOI + tables + frame, scans)


def _zero_blocks(blocks: int) -> str:
    text = ""
    while blocks:
        run = min(blocks, 32767)
        n = run.bit_length() - 1
        text += f"{n:04b}" + (f"{run - 2**n:0{n}b}" if n else "")
        blocks -= run
    return text


def _scan(band: tuple[int, int], high: int, low: int, bits: str) -> bytes:
    header = segment(0xDA, bytes([1, 1, 0, *band, 16 * high + low]))
    bits += "1" * (-len(bits) % 8)
    return header + int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
