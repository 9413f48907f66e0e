"""Check that a TIFF file has all of its pixels, and that they are of a kind that is decoded fully.

Pillow leaves the pixels of a missing strip or tile black, and takes the bytes that follow a strip
that is too short. libtiff does not report damage inside JPEG and fax data.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import zip_longest
from typing import Any

import simplejpeg
from numpy.typing import NDArray

from imgprep.errors import ImageError
from imgprep.image.decoded import check_megapixels
from imgprep.image.jpegfile import read_header
from imgprep.image.jpegscans import check_scans, read_scans
from imgprep.image.pillowcheck import loaded_library

# Numbers of tags in TIFF 6.0.
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_STRIP_OFFSETS, _SAMPLES, _ROWS_PER_STRIP, _STRIP_SIZES, _PLANAR = 273, 277, 278, 279, 284
_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_SIZES = 322, 323, 324, 325
_JPEG_TABLES = 347
_NONE, _JPEG = 1, 7
_WHITE_IS_ZERO, _YCBCR = 0, 6
_SEPARATE_PLANES = 2

_COMPRESSIONS = {
    _NONE: "no",
    5: "LZW",
    _JPEG: "JPEG",
    8: "deflate",
    32773: "PackBits",
    32946: "deflate",
    34925: "LZMA",
    50000: "zstd",
    50001: "WebP",
}
# Damage in these is not reported by the decoder.
_UNCHECKED = {2: "fax (CCITT RLE)", 3: "fax (G3)", 4: "fax (G4)", 6: "old-style JPEG"}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Parts:
    """The strips or tiles that the pixels are stored in, plane by plane, row by row."""

    name: str
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    """In bytes; empty if the file does not have them."""
    image_height_px: int
    width_px: int
    height_px: int
    down: int
    """Parts from top to bottom."""
    across: int
    planes: int

    @property
    def count(self) -> int:
        """How many parts the pixels need."""
        return self.down * self.across * self.planes

    def extents(self) -> list[tuple[int, int]]:
        """Offset and size of each part, 0 for an unknown size; ImageError if some are missing."""
        first = len(self.offsets) - 1 if self.count == 1 else 0  # Pillow then uses the last entry
        offsets, sizes = self.offsets[first:], self.sizes[first:]
        if len(offsets) != self.count:
            raise ImageError(
                f"damaged TIFF: it has {len(offsets)} of {self.count} {self.name}s of pixels"
            )
        return list(zip_longest(offsets, sizes[: self.count], fillvalue=0))

    def raw_bytes(self, index: int, bits: tuple[int, ...]) -> int:
        """Bytes of a part that is not compressed; the last strip may have fewer rows."""
        plane, place = divmod(index, self.down * self.across)
        rows = self.height_px
        if self.name == "strip":
            rows = min(rows, self.image_height_px - place * rows)
        return rows * -(-self.width_px * (bits[plane] if self.planes > 1 else sum(bits)) // 8)


def check_compression(tags: Mapping[int, Any], *, has_libtiff: bool) -> None:
    """ImageError if the compression is not supported, or not without libtiff."""
    number = _number(tags, _COMPRESSION, _NONE)
    if number in _UNCHECKED:
        raise ImageError(
            f"unsupported TIFF: {_UNCHECKED[number]} compression, whose decoder does not report "
            "damage"
        )
    if number not in _COMPRESSIONS:
        raise ImageError(f"unsupported TIFF: compression {number}")
    if number != _NONE and not has_libtiff:
        raise ImageError(
            f"unsupported TIFF: {_COMPRESSIONS[number]} compression needs a Pillow with libtiff "
            "(apt-get install libtiff-dev, then tools/setup)"
        )


@cache
def silence_libtiff() -> None:
    """Stop libtiff from printing its errors on stderr; Pillow raises an exception for each."""
    library = loaded_library("libtiff")
    if library is not None:
        ctypes.CDLL(str(library)).TIFFSetErrorHandler(None)


def check_parts(tags: Mapping[int, Any], data: bytes, *, max_megapixels: int) -> None:
    """ImageError if strips or tiles are missing or too short, or the JPEG in one is damaged."""
    compression, bits = _number(tags, _COMPRESSION, _NONE), _bits(tags)
    if compression == _NONE and tags.get(_PHOTOMETRIC) == _YCBCR and len(bits) == 3:
        raise ImageError("unsupported TIFF: YCbCr pixels without JPEG compression")
    parts = _parts(tags)
    if parts.name == "tile":
        check_megapixels(parts.height_px, parts.width_px, max_megapixels)
    for index, (offset, size) in enumerate(parts.extents()):
        name = f"{parts.name} {index + 1} of {parts.count}"
        needed = parts.raw_bytes(index, bits) if compression == _NONE else size or 1
        there = max(0, min(size or needed, len(data) - offset)) if offset > 0 else 0
        if there < needed:
            raise ImageError(f"damaged TIFF: {name} has {there} of {needed} bytes")
        if compression == _JPEG:
            part = data[offset : offset + (size or len(data))]
            _check_jpeg(tags.get(_JPEG_TABLES), part, name, max_megapixels)


def grey_levels(grey: NDArray[Any], tags: Mapping[int, Any]) -> NDArray[Any]:
    """Grey of more than 8 bits as 16 bits with black at 0, whatever the file's range and order."""
    bits = _bits(tags)[0]
    if bits < 16:
        grey = grey << (16 - bits)
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        if bits > 16:
            raise ImageError("unsupported: 32-bit integer pixels have no defined range")
        grey = 65535 - grey
    return grey


