"""Decode every kind of image file that ImageNet has, and other formats."""

from __future__ import annotations

import base64
import contextlib
import logging
import struct

import numpy as np
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, features

from imgprep.errors import ImageError
from imgprep.image.decoded import turn_upright
from imgprep.image.exif import exif_orientation
from tests.imagefiles import (
    ARITHMETIC,
    ODD_SAMPLING,
    adobe_patched,
    after_start,
    by_pillow,
    chunk,
    decode,
    jpeg,
    picture,
    png16,
    saved,
    with_exif,
)

# ---- JPEG files that must be readable ----------------------------------------------------


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True}])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_jpeg_equals_pillow_within_one_level(
    mode: str, options: dict[str, object], subsampling: int
) -> None:
    for shape in ((40, 60), (37, 61), (1, 1), (1, 9), (8, 1)):
        image = Image.fromarray(picture(*shape)).convert(mode)
        data = saved(image, "JPEG", quality=90, subsampling=subsampling, **options)
        decoded = decode(data)
        assert np.abs(decoded.image_hwc.astype(int) - by_pillow(data)).max() <= 1
        notes = decoded.notes
        assert (notes.format, notes.mode, notes.exif_orientation) == ("JPEG", mode, 1)
        assert notes.warnings == ()


def test_grey_has_three_equal_channels() -> None:
    image_hwc = decode(saved(Image.fromarray(picture()[:, :, 0]), "JPEG")).image_hwc
    assert (image_hwc == image_hwc[:, :, :1]).all()


@pytest.mark.parametrize(("transform", "mode"), [(0, "CMYK"), (2, "YCCK"), (None, "CMYK")])
def test_four_colours_are_read_as_pillow_reads_them(transform: int | None, mode: str) -> None:
    image = Image.fromarray(picture()).convert("CMYK")
    data = adobe_patched(saved(image, "JPEG", quality=95), transform)
    decoded = decode(data)
    assert decoded.notes.mode == mode
    assert np.abs(decoded.image_hwc.astype(int) - by_pillow(data)).max() <= 1


def test_cmyk_keeps_its_colours() -> None:
    red = np.zeros((16, 16, 3), np.uint8) + np.array([200, 30, 10], np.uint8)
    data = saved(Image.fromarray(red).convert("CMYK"), "JPEG", quality=100)
    assert np.abs(decode(data).image_hwc.astype(int) - red).max() <= 4


def test_arithmetic_coding_is_read() -> None:
    y, x = np.mgrid[0:24, 0:32]
    drawn = np.stack([x * 8, y * 10, (x + y) * 4], axis=2)
    assert np.abs(decode(ARITHMETIC).image_hwc - drawn).mean() < 8


def test_subsampling_unknown_to_turbojpeg_is_read_by_pillow() -> None:
    with pytest.raises(ValueError, match="subsampling"):
        simplejpeg.decode_jpeg(ODD_SAMPLING, "RGB")
    assert (decode(ODD_SAMPLING).image_hwc == by_pillow(ODD_SAMPLING)).all()
    with pytest.raises(ImageError, match="damaged JPEG"):
        decode(ODD_SAMPLING[:-8])


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_noted_and_applied_only_on_request(
    orientation: int, order: str
) -> None:
    plain = jpeg()
    turned = with_exif(plain, orientation, order)
    upright = decode(plain).image_hwc.copy()
    ignored = decode(turned)
    assert ignored.notes.exif_orientation == orientation
    assert (ignored.image_hwc == upright).all()
    applied = decode(turned, exif="apply")
    assert applied.notes.exif_orientation == orientation
    method = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    image = Image.fromarray(upright)
    expected = image.transpose(method[orientation]) if orientation > 1 else image
    assert (applied.image_hwc == np.asarray(expected)).all()


