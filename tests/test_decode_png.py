"""PNG files: missing pixels make an image bad, faults of metadata do not."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from imgprep.errors import ImageError
from tests.imagefiles import chunk, decode, picture, png16, saved

SIGNATURE = b"\x89PNG\r\n\x1a\n"
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
         (0, 1, 1, 2))  # fmt: skip
TIFF = b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)
COLOURS = {
    "grey": (0, 1),
    "RGB": (2, 3),
    "palette": (3, 1),
    "grey and alpha": (4, 2),
    "RGBA": (6, 4),
}
KINDS = [
    ("grey", 1), ("grey", 2), ("grey", 4), ("grey", 8), ("grey", 16), ("RGB", 8), ("RGB", 16),
    ("palette", 1), ("palette", 4), ("palette", 8), ("grey and alpha", 8), ("RGBA", 16),
]  # fmt: skip


def png(ihdr: bytes, rows: bytes, *more: bytes) -> bytes:
    """A PNG with this image data before compression, and more chunks before it."""
    parts = (chunk(b"IHDR", ihdr), *more, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return SIGNATURE + b"".join(parts)


def parts_of(kind: str, bits: int, height: int, width: int) -> tuple[bytes, bytes, bytes]:
    """IHDR, one row of random samples with its filter byte, and a palette chunk or nothing."""
    colour, channels = COLOURS[kind]
    n_bytes = -(-width * channels * bits // 8)
    row = b"\0" + np.random.default_rng(bits).integers(0, 256, n_bytes, np.uint8).tobytes()
    palette = chunk(b"PLTE", bytes(3 << bits)) if kind == "palette" else b""
    return struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0), row, palette


@pytest.mark.parametrize(("kind", "bits"), KINDS)
def test_missing_rows_make_an_image_bad(kind: str, bits: int) -> None:
    ihdr, row, palette = parts_of(kind, bits, 300, 37)
    assert decode(png(ihdr, row * 300, palette)).image_hwc.shape == (300, 37, 3)
    for rows, cause in (
        (row * 150, "150 of 300 rows"),
        ((row * 300)[:-1], "299 of 300 rows"),
        (b"", "0 of 300 rows"),
    ):
        with pytest.raises(ImageError, match=f"^damaged PNG: the image data ends after {cause}$"):
            decode(png(ihdr, rows, palette))


def interlaced(samples: np.ndarray, passes: int) -> bytes:
    """The first passes of an 8-bit image of (height, width, channels), with filter 0."""
    out = b""
    for left, top, step_x, step_y in ADAM7[:passes]:
        part = samples[top::step_y, left::step_x]
        if part.size:
            out += b"".join(b"\0" + row.tobytes() for row in part)
    return out


@pytest.mark.parametrize(("height", "width"), [(20, 30), (1, 9), (9, 1), (3, 3), (300, 200)])
def test_missing_passes_make_an_interlaced_image_bad(height: int, width: int) -> None:
    pixels = picture(height, width)
    ihdr = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 1)
    whole = interlaced(pixels, 7)
    assert (decode(png(ihdr, whole)).image_hwc == pixels).all()
    for passes in range(7):
        rows = interlaced(pixels, passes)
        if rows != whole:
            with pytest.raises(ImageError, match=r"the image data ends after \d of 7 passes"):
                decode(png(ihdr, rows))
    with pytest.raises(ImageError, match=r"of 7 passes"):
        decode(png(ihdr, whole[:-1]))


def test_five_of_seven_passes_are_named() -> None:
    ihdr = struct.pack(">IIBBBBB", 30, 20, 8, 2, 0, 0, 1)
    with pytest.raises(ImageError, match="after 5 of 7 passes"):
        decode(png(ihdr, interlaced(picture(20, 30), 5)))


@pytest.mark.parametrize("default", [True, False])
def test_the_first_frame_of_an_animation_must_be_complete(default: bool) -> None:
    ihdr, row, _ = parts_of("RGB", 8, 20, 10)
    control = chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 10, 20, 0, 0, 1, 10, 0, 0))
    before = [chunk(b"acTL", struct.pack(">II", 2, 0)), b"" if default else control]
    expected = decode(png(ihdr, row * 20)).image_hwc.copy()
    assert (decode(png(ihdr, row * 20, *before)).image_hwc == expected).all()
    with pytest.raises(ImageError, match="after 7 of 20 rows"):
        decode(png(ihdr, row * 7, *before))


@given(st.binary(max_size=400), st.integers(1, 40))
def test_image_data_in_any_number_of_chunks_is_complete_or_bad(row: bytes, size: int) -> None:
    data = saved(Image.fromarray(picture(20, 30)), "PNG")
    start, end = data.index(b"IDAT") - 4, data.index(b"IEND") - 4
    body = data[start + 8 : end - 4]
    cut = [chunk(b"IDAT", body[k : k + size]) for k in range(0, len(body), size)]
    assert (decode(data[:start] + b"".join(cut) + data[end:]).image_hwc == picture(20, 30)).all()
    with pytest.raises(ImageError, match=r"^damaged PNG: "):
        decode(data[:start] + chunk(b"IDAT", body[:-12]) + chunk(b"teSt", row) + data[end:])


def wrong_sum(data: bytes) -> bytes:
    return data[:-4] + bytes(4)


METADATA = {
    "iCCP that inflates to 1.5 MiB": chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(3 << 19))),
    "iCCP with an unknown compression": chunk(b"iCCP", b"p\0\7xx"),
    "zTXt of 2 MiB": chunk(b"zTXt", b"k\0\0" + zlib.compress(b"x" * (2 << 20))),
    "iTXt of 2 MiB": chunk(b"iTXt", b"k\0\1\0\0\0" + zlib.compress(b"x" * (2 << 20))),
    "zTXt with an unknown compression": chunk(b"zTXt", b"k\0\1x"),
    "pHYs that is too short": chunk(b"pHYs", b"1"),
    "gAMA that is too short": chunk(b"gAMA", b""),
    "cHRM that is too short": chunk(b"cHRM", b"123"),
    "tRNS that is too short": chunk(b"tRNS", b""),
    "sRGB that is empty": chunk(b"sRGB", b""),
    "acTL that is too short": chunk(b"acTL", b"1"),
    "fcTL out of order": chunk(b"fcTL", bytes(26)) * 2,
    **{
        f"{kind.decode()} with a wrong checksum": wrong_sum(chunk(kind, b"k\0\0" + bytes(6)))
        for kind in (b"pHYs", b"tEXt", b"iCCP", b"zTXt", b"iTXt", b"tIME", b"eXIf", b"tRNS")
    },
}


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("fault", METADATA)
def test_faults_of_metadata_change_nothing(fault: str, after: bool) -> None:
    pixels = picture()
    data = saved(Image.fromarray(pixels), "PNG")
    at = len(data) - 12 if after else 33
    decoded = decode(data[:at] + METADATA[fault] + data[at:], exif="apply")
    assert (decoded.image_hwc == pixels).all()
    name = fault.split()[0]
    noted = (f"checksum of chunk {name} is wrong",) if "wrong checksum" in fault else ()
    assert decoded.notes.warnings == noted


def test_exif_after_the_image_data_is_read() -> None:
    data = saved(Image.fromarray(picture()), "PNG")
    exif = chunk(b"eXIf", TIFF)
    for at in (33, len(data) - 12):
        assert decode(data[:at] + exif + data[at:]).notes.exif_orientation == 6
        turned = decode(data[:at] + exif + data[at:], exif="apply").image_hwc
        assert turned.shape == (60, 40, 3)
        assert decode(data[:at] + wrong_sum(exif) + data[at:]).notes.exif_orientation == 1


def without_palette(ihdr: bytes, row: bytes) -> bytes:
    return png(ihdr, row * 9)


@pytest.mark.parametrize(
    ("make", "cause"),
    [
        (without_palette, "no palette"),
        (lambda ihdr, row: png(ihdr, row * 9, chunk(b"PLTE", bytes(10))), "palette cannot have 10"),
        (lambda ihdr, row: png(ihdr, row * 9, chunk(b"PLTE", bytes(51))), "palette cannot have 51"),
        (lambda ihdr, row: png(ihdr, row * 9, chunk(b"IHDR", ihdr)), "more than one IHDR"),
        (lambda ihdr, row: png(ihdr[:8] + b"\3\3" + ihdr[10:], row), "3 with 3 bits"),
        (lambda ihdr, row: png(ihdr[:-1] + b"\2", row), "interlace method"),
        (lambda ihdr, row: png(ihdr[:-1], row), "complete IHDR"),
        (lambda ihdr, row: SIGNATURE + chunk(b"CgBI", b"") + png(ihdr, row)[8:], "CgBI"),
        (lambda ihdr, row: SIGNATURE + chunk(b"IEND", b""), "no chunks"),
        (lambda ihdr, row: png(ihdr, row, chunk(b"a:b:", b"")), "invalid chunk name"),
    ],
)
def test_a_damaged_structure_is_named(make: Callable[[bytes, bytes], bytes], cause: str) -> None:
    ihdr, row, _ = parts_of("palette", 4, 9, 5)
    with pytest.raises(ImageError, match=cause):
        decode(make(ihdr, row))


def test_damaged_compressed_data_with_right_checksums_is_bad() -> None:
    data = saved(Image.fromarray(picture()), "PNG")
    start, end = data.index(b"IDAT") - 4, data.index(b"IEND") - 4
    body = bytearray(data[start + 8 : end - 4])
    body[1] ^= 1
    with pytest.raises(ImageError, match="cannot be decompressed"):
        decode(data[:start] + chunk(b"IDAT", bytes(body)) + data[end:])


def test_16_bit_samples_keep_their_high_byte_after_the_check() -> None:
    samples = np.arange(20 * 30, dtype=np.uint16).reshape(20, 30, 1) * 109
    expected = np.repeat((samples >> 8).astype(np.uint8), 3, axis=2)
    assert (decode(png16(samples, 0)).image_hwc == expected).all()
    with Image.open(io.BytesIO(png16(samples, 0))) as image:
        assert image.size == (30, 20)
