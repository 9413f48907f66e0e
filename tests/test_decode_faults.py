"""Damaged, truncated, huge and hostile files give an image or an ImageError, nothing else."""

from __future__ import annotations

import contextlib
import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from imgprep.errors import ImageError
from imgprep.spec import ExifPolicy
from tests.imagefiles import (
    ARITHMETIC,
    chunk,
    decode,
    jpeg,
    picture,
    saved,
    with_exif,
)
from tests.mutations import repaired_png

# ---- harmless and harmful faults of a JPEG -------------------------------------------------


def test_harmless_faults_are_noted_and_change_no_pixel() -> None:
    clean = jpeg()
    expected = decode(clean).image_hwc.copy()
    start = clean.index(b"JFIF\0")
    scan = clean.index(b"\xff\xda")
    faulty = {
        "JFIF revision": clean[: start + 5] + b"\x07\x09" + clean[start + 7 :],
        "before marker 0xd9": clean[:-2] + b"junk" * 9 + clean[-2:],
        "before marker 0xda": clean[:scan] + b"junk" + clean[scan:],
        "Invalid SOS": clean[: scan + 11] + b"\x01\x3f\x00" + clean[scan + 14 :],
        # It replaces the JFIF segment, which would override it.
        "Adobe color": clean[:2] + b"\xff\xee\x00\x0eAdobe\x00\x64\0\0\0\0\x09" + clean[20:],
    }
    for cause, data in faulty.items():
        decoded = decode(data)
        assert (decoded.image_hwc == expected).all(), cause
        assert cause in " ".join(decoded.notes.warnings)


def test_two_harmless_faults_at_once() -> None:
    clean = jpeg()
    data = clean[:-2] + b"junk" * 9 + clean[-2:]
    start = data.index(b"JFIF\0")
    decoded = decode(data[: start + 5] + b"\x07\x09" + data[start + 7 :])
    assert len(decoded.notes.warnings) == 2


def test_a_harmless_fault_does_not_hide_a_harmful_one() -> None:
    clean = jpeg()
    start = clean.index(b"JFIF\0")
    odd = clean[: start + 5] + b"\x07\x09" + clean[start + 7 :]
    assert decode(odd).notes.warnings
    with pytest.raises(ImageError, match="Premature end"):
        decode(odd[:-20])


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_truncated_jpeg_is_an_error_wherever_it_ends(mode: str, progressive: bool) -> None:
    image = Image.fromarray(picture()).convert(mode)
    data = saved(image, "JPEG", progressive=progressive)
    for end in (*range(2, len(data) - 2, 37), len(data) - 2, len(data) - 1):
        with pytest.raises(ImageError):
            decode(data[:end])


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_corrupt_image_data_is_an_error(mode: str) -> None:
    data = saved(Image.fromarray(picture(80, 80)).convert(mode), "JPEG")
    middle = (data.index(b"\xff\xda") + len(data)) // 2
    with pytest.raises(ImageError, match="damaged JPEG: Corrupt JPEG data"):
        decode(data[:middle] + b"\xff\xd5" + data[middle + 30 :])


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"", "0 bytes"),
        (b"\0" * 100, "not a known image format"),
        (b"Not Found\n" * 9, "text"),
        (b"<html>" * 20, "text"),
        (b"\xff\xd8", "truncated JPEG"),
        (b"\xff\xd8\xff\xd9", "truncated JPEG"),
        (b"\xff\xd8\xff\xd9\0\0\0", "before any image data"),
        (b"\xff\xd8" + b"\0" * 500, "truncated JPEG"),
        (b"\x89PNG\r\n\x1a\n", "truncated PNG"),
        (b"GIF89a", "damaged GIF"),
        (b"%PDF-1.4 " + bytes(range(200)), "not a known image format"),
        (b"8BPS\0\1" + bytes(100), "not a known image format"),
    ],
)
def test_a_file_that_is_not_an_image_is_named(data: bytes, cause: str) -> None:
    with pytest.raises(ImageError, match=cause):
        decode(data)


