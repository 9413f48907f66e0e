"""Read the orientation from an EXIF block, in the same way for every file format."""

from __future__ import annotations

import struct

ORIENTATION_TAG = 0x0112

_PREFIX = b"Exif\0\0"
# struct codes of the integer types of TIFF 6.0: BYTE, SHORT, LONG and their signed versions. The
# EXIF standard says SHORT, but some programs write LONG.
_INTEGER_TYPES = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}


def exif_orientation(block: bytes) -> int:
    """The orientation in an EXIF block, 1 to 8; 1 if it is absent or cannot be read.

    The block is a TIFF header and directory, with or without ``Exif\\0\\0`` before it.
    """
    tiff = block.removeprefix(_PREFIX)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (directory,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, directory)
        for entry in range(directory + 2, directory + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(order + "HH", tiff, entry)
            if tag == ORIENTATION_TAG:
                if kind not in _INTEGER_TYPES:
                    return 1
                (value,) = struct.unpack_from(order + _INTEGER_TYPES[kind], tiff, entry + 8)
                return valid_orientation(value)
    except struct.error:
        return 1
    return 1


def valid_orientation(value: object) -> int:
    """``value`` if it is an orientation, 1 to 8; otherwise 1, which means upright."""
    return int(value) if isinstance(value, int) and 1 <= value <= 8 else 1
