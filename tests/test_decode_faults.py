"""Damaged, truncated, huge and hostile files give an image or an ImageError, nothing else."""

from __future__ import annotations

import contextlib
import struct
import zlib
from random import Random

import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from imgprep.errors import ImageError
from imgprep.image import jpegregion
from imgprep.image.jpegfile import read_header
from imgprep.spec import ExifPolicy
from tests.decoding import whole_decoding
from tests.imagefiles import (
    ARITHMETIC,
    ODD_SAMPLING,
    chunk,
    decode,
    jpeg,
    picture,
    saved,
    with_exif,
)
from tests.jpegparts import joined, segment, three_scans
from tests.mutations import repaired_png

# ---- harmless and harmful faults of a JPEG -------------------------------------------------


def test_harmless_faults_are_noted_and_change_no_pixel() -> None:
    clean = jpeg()
    expected = decode(clean).image_hwc.copy()
    start = clean.index(b"JFIF\0")
    scan = clean.index(b"\xff\xda")
    faulty = {
        "JFIF revision": clean[: start + 5] + b"\x07\x09" + clean[start + 7 :],
        "36 extraneous bytes before marker 0xda": clean[:scan] + b"junk" * 9 + clean[scan:],
        "Invalid SOS": clean[: scan + 11] + b"\x01\x3f\x00" + clean[scan + 14 :],
        # It replaces the JFIF segment, which would override it.
        "Adobe color": clean[:2] + b"\xff\xee\x00\x0eAdobe\x00\x64\0\0\0\0\x09" + clean[20:],
    }
    for cause, data in faulty.items():
        decoded = decode(data)
        assert (decoded.image_hwc == expected).all(), cause
        assert cause in " ".join(decoded.notes.warnings)


def stray_bytes_after(data: bytes, *, counted: int) -> bytes:
    """The file with so many bytes after its last scan that libjpeg counts ``counted`` of them.

    It does not count those that it has already loaded to look ahead, up to 8 bytes.
    """
    for length in range(1, counted + 9):
        longer = data[:-2] + b"s" * length + data[-2:]
        repaired = longer.replace(b"JFIF\0\x07\x09", b"JFIF\0\x01\x01")
        try:
            simplejpeg.decode_jpeg(repaired, strict=True)
        except ValueError as exc:
            if f": {counted} extraneous bytes before marker 0xd9" in str(exc):
                return longer
    raise AssertionError


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True}])
def test_one_stray_byte_after_the_image_data_is_harmless(options: dict[str, object]) -> None:
    data = saved(Image.fromarray(picture()), "JPEG", **options)
    expected = decode(data).image_hwc.copy()
    decoded = decode(stray_bytes_after(data, counted=1))
    assert (decoded.image_hwc == expected).all()
    assert decoded.notes.warnings == ("Corrupt JPEG data: 1 extraneous bytes before marker 0xd9",)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True}])
@pytest.mark.parametrize("counted", [2, 3, 42, 13_094])
def test_more_stray_bytes_mean_that_the_image_data_is_damaged(
    options: dict[str, object], counted: int
) -> None:
    data = saved(Image.fromarray(picture()), "JPEG", **options)
    with pytest.raises(ImageError, match=f"{counted} extraneous bytes before marker 0xd9"):
        decode(stray_bytes_after(data, counted=counted))


@pytest.mark.parametrize("options", [{}, {"optimize": True}, {"progressive": True}])
def test_overwritten_image_data_that_the_decoder_notices_is_bad(
    options: dict[str, object],
) -> None:
    data = saved(Image.fromarray(picture(300, 400)), "JPEG", quality=90, **options)
    start = data.rindex(b"\xff\xda") + 14
    noticed = 0
    for seed in range(20):
        random = Random(seed)
        at = random.randrange(start, len(data) - 514)
        noise = bytes(random.randrange(255) for _ in range(512))
        damaged = data[:at] + noise + data[at + 512 :]
        try:
            simplejpeg.decode_jpeg(damaged, strict=True)
        except ValueError:
            noticed += 1
            with pytest.raises(ImageError, match="damaged JPEG"):
                decode(damaged)
    assert noticed


