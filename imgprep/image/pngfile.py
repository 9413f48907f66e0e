"""Check a PNG file, and reduce it to the chunks that decide its pixels and its orientation.

Pillow accepts image data that ends early, and leaves the missing rows black. It also rejects a file
for faults in metadata, which affect no pixel.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from imgprep.errors import ImageError
from imgprep.image.decoded import check_megapixels

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Samples per pixel of each colour type."""
_PALETTE_TYPE = 3
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
# Of each pass of an interlaced image: first column, first row, and steps between them.
_ADAM7 = (
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
    *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)
_STEP_BYTES = 1 << 18
_NOTED_FAULTS_MAX = 8


@dataclass(frozen=True, slots=True)
class _Header:
    """The IHDR chunk."""

    width_px: int
    height_px: int
    depth_bits: int
    colour_type: int
    interlaced: bool

    def passes(self) -> list[tuple[int, int]]:
        """Rows and bytes per row of each pass; a row has one more byte, for its filter."""
        grids = _ADAM7 if self.interlaced else ((0, 0, 1, 1),)
        bits = self.depth_bits * _CHANNELS[self.colour_type]
        found = []
        for left, top, step_x, step_y in grids:
            columns = -(-(self.width_px - left) // step_x)
            rows = -(-(self.height_px - top) // step_y) if columns > 0 else 0
            found.append((max(rows, 0), 1 + -(-columns * bits // 8)))
        return found


def reduced_png(data: bytes, *, max_megapixels: int) -> tuple[bytes, tuple[str, ...]]:
    """A PNG with the same pixels and EXIF block, and notes on damaged metadata.

    Raises:
        ImageError: the file is truncated, chunks that decide pixels are damaged or missing, or the
            declared size is above ``max_megapixels``.
    """
    header: _Header | None = None
    header_body, palette, exif, image_data = b"", b"", b"", bytearray()
    faults: dict[str, None] = {}
    for kind, body, sound in _chunks(data):
        if header is None:
            header = _header(kind, body)
            header_body = body
            check_megapixels(header.height_px, header.width_px, max_megapixels)
        elif kind == b"IHDR":
            raise ImageError("damaged PNG: it has more than one IHDR chunk")
        elif not sound:
            if len(faults) < _NOTED_FAULTS_MAX:
                faults[f"checksum of chunk {kind.decode('ascii')} is wrong"] = None
        elif kind == b"PLTE" and not palette and not image_data:
            palette = body
        elif kind == b"eXIf":
            exif = body
        elif kind == b"IDAT":
            image_data += body
    if header is None:
        raise ImageError("truncated PNG: it has no chunks")
    if header.colour_type == _PALETTE_TYPE:
        _check_palette(header, palette)
    else:
        palette = b""  # a suggestion only
    _check_image_data(header, image_data)
    parts: list[tuple[bytes, bytes | bytearray]] = [
        (b"IHDR", header_body),
        (b"eXIf", exif),
        (b"PLTE", palette),
        (b"IDAT", image_data),
    ]
    kept = b"".join(_chunk(kind, body) for kind, body in parts if body)
    return _SIGNATURE + kept + _chunk(b"IEND", b""), tuple(faults)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
    """Kind and body of each chunk before IEND, and whether its checksum is right.

    Raises:
        ImageError: the file ends before IEND, or the checksum of a critical chunk is wrong.
    """
    position, view = len(_SIGNATURE), memoryview(data)
    while position + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        kind = data[position + 4 : position + 8]
        end = position + 12 + length
        if end > len(data):
            break
        if not kind.isalpha():
            raise ImageError(f"damaged PNG: invalid chunk name {kind!r}")
        (stated,) = struct.unpack_from(">I", data, end - 4)
        sound = zlib.crc32(view[position + 4 : end - 4]) == stated
        if kind[:1].isupper() and not sound:
            raise ImageError(f"damaged PNG: checksum of chunk {kind.decode('ascii')} is wrong")
        if kind == b"IEND":
            return
        yield kind, data[position + 8 : end - 4], sound
        position = end
    raise ImageError("truncated PNG: it ends before its IEND chunk")


def _header(kind: bytes, body: bytes) -> _Header:
    if kind == b"CgBI":
        raise ImageError("unsupported PNG: Apple's CgBI variant")
    if kind != b"IHDR" or len(body) != 13:
        raise ImageError("damaged PNG: it does not start with a complete IHDR chunk")
    width, height, depth, colour, *methods = struct.unpack(">IIBBBBB", body)
    if depth not in _DEPTHS.get(colour, ()):
        raise ImageError(f"damaged PNG: colour type {colour} with {depth} bits does not exist")
    if methods not in ([0, 0, 0], [0, 0, 1]):
        raise ImageError("damaged PNG: unknown compression, filter or interlace method")
    return _Header(width, height, depth, colour, methods[2] == 1)


def _check_palette(header: _Header, palette: bytes) -> None:
    if not palette:
        raise ImageError("damaged PNG: it has no palette before its image data")
    if len(palette) % 3 or len(palette) > 3 << header.depth_bits:
        raise ImageError(f"damaged PNG: a palette cannot have {len(palette)} bytes")


def _check_image_data(header: _Header, image_data: bytearray) -> None:
    """ImageError if the image data inflates to fewer bytes than the pixels need."""
    passes = header.passes()
    left = _inflated_bytes(image_data, sum(rows * row_bytes for rows, row_bytes in passes))
    if header.interlaced:
        done, of, what = 0, len(passes), "passes"
        for rows, row_bytes in passes:
            left -= rows * row_bytes
            done += left >= 0
    else:
        ((of, row_bytes),) = passes
        done, what = left // row_bytes, "rows"
    if done < of:
        raise ImageError(f"damaged PNG: the image data ends after {done} of {of} {what}")


def _inflated_bytes(image_data: bytearray, most: int) -> int:
    """How many bytes the data inflates to, counted up to ``most``, in constant memory."""
    inflater, count = zlib.decompressobj(), 0
    try:
        for start in range(0, len(image_data), _STEP_BYTES):
            pending = bytes(image_data[start : start + _STEP_BYTES])
            while count < most:
                piece = inflater.decompress(pending, _STEP_BYTES)
                count += len(piece)
                pending = inflater.unconsumed_tail
                if not piece and not pending:
                    break
            if count >= most or inflater.eof:
                break
    except zlib.error as exc:
        raise ImageError(f"damaged PNG: its image data cannot be decompressed: {exc}") from exc
    return count


def _chunk(kind: bytes, body: bytes | bytearray) -> bytes:
    checksum = zlib.crc32(body, zlib.crc32(kind))
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)