@pytest.mark.parametrize("format_name", ["TIFF", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_of_other_formats(format_name: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(Image.fromarray(picture()), format_name, exif=exif)
    ignored, applied = decode(data), decode(data, exif="apply")
    assert (ignored.image_hwc == picture()).all()
    assert ignored.notes.exif_orientation == orientation
    assert (applied.image_hwc == turn_upright(picture(), orientation)).all()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("kind", "code"), [(1, "B"), (3, "H"), (4, "I"), (6, "b"), (8, "h"), (9, "i")]
)
def test_an_orientation_of_any_integer_type_is_read_in_jpeg_and_png(
    kind: int, code: str, order: str
) -> None:
    magic = b"MM\0*" if order == ">" else b"II*\0"
    for value, expected in ((6, 6), (0, 1), (9, 1)):
        stored = struct.pack(order + code, value).ljust(4, b"\0")
        tiff = magic + struct.pack(order + "IHHHI", 8, 1, 0x0112, kind, 1) + stored + bytes(4)
        segment = b"Exif\0\0" + tiff
        size = struct.pack(">H", len(segment) + 2)
        png = saved(Image.fromarray(picture()), "PNG")
        for data in (
            after_start(jpeg(), b"\xff\xe1" + size + segment),
            png[:33] + chunk(b"eXIf", tiff) + png[33:],
        ):
            decoded = decode(data, exif="apply")
            assert decoded.notes.exif_orientation == expected
            assert decoded.image_hwc.shape == ((60, 40, 3) if expected == 6 else (40, 60, 3))


def test_an_orientation_that_is_not_an_integer_means_upright() -> None:
    for kind in (0, 2, 5, 7, 12, 65535):
        tiff = b"II*\0" + struct.pack("<IHHHII", 8, 1, 0x0112, kind, 1, 6)
        assert exif_orientation(tiff + bytes(4)) == 1


def test_unreadable_exif_means_upright() -> None:
    for body in (
        b"",
        b"MM\0*",
        b"MM\0*\xff\xff\xff\xff",
        b"XX\0*" + bytes(40),
        b"II*\0" + bytes(9),
    ):
        segment = b"Exif\0\0" + body
        data = after_start(jpeg(), b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment)
        assert decode(data, exif="apply").notes.exif_orientation == 1


@given(st.binary(max_size=60))
def test_any_exif_bytes_give_an_orientation(tail: bytes) -> None:
    for magic in (b"", b"MM\0*\0\0\0\x08", b"II*\0\x08\0\0\0", b"Exif\0\0II*\0\x08\0\0\0"):
        assert exif_orientation(magic + tail) in range(1, 9)


# ---- other formats ------------------------------------------------------------------------


@pytest.mark.parametrize("format_name", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_keep_every_pixel(format_name: str) -> None:
    decoded = decode(saved(Image.fromarray(picture()), format_name))
    assert (decoded.image_hwc == picture()).all()
    assert (decoded.notes.format, decoded.notes.mode) == (format_name, "RGB")


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA"])
def test_png_modes_become_rgb_as_pillow_converts_them(mode: str) -> None:
    image = Image.fromarray(picture()).convert(mode)
    data = saved(image, "PNG")
    decoded = decode(data)
    assert decoded.notes.mode == mode
    assert (decoded.image_hwc == np.asarray(image.convert("RGB"))).all()


@pytest.mark.parametrize("transparency", [3, bytes(range(256))])
def test_palette_transparency_is_dropped_without_a_message(transparency: int | bytes) -> None:
    image = Image.fromarray(picture()).convert("P")
    decoded = decode(saved(image, "PNG", transparency=transparency))
    assert (decoded.image_hwc == np.asarray(image.convert("RGB"))).all()


def test_alpha_is_dropped_not_blended() -> None:
    pixels = np.dstack([picture(), np.zeros((40, 60), np.uint8)])
    assert (decode(saved(Image.fromarray(pixels), "PNG")).image_hwc == picture()).all()


@pytest.mark.parametrize(("colour_type", "bands"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_16_bit_png_keeps_the_high_byte(colour_type: int, bands: int) -> None:
    rng = np.random.default_rng(colour_type)
    samples = rng.integers(0, 65536, (20, 30, bands)).astype(np.uint16)
    high = (samples >> 8).astype(np.uint8)
    expected = high[:, :, :3] if bands >= 3 else high[:, :, [0, 0, 0]]
    assert (decode(png16(samples, colour_type)).image_hwc == expected).all()


def test_the_first_frame_of_a_gif_is_used() -> None:
    frames = [Image.fromarray(picture()).convert("P"), Image.new("P", (60, 40))]
    data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    expected = np.asarray(frames[0].convert("RGB"))
    assert (decode(data).image_hwc == expected).all()


def test_pixels_without_a_defined_range_are_rejected() -> None:
    for dtype, cause in ((np.float32, "floating-point"), (np.int32, "32-bit integer")):
        values = (picture()[:, :, 0].astype(dtype) - 100) * 1000
        with pytest.raises(ImageError, match=cause):
            decode(saved(Image.fromarray(values), "TIFF"))


def test_a_format_that_this_pillow_cannot_read_is_named() -> None:
    webp = base64.b64decode("UklGRhoAAABXRUJQVlA4TA0AAAAvAAAAEAcQERGIiP4HAA==")
    avif = b"\0\0\0\x20ftypavif" + bytes(40)
    for feature, data in (("webp", webp), ("avif", avif)):
        if features.check(feature):
            continue
        with pytest.raises(ImageError, match="this build of Pillow cannot read it"):
            decode(data)


def test_nothing_is_printed_and_no_global_state_changes(capfd: pytest.CaptureFixture[str]) -> None:
    before = (Image.MAX_IMAGE_PIXELS, list(logging.getLogger("PIL").handlers))
    image = Image.fromarray(picture())
    for data in (saved(image.convert("P"), "PNG", transparency=bytes(256)), b"II*\0" + bytes(60)):
        with contextlib.suppress(ImageError):
            decode(data)
    assert capfd.readouterr() == ("", "")
    assert (Image.MAX_IMAGE_PIXELS, logging.getLogger("PIL").handlers) == before
