"""TIFF files: missing pixels and unsupported kinds, and grey of every depth and polarity."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin, features

from imgprep.errors import ImageError
from imgprep.image.tifffile import check_compression
from tests.imagefiles import decode, picture, saved

needs_libtiff = pytest.mark.skipif(
    not features.check("libtiff"), reason="this build of Pillow has no libtiff"
)
LOSSLESS = ("tiff_lzw", "tiff_adobe_deflate", "packbits", "lzma", "zstd")


def tiff(
    tags: dict[int, tuple[int, list[int]]], parts: list[bytes], *, tiled: bool = False
) -> bytes:
    """A little-endian TIFF: tags as {number: (type, values)}, then the strips or tiles."""
    offset, offsets, body = 8, [], b""
    for part in parts:
        offsets.append(offset + len(body))
        body += part
    tags = {
        324 if tiled else 273: (4, offsets),
        325 if tiled else 279: (4, [len(part) for part in parts]),
        **tags,
    }
    directory = offset + len(body)
    extra_at = directory + 2 + 12 * len(tags) + 4
    entries, extra = b"", b""
    for number, (kind, values) in sorted(tags.items()):
        stored = struct.pack(f"<{len(values)}{'H' if kind == 3 else 'I'}", *values)
        if len(stored) > 4:
            extra, stored = extra + stored, struct.pack("<I", extra_at + len(extra))
        entries += struct.pack("<HHI", number, kind, len(values)) + stored.ljust(4, b"\0")
    head = b"II*\0" + struct.pack("<I", directory)
    return head + body + struct.pack("<H", len(tags)) + entries + bytes(4) + extra


def tags_of(width: int, height: int, **more: list[int]) -> dict[int, tuple[int, list[int]]]:
    numbers = {"bits": 258, "photometric": 262, "samples": 277, "rows": 278, "planar": 284,
               "tile_width": 322, "tile_height": 323, "palette": 320,
               "compression": 259}  # fmt: skip
    values = {"bits": [8], "photometric": [1], "samples": [1], "compression": [1], **more}
    found = {256: (4, [width]), 257: (4, [height])}
    return found | {numbers[name]: (3, each) for name, each in values.items()}


def strips(rows: bytes, n_bytes: int) -> list[bytes]:
    return [rows[k : k + n_bytes] for k in range(0, len(rows), n_bytes)]


RGB: dict[str, list[int]] = {"bits": [8] * 3, "photometric": [2], "samples": [3]}


def test_a_missing_strip_makes_an_image_bad() -> None:
    pixels = picture(40, 60)
    tags = tags_of(60, 40, rows=[20], **RGB)
    parts = strips(pixels.tobytes(), 20 * 60 * 3)
    assert (decode(tiff(tags, parts)).image_hwc == pixels).all()
    with pytest.raises(ImageError, match=r"^damaged TIFF: it has 1 of 2 strips of pixels$"):
        decode(tiff(tags, parts[:1]))


def test_a_missing_strip_of_one_plane_makes_an_image_bad() -> None:
    pixels = picture(40, 60)
    tags = tags_of(60, 40, rows=[20], planar=[2], **RGB)
    planes = [strips(pixels[:, :, k].tobytes(), 20 * 60) for k in range(3)]
    parts = [part for plane in planes for part in plane]
    assert (decode(tiff(tags, parts)).image_hwc == pixels).all()
    with pytest.raises(ImageError, match="it has 5 of 6 strips"):
        decode(tiff(tags, parts[:5]))


def test_a_missing_tile_makes_an_image_bad() -> None:
    pixels = picture(32, 48)
    tags = tags_of(48, 32, tile_width=[16], tile_height=[16], **RGB)
    parts = [
        pixels[y : y + 16, x : x + 16].tobytes() for y in range(0, 32, 16) for x in range(0, 48, 16)
    ]
    assert (decode(tiff(tags, parts, tiled=True)).image_hwc == pixels).all()
    with pytest.raises(ImageError, match="it has 5 of 6 tiles"):
        decode(tiff(tags, parts[:5], tiled=True))
    with pytest.raises(ImageError, match="tile 6 of 6 has 700 of 768 bytes"):
        decode(tiff(tags, [*parts[:5], parts[5][:700]], tiled=True))


def test_a_tile_above_the_limit_is_rejected_before_decoding() -> None:
    for compression in (1, 8):
        tags = tags_of(8, 8, tile_width=[50_000], tile_height=[50_000], compression=[compression])
        with pytest.raises(ImageError, match=r"50000x50000 pixels, above the limit|libtiff"):
            decode(tiff(tags, [bytes(64)], tiled=True))


@pytest.mark.parametrize(
    ("bits", "photometric", "channels"),
    [([1], 0, 1), ([1], 1, 1), ([4], 1, 1), ([8], 3, 1), ([16], 1, 1), ([8] * 4, 5, 4),
     ([16] * 3, 2, 3)],
)  # fmt: skip
def test_a_strip_that_is_too_short_makes_an_image_bad(
    bits: list[int], photometric: int, channels: int
) -> None:
    palette = {"palette": [300] * 768} if photometric == 3 else {}
    tags = tags_of(37, 20, bits=bits, photometric=[photometric], samples=[channels], rows=[8],
                   **palette)  # fmt: skip
    row = -(-37 * sum(bits) // 8)
    parts = [bytes(8 * row), bytes(8 * row), bytes(4 * row)]
    decode(tiff(tags, parts))
    for index, size in ((0, 8 * row), (2, 4 * row)):
        short = [part[:-1] if k == index else part for k, part in enumerate(parts)]
        cause = f"strip {index + 1} of 3 has {size - 1} of {size} bytes"
        with pytest.raises(ImageError, match=cause):
            decode(tiff(tags, short))


def test_a_file_that_ends_in_its_last_strip_is_bad() -> None:
    data = tiff(tags_of(60, 40, rows=[20], **RGB), strips(picture().tobytes(), 3600))
    (at,) = struct.unpack_from("<I", data, 4)
    patched = bytearray(data)
    for entry in range(at + 2, at + 2 + 12 * 8, 12):
        if struct.unpack_from("<H", data, entry)[0] == 273:
            (offsets,) = struct.unpack_from("<I", data, entry + 8)
            struct.pack_into("<I", patched, offsets + 4, len(data) - 1000)
    with pytest.raises(ImageError, match="strip 2 of 2 has 1000 of 3600 bytes"):
        decode(bytes(patched))


def test_sizes_of_strips_may_be_absent_if_the_pixels_are_there() -> None:
    pixels = picture(40, 60)
    tags = tags_of(60, 40, rows=[20], **RGB) | {279: (4, [0, 0])}
    assert (decode(tiff(tags, strips(pixels.tobytes(), 3600))).image_hwc == pixels).all()


@needs_libtiff
@pytest.mark.parametrize("compression", [*LOSSLESS, "jpeg"])
def test_compressed_pixels_are_read_and_missing_ones_are_noticed(
    compression: str, capfd: pytest.CaptureFixture[str]
) -> None:
    pixels = picture(200, 300)
    try:
        data = saved(Image.fromarray(pixels), "TIFF", compression=compression)
    except OSError:  # libtiff may be built without one of them
        pytest.skip(f"libtiff has no {compression}")
    found = decode(data).image_hwc
    assert compression == "jpeg" or (found == pixels).all()
    image = TiffImagePlugin.TiffImageFile(io.BytesIO(data))
    offsets, sizes = image.tag_v2[273], image.tag_v2[279]
    assert len(sizes) > 1
    for half in (sizes[0] // 2, 0):
        with pytest.raises(ImageError, match="damaged TIFF"):
            decode(_with_first_size(data, half))
    if compression == "jpeg":
        noisy = bytearray(data)
        middle = offsets[1] + sizes[1] // 2
        noisy[middle : middle + 40] = b"\xff\xd5" + bytes(38)
        with pytest.raises(ImageError, match=r"damaged TIFF: strip 2 of \d+: .*Corrupt JPEG data"):
            decode(bytes(noisy))
    assert capfd.readouterr() == ("", ""), "libtiff prints nothing"


def _with_first_size(data: bytes, size: int) -> bytes:
    """The file with another size of its first strip."""
    (at,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, at)
    patched = bytearray(data)
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        tag, kind = struct.unpack_from("<HH", data, entry)
        if tag == 279:
            (sizes,) = struct.unpack_from("<I", data, entry + 8)
            struct.pack_into("<H" if kind == 3 else "<I", patched, sizes, size)
    return bytes(patched)


@pytest.mark.parametrize("number", [5, 7, 8, 32773, 32946])
def test_without_libtiff_compressed_pixels_are_unsupported(number: int) -> None:
    with pytest.raises(ImageError, match=r"^unsupported TIFF: \w+ compression needs a Pillow with"):
        check_compression({259: number}, has_libtiff=False)
    check_compression({259: number}, has_libtiff=True)


@pytest.mark.parametrize("number", [2, 3, 4, 6, 34712, 777])
def test_other_compressions_are_unsupported_not_damaged(number: int) -> None:
    tags = tags_of(8, 8, bits=[1], compression=[number])
    with pytest.raises(ImageError, match=r"^unsupported TIFF: "):
        decode(tiff(tags, [bytes(64)]))


def test_uncompressed_ycbcr_is_unsupported() -> None:
    tags = tags_of(8, 8, bits=[8] * 3, photometric=[6], samples=[3])
    with pytest.raises(ImageError, match="unsupported TIFF: YCbCr"):
        decode(tiff(tags, [bytes(192)]))


def test_a_pixel_kind_that_pillow_does_not_know_is_unsupported() -> None:
    with pytest.raises(ImageError, match="unsupported TIFF: unknown pixel mode"):
        decode(tiff(tags_of(8, 8, bits=[7]), [bytes(64)]))


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_white_is_zero_gives_the_positive_at_every_depth(bits: int) -> None:
    row = np.arange(16, dtype=np.uint32) * (2**bits - 1) // 15
    digits = "".join(f"{value:0{bits}b}" for value in row.tolist())
    packed = int(digits, 2).to_bytes(len(digits) // 8, "big")
    if bits == 16:
        packed = row.astype("<u2").tobytes()
    black, white = (
        decode(tiff(tags_of(16, 1, bits=[bits], photometric=[kind]), [packed])).image_hwc
        for kind in (1, 0)
    )
    assert (black[0, :, 0] == np.round(row * 255 / (2**bits - 1))).all() or bits == 16
    assert (white == 255 - black).all()
    assert (black[0, -1] == 255).all()


def test_12_bit_grey_fills_the_range() -> None:
    levels = [0, 0x123, 0x800, 0xFFF]
    text = "".join(f"{level:03x}" for level in levels)
    found = decode(tiff(tags_of(4, 1, bits=[12]), [bytes.fromhex(text)])).image_hwc
    assert found[0, :, 0].tolist() == [0, 0x12, 0x80, 0xFF]