def _number(tags: Mapping[int, Any], tag: int, default: int) -> int:
    value = tags.get(tag, default)
    value = value[0] if isinstance(value, tuple) and value else value
    if not isinstance(value, int):
        raise ImageError(f"damaged TIFF: tag {tag} is not a number")
    return value


def _numbers(tags: Mapping[int, Any], tag: int) -> tuple[int, ...]:
    value = tags.get(tag, ())
    values = value if isinstance(value, tuple) else (value,)
    if not all(isinstance(each, int) for each in values):
        raise ImageError(f"damaged TIFF: tag {tag} is not a list of numbers")
    return values


def _bits(tags: Mapping[int, Any]) -> tuple[int, ...]:
    """Bits of each sample of a pixel."""
    bits, samples = _numbers(tags, _BITS) or (1,), _number(tags, _SAMPLES, 1)
    return bits * samples if len(bits) == 1 else bits[:samples]


def _parts(tags: Mapping[int, Any]) -> _Parts:
    width, height = _number(tags, _WIDTH, 0), _number(tags, _HEIGHT, 0)
    planes = len(_bits(tags)) if _number(tags, _PLANAR, 1) == _SEPARATE_PLANES else 1
    tiled = _STRIP_OFFSETS not in tags
    name = "tile" if tiled else "strip"
    part_width = _number(tags, _TILE_WIDTH, 0) if tiled else width
    part_height = _number(tags, _TILE_HEIGHT if tiled else _ROWS_PER_STRIP, 0 if tiled else height)
    if part_width < 1 or part_height < 1:
        raise ImageError(f"damaged TIFF: a {name} of {part_width}x{part_height} pixels")
    return _Parts(
        name=name,
        offsets=_numbers(tags, _TILE_OFFSETS if tiled else _STRIP_OFFSETS),
        sizes=_numbers(tags, _TILE_SIZES if tiled else _STRIP_SIZES),
        image_height_px=height,
        width_px=part_width,
        height_px=part_height,
        down=-(-height // part_height),
        across=-(-width // part_width),
        planes=planes,
    )


def _check_jpeg(tables: object, part: bytes, name: str, max_megapixels: int) -> None:
    jpeg = part
    if isinstance(tables, bytes) and len(tables) > 4:  # shared by all parts: SOI, tables, EOI
        jpeg = tables.removesuffix(b"\xff\xd9") + part[2:]
    try:
        header = read_header(jpeg)
        check_megapixels(header.height_px, header.width_px, max_megapixels)
        scans = read_scans(jpeg, header)
        check_scans(scans, header, max_megapixels)
        if not scans.has_end:
            raise ImageError("the image data is incomplete")
        colours = "CMYK" if header.components == 4 else "Gray"
        simplejpeg.decode_jpeg(jpeg, colours, strict=True)
    except (ImageError, ValueError) as exc:
        raise ImageError(f"damaged TIFF: {name}: {exc}") from exc