@pytest.mark.skipif(jpegregion._jpeg is None, reason="the C extension is not built")
@pytest.mark.parametrize("invalid", [False, True])
def test_a_run_past_the_end_of_a_block_is_bad_although_libjpeg_accepts_it(invalid: bool) -> None:
    header = b"\xff\xd8" + segment(0xDB, b"\0" + b"\1" * 64)
    header += segment(0xC0, b"\x08\0\x08\0\x08\1\1\x11\0")
    header += segment(0xC4, b"\0\1" + bytes(15) + b"\0")  # DC: the code 0 is a difference of 0
    # AC: the code 0 is a run of 16 zeros, the code 10 is the end of the block.
    header += segment(0xC4, b"\x10\1\1" + bytes(14) + b"\xf0\0")
    scan = segment(0xDA, b"\1\1\0\0\x3f\0") + (b"\x07" if invalid else b"\x17")
    data = joined(header, [scan])  # one block: four runs of 16 zeros, or two and its end
    assert (simplejpeg.decode_jpeg(data, strict=True) == 128).all()
    for decoding in (contextlib.nullcontext(), whole_decoding()):
        with decoding:
            if invalid:
                with pytest.raises(
                    ImageError, match="ends early or has an invalid Huffman code or run"
                ):
                    decode(data)
            else:
                assert (decode(data).image_hwc == 128).all()


@pytest.mark.skipif(jpegregion._jpeg is None, reason="the C extension is not built")
def test_damage_is_found_in_a_file_that_only_pillow_can_decode() -> None:
    scan = ODD_SAMPLING.index(b"\xff\xda") + 14
    for damaged, cause in (
        (ODD_SAMPLING[:-8] + b"\xff\xd9", "the image data ends early"),
        (ODD_SAMPLING[:-2] + b"s" * 99 + b"\xff\xd9", "unused bytes after the image data"),
        (ODD_SAMPLING[:scan] + b"\xfe" * 20 + ODD_SAMPLING[scan + 20 :], "invalid Huffman code"),
    ):
        with pytest.raises(ImageError, match=f"damaged JPEG: .*{cause}"):
            decode(damaged)


def test_fill_bytes_before_restart_markers_are_legal() -> None:
    data = saved(Image.fromarray(picture()), "JPEG", restart_marker_blocks=1)
    expected = decode(data).image_hwc.copy()
    for number in range(8):
        marker = bytes([0xFF, 0xD0 + number])
        assert marker in data
        data = data.replace(marker, b"\xff\xff" + marker)
    assert jpegregion._jpeg is None or jpegregion.fault_in(data, read_header(data)) == ""
    for decoding in (contextlib.nullcontext(), whole_decoding()):
        with decoding:
            decoded = decode(data)
            assert (decoded.image_hwc == expected).all()
            assert decoded.notes.warnings == ()


@pytest.mark.skipif(jpegregion._jpeg is None, reason="the C extension is not built")
def test_unused_bytes_before_a_restart_marker_are_damage() -> None:
    data = saved(Image.fromarray(picture()), "JPEG", restart_marker_blocks=2)
    marker = data.index(b"\xff\xd1")
    with pytest.raises(ImageError, match="damaged JPEG"):
        decode(data[:marker] + b"s" * 20 + data[marker:])


def test_two_harmless_faults_at_once() -> None:
    clean = stray_bytes_after(jpeg(), counted=1)
    start = clean.index(b"JFIF\0")
    data = clean[: start + 5] + b"\x07\x09" + clean[start + 7 :]
    assert len(decode(data).notes.warnings) == 2