# ---- bombs --------------------------------------------------------------------------------


def test_a_declared_size_above_the_limit_is_rejected_before_decoding() -> None:
    data = bytearray(jpeg())
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 65500, 65500)
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0"))
    gif = b"GIF89a" + struct.pack("<HHBBB", 60_000, 60_000, 0, 0, 0) + b"," + bytes(20)
    for bomb in (bytes(data), png + chunk(b"IEND", b""), gif):
        with pytest.raises(ImageError, match="limit of 100 megapixels"):
            decode(bomb)


def test_the_limit_is_in_millions_of_pixels() -> None:
    image = Image.new("RGB", (1000, 1001))
    for format_name in ("JPEG", "PNG"):
        data = saved(image, format_name)
        assert decode(data, max_megapixels=2).image_hwc.shape == (1001, 1000, 3)
        with pytest.raises(ImageError, match="1000x1001"):
            decode(data, max_megapixels=1)


def test_an_empty_frame_is_rejected() -> None:
    data = bytearray(jpeg())
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 7] = b"\0\0"
    with pytest.raises(ImageError, match="empty image"):
        decode(bytes(data))


def test_a_long_thin_image_is_read() -> None:
    for width, height in ((10_000, 1), (1, 10_000)):
        image = Image.new("RGB", (width, height), (9, 99, 199))
        for format_name in ("JPEG", "PNG"):
            assert decode(saved(image, format_name)).image_hwc.shape == (height, width, 3)


# ---- damaged PNG --------------------------------------------------------------------------


def test_a_truncated_png_is_an_error_wherever_it_ends() -> None:
    data = saved(Image.fromarray(picture()), "PNG")
    for end in (*range(1, len(data), 97), len(data) - 1, len(data) - 12):
        with pytest.raises(ImageError):
            decode(data[:end])


def test_a_damaged_png_chunk_is_an_error() -> None:
    data = bytearray(saved(Image.fromarray(picture()), "PNG"))
    data[data.index(b"IDAT") + 50] ^= 4
    with pytest.raises(ImageError, match="checksum of chunk IDAT"):
        decode(bytes(data))


# ---- hostile bytes ------------------------------------------------------------------------

SMALL = Image.fromarray(picture(16, 16))
VICTIMS = [
    saved(SMALL, "JPEG"),
    saved(SMALL, "JPEG", progressive=True),
    saved(SMALL.convert("CMYK"), "JPEG"),
    with_exif(saved(SMALL.convert("L"), "JPEG"), 6),
    ARITHMETIC,
    saved(SMALL, "PNG"),
    saved(SMALL.convert("P"), "PNG"),
    saved(SMALL.convert("P"), "GIF"),
    saved(SMALL, "BMP"),
    saved(SMALL, "TIFF"),
    saved(SMALL, "PPM"),
]


@settings(deadline=None, max_examples=600)
@given(
    st.sampled_from(VICTIMS),
    st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 255)), max_size=8),
    st.one_of(st.just(0), st.integers(0, 200)),
    st.sampled_from(["ignore", "apply"]),
)
def test_damage_gives_an_image_or_an_image_error(
    victim: bytes, writes: list[tuple[int, int]], cut: int, exif: ExifPolicy
) -> None:
    data = bytearray(victim)
    for offset, value in writes:
        data[offset % len(data)] = value
    damaged = bytes(data[: len(data) - cut])
    if damaged[:4] == b"\x89PNG":
        damaged = repaired_png(damaged)
    with contextlib.suppress(ImageError):
        decode(damaged, exif=exif, max_megapixels=1)


@settings(deadline=None, max_examples=200)
@given(
    st.sampled_from([b"", b"\xff\xd8", b"\xff\xd8\xff\xc0", b"GIF89a", b"BM", b"II*\0", b"P6 "]),
    st.binary(max_size=200),
)
def test_noise_gives_an_image_or_an_image_error(start: bytes, tail: bytes) -> None:
    with contextlib.suppress(ImageError):
        decode(start + tail, max_megapixels=1)
