"""Every kind of image file that ImageNet holds, and many that it should not."""

from __future__ import annotations

import base64
import contextlib
import io
import logging
import struct
import zlib

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, features

from imgprep.decode import Decoded, decode_image
from imgprep.decoded import turn_upright
from imgprep.errors import ImageError
from imgprep.jpegfile import exif_orientation
from imgprep.spec import ExifPolicy

# 32x24, libjpeg-turbo's jpegtran -arithmetic.
ARITHMETIC = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAYEBQYFBAYGBQYHBwYIChAKCgkJChQODwwQFxQYGBcUFhYaHSUfGhsj"
    "HBYWICwgIyYnKSopGR8tMC0oMCUoKSj/2wBDAQcHBwoIChMKChMoGhYaKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgo"
    "KCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCj/yQARCAAYACADASIAAhEBAxEB/8wACgAQEAUBEBEF/9oADAMBAAIR"
    "AxEAPwD/AMXQRyMuk+eil79ZLcWycPJtrp8cYlI0P4TxW/1GNT5u05g0+EQH8uqsjAD7M8h1zA3S+0KCzMC0tR/Y"
    "gvxX44Fkd/KM9xIxvKSQzhIWGglHQXD/2Q=="
)


def picture(height: int = 40, width: int = 60) -> NDArray[np.uint8]:
    rng = np.random.default_rng(height * 1000 + width)
    y, x = np.mgrid[0:height, 0:width]
    channels = [(x * 4 + y * 3 * k + 40 * k) % 256 for k in range(3)]
    noisy = np.stack(channels, axis=2) * 0.8 + rng.integers(0, 40, (height, width, 3))
    return noisy.astype(np.uint8)


def saved(image: Image.Image, format_name: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format_name, **options)
    return stream.getvalue()


def jpeg(**options: object) -> bytes:
    return saved(Image.fromarray(picture()), "JPEG", **options)


def decode(data: bytes, exif: ExifPolicy = "ignore", max_megapixels: int = 100) -> Decoded:
    decoded = decode_image(data, max_megapixels=max_megapixels, exif=exif)
    image_hwc = decoded.image_hwc
    assert image_hwc.dtype == np.uint8
    assert image_hwc.ndim == 3
    assert image_hwc.shape[2] == 3
    assert image_hwc.flags.c_contiguous
    return decoded


def by_pillow(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png16(samples: NDArray[np.uint16], colour_type: int) -> bytes:
    """A 16-bit PNG of (height, width, bands) samples, filter 0 on each row."""
    height, width, _ = samples.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def after_start(data: bytes, segment: bytes) -> bytes:
    return data[:2] + segment + data[2:]


def with_exif(data: bytes, orientation: int, order: str = ">") -> bytes:
    magic = b"MM\0*" if order == ">" else b"II*\0"
    entry = struct.pack(order + "IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    body = b"Exif\0\0" + magic + entry
    return after_start(data, b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body)


def adobe_patched(data: bytes, transform: int | None) -> bytes:
    """Another transform in the Adobe segment of a JPEG, or no such segment."""
    start = data.index(b"\xff\xee\x00\x0eAdobe")
    if transform is None:
        return data[:start] + data[start + 16 :]
    return data[: start + 15] + bytes([transform]) + data[start + 16 :]


# ---- JPEG that must be read ---------------------------------------------------------------


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
def test_four_colours_are_read_as_pillow_understands_adobe(
    transform: int | None, mode: str
) -> None:
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


def test_sampling_that_turbojpeg_does_not_know_goes_to_pillow() -> None:
    data = bytearray(jpeg(subsampling=0))
    frame = data.index(b"\xff\xc0")
    data[frame + 11] = 0x11
    data[frame + 14] = 0x21  # chroma sampled finer than luma
    with pytest.raises(ValueError, match="subsampling"):
        simplejpeg.decode_jpeg(bytes(data), "RGB")
    try:
        expected = by_pillow(bytes(data))
    except OSError:
        with pytest.raises(ImageError):
            decode(bytes(data))
    else:
        assert (decode(bytes(data)).image_hwc == expected).all()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_noted_and_turned_only_on_request(orientation: int, order: str) -> None:
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
    for magic in (b"", b"MM\0*\0\0\0\x08", b"II*\0\x08\0\0\0"):
        assert exif_orientation(magic + tail) in range(1, 9)


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
        # In place of the JFIF segment, which would overrule it.
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
        (b"\0" * 100, "known format"),
        (b"Not Found\n" * 9, "text"),
        (b"<html>" * 20, "text"),
        (b"\xff\xd8", "truncated JPEG"),
        (b"\xff\xd8\xff\xd9", "truncated JPEG"),
        (b"\xff\xd8\xff\xd9\0\0\0", "before any image data"),
        (b"\xff\xd8" + b"\0" * 500, "truncated JPEG"),
        (b"\x89PNG\r\n\x1a\n", "truncated PNG"),
        (b"GIF89a", "damaged GIF"),
        (b"%PDF-1.4 " + bytes(range(200)), "known format"),
        (b"8BPS\0\1" + bytes(100), "known format"),
    ],
)
def test_what_is_no_image_is_named(data: bytes, cause: str) -> None:
    with pytest.raises(ImageError, match=cause):
        decode(data)