def test_a_harmless_fault_does_not_hide_a_harmful_one() -> None:
    clean = jpeg()
    start = clean.index(b"JFIF\0")
    odd = clean[: start + 5] + b"\x07\x09" + clean[start + 7 :]
    assert decode(odd).notes.warnings
    with pytest.raises(ImageError, match="ends inside the image data"):
        decode(odd[:-20])
    with pytest.raises(ImageError, match="premature end"):
        decode(odd[:-20] + odd[-2:])
    with pytest.raises(ImageError, match="2 extraneous bytes before marker 0xd9"):
        decode(stray_bytes_after(odd, counted=2))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_truncated_jpeg_is_an_error_wherever_it_ends(mode: str, progressive: bool) -> None:
    image = Image.fromarray(picture()).convert(mode)
    data = saved(image, "JPEG", progressive=progressive)
    for end in (*range(2, len(data) - 2, 37), len(data) - 3):
        with pytest.raises(ImageError, match="truncated"):
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
        (b"<html>" * 20, "an HTML page"),
        (b"\xff\xd8", "truncated JPEG"),
        (b"\xff\xd8\xff\xd9", "before any image data"),
        (b"\xff\xd8\xff\xd9\0\0\0", "before any image data"),
        (b"\xff\xd8" + b"\0" * 500, "truncated JPEG"),
        (b"\xff\xd8\xff\xda", "truncated JPEG: the file ends inside its header"),
        (b"\x89PNG\r\n\x1a\n", "truncated PNG"),
        (b"GIF89a", "damaged GIF"),
        (b"%PDF-1.4 " + bytes(range(200)), "not an image: the file is a PDF file"),
        (b"\x1f\x8b\x08" + bytes(100), "not an image: the file is a gzip file"),
        (bytes(257) + b"ustar" + bytes(250), "not an image: the file is a tar archive"),
        (b"8BPS\0\1" + bytes(100), r"unsupported image format: Photoshop \(PSD\)"),
        (b"\0\0\1\0\1\0" + bytes(100), "unsupported image format: ICO"),
        (b"\0\0\0\x18ftypheic" + bytes(100), "unsupported image format: HEIC"),
        (b"\0\0\0\x18ftypmif1" + bytes(100), "unsupported image format: HEIC"),
        (b"\0\0\0\x18ftypisom" + bytes(100), "a video or another ISO media file"),
        (b"\xff\x0a" + bytes(100), "unsupported image format: JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(9), "unsupported image format: JPEG XL"),
    ],
)
def test_a_file_that_is_not_an_image_is_named(data: bytes, cause: str) -> None:
    with pytest.raises(ImageError, match=cause):
        decode(data)


def frame_patched(data: bytes, marker: int, precision: int = 8) -> bytes:
    """The baseline JPEG with another frame marker and another number of bits per sample."""
    frame = data.index(b"\xff\xc0")
    return (
        data[: frame + 1]
        + bytes([marker])
        + data[frame + 2 : frame + 4]
        + bytes([precision])
        + data[frame + 5 :]
    )


@pytest.mark.parametrize(
    ("marker", "precision", "kind"),
    [
        (0xC0, 12, "12 bits per sample"),
        (0xC1, 12, "12 bits per sample"),
        (0xC1, 16, "16 bits per sample"),
        (0xC3, 8, "lossless compression"),
        (0xCB, 8, "lossless compression"),
        (0xC5, 8, "hierarchical compression"),
        (0xCE, 8, "hierarchical compression"),
    ],
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_an_unsupported_kind_of_jpeg_is_not_called_damaged(
    mode: str, marker: int, precision: int, kind: str
) -> None:
    data = saved(Image.fromarray(picture()).convert(mode), "JPEG")
    with pytest.raises(ImageError, match=f"^unsupported JPEG: {kind}$"):
        decode(frame_patched(data, marker, precision))


def test_a_jpeg_of_two_components_is_unsupported() -> None:
    header, scans = three_scans(picture())
    frame = header.index(b"\xff\xc0")
    components = segment(
        0xC0, header[frame + 4 : frame + 9] + b"\2" + header[frame + 10 : frame + 16]
    )
    data = joined(header[:frame] + components + header[frame + 19 :], scans[:2])
    with pytest.raises(ImageError, match=r"^unsupported JPEG: 2 colour components$"):
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