# ---- bombs --------------------------------------------------------------------------------


def test_a_declared_size_above_the_limit_is_refused_before_decoding() -> None:
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


def test_an_empty_frame_is_refused() -> None:
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
def test_palette_transparency_is_dropped_in_silence(transparency: int | bytes) -> None:
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


def test_the_first_frame_of_a_gif_counts() -> None:
    frames = [Image.fromarray(picture()).convert("P"), Image.new("P", (60, 40))]
    data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    expected = np.asarray(frames[0].convert("RGB"))
    assert (decode(data).image_hwc == expected).all()


def test_pixels_without_a_defined_range_are_refused() -> None:
    for dtype, cause in ((np.float32, "floating-point"), (np.int32, "32-bit integer")):
        values = (picture()[:, :, 0].astype(dtype) - 100) * 1000
        with pytest.raises(ImageError, match=cause):
            decode(saved(Image.fromarray(values), "TIFF"))


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


def test_a_format_that_this_pillow_was_built_without_is_named() -> None:
    webp = base64.b64decode("UklGRhoAAABXRUJQVlA4TA0AAAAvAAAAEAcQERGIiP4HAA==")
    avif = b"\0\0\0\x20ftypavif" + bytes(40)
    for feature, data in (("webp", webp), ("avif", avif)):
        if features.check(feature):
            continue
        with pytest.raises(ImageError, match="this build of Pillow cannot read it"):
            decode(data)


def test_nothing_is_printed_or_left_changed(capfd: pytest.CaptureFixture[str]) -> None:
    before = (Image.MAX_IMAGE_PIXELS, list(logging.getLogger("PIL").handlers))
    image = Image.fromarray(picture())
    for data in (saved(image.convert("P"), "PNG", transparency=bytes(256)), b"II*\0" + bytes(60)):
        with contextlib.suppress(ImageError):
            decode(data)
    assert capfd.readouterr() == ("", "")
    assert (Image.MAX_IMAGE_PIXELS, logging.getLogger("PIL").handlers) == before


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


def repaired_png(data: bytes) -> bytes:
    """The chunk checksums made right again, so that damage gets past them."""
    position, out = 8, bytearray(data)
    while position + 12 <= len(out):
        (length,) = struct.unpack_from(">I", out, position)
        end = position + 8 + length
        if end + 4 > len(out):
            break
        struct.pack_into(">I", out, end, zlib.crc32(out[position + 4 : end]))
        position = end + 4
    return bytes(out)


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
