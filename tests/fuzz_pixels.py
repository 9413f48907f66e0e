"""Fuzz targets: image files, and the C code that works on pixels."""

from __future__ import annotations

import itertools
import struct
from functools import partial

import numpy as np
import simplejpeg
from PIL import Image, features

from imgprep.errors import ImageError
from imgprep.image import jpegregion, kernel
from imgprep.image.decode import decode_image
from imgprep.image.geometry import Crop, Placement, Region
from imgprep.image.jpegfile import read_header
from imgprep.image.resize import needed_region
from imgprep.spec import SHAPES, ExifPolicy, ImageSpec
from tests.decoding import check_outcome
from tests.fuzzing import cause, target
from tests.imagefiles import ARITHMETIC, ODD_SAMPLING, chunk, picture, png16, saved, with_exif
from tests.jpegparts import joined, many_scans, three_scans, without_height
from tests.mutations import repaired_png

PIXELS_MAX = 1_000_000
JPEG_TOKENS = (
    *(bytes((0xFF, marker)) for marker in range(0xC0, 0x100)),
    b"\xff\x00", b"\xff\xc0\x00\x11\x08", b"JFIF\0", b"Exif\0\0II*\0", b"ICC_PROFILE\0", b"Adobe",
)  # fmt: skip
IMAGE_TOKENS = (
    b"IHDR", b"PLTE", b"tRNS", b"acTL", b"fcTL", b"IDAT", b"zTXt", b"iCCP", b"eXIf", b"GIF89a",
    b"\x21\xf9\x04", b"NETSCAPE2.0", b"II*\0", b"MM\0*", b"P3 ", b"P6 9 9 255\n", b"BM",
)  # fmt: skip


def _jpegs() -> list[bytes]:
    small, wide = Image.fromarray(picture(24, 24)), Image.fromarray(picture(40, 90))
    return [
        *(saved(small, "JPEG", subsampling=n, quality=80) for n in range(3)),
        saved(wide, "JPEG", restart_marker_blocks=2, quality=51, optimize=True),
        saved(wide.convert("L"), "JPEG"),
        bytes(simplejpeg.encode_jpeg(picture(24, 24), 80, colorsubsampling="440")),
        saved(small, "JPEG", progressive=True),
        saved(small.convert("CMYK"), "JPEG"),
        with_exif(saved(small, "JPEG"), 6),
        ARITHMETIC,
        ODD_SAMPLING,
        joined(*three_scans(picture(24, 24))),
        many_scans(24, [(1, 5), (6, 63)], bits=3),
        without_height(saved(small, "JPEG")),
        saved(small, "JPEG", progressive=True)[:-2],
    ]


@target("jpeg", _jpegs, tokens=JPEG_TOKENS, needs=("imgprep.image._jpeg",))
def jpeg(data: bytes) -> None:
    """The region decoder gives the pixels of a whole decode, or declines the file."""
    data = b"\xff\xd8" + data[2:]
    try:
        header = read_header(data)
    except ImageError:
        return
    height, width = header.height_px, header.width_px
    if not 0 < height * width <= PIXELS_MAX:
        return
    if jpegregion.is_plain(header):
        region = Region(height // 3, -(-height // 2), width // 4, -(-width // 2))
        for each in (region, Region(0, height, 0, width)):
            _check_region(data, each)
    check_outcome(data, ImageSpec(size_px=8, max_megapixels=1))


def _check_region(data: bytes, region: Region) -> None:
    header = read_header(data)
    buffer = np.full(header.height_px * header.width_px * 3, 77, np.uint8)
    result = jpegregion.decode_region(data, header, region, buffer)
    if result is None:
        return
    pixels, placement = result
    whole = simplejpeg.decode_jpeg(data, "RGB", strict=True)
    left, right = region.left - placement.left, region.right - placement.left
    expected = whole[region.top : region.bottom, region.left : region.right]
    assert (pixels[:, left:right] == expected).all()


TIFF_COMPRESSIONS = (
    ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg") if features.check("libtiff") else ()
)


def _images() -> list[bytes]:
    small = Image.fromarray(picture(16, 16))
    grey = small.convert("L")
    samples = picture(6, 5).astype(np.uint16)[:, :, :1] * 200
    text = chunk(b"tEXt", b"Comment\0hello")
    png = saved(small, "PNG")
    frames = [small.convert("P"), Image.new("P", (16, 16), 3)]
    return [
        png,
        png[:33] + text + png[33:],
        saved(small.convert("P"), "PNG", transparency=3),
        png16(samples, 0),
        saved(small.convert("1"), "PNG"),
        saved(small.convert("P"), "GIF"),
        saved(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        saved(small, "BMP"),
        saved(small.convert("P"), "BMP"),
        saved(small, "TIFF"),
        saved(grey, "TIFF"),
        *(saved(small, "TIFF", compression=each) for each in TIFF_COMPRESSIONS),
        *([saved(small, "WEBP")] if features.check("webp") else []),
        saved(small, "PPM"),
        saved(grey, "PPM"),
        b"P3\n3 2\n255\n" + b"255 0 9 " * 6,
        b"P1\n4 2\n1 0 1 1\n0 0 1 0\n",
    ]


@target("image", _images, tokens=IMAGE_TOKENS)
def image(data: bytes) -> None:
    """A file of a format that Pillow reads is an image within the limit, or an ImageError."""
    policies: tuple[ExifPolicy, ...] = ("ignore", "apply")
    for exif, shape in itertools.product(policies, SHAPES):
        region_of = partial(needed_region, size_px=8, filter_name="area", shape=shape)
        content = repaired_png(data) if data[:4] == b"\x89PNG" and exif == "apply" else data
        try:
            found = decode_image(content, max_megapixels=1, exif=exif, region_of=region_of)
        except ImageError as exc:
            cause(exc)
            continue
        height, width, channels = found.image_hwc.shape
        assert height * width <= PIXELS_MAX
        assert channels == 3


def _kernel_seeds() -> list[bytes]:
    jobs = [
        (40, 60, 40, 60, 0, 0, 8, 12, 0, 2, 8),
        (33, 77, 50, 90, 9, 6, 16, 29, 3, 7, 9),
        (90, 90, 90, 90, 0, 0, 2, 2, 0, 0, 2),
        (5, 4, 5, 4, 0, 0, 5, 4, 0, 0, 4),
    ]
    return [struct.pack("<11h", *job) + picture(9, 9).tobytes() for job in jobs]


@target("kernel", _kernel_seeds, needs=("imgprep.image._kernel",))
def shrink(data: bytes) -> None:
    """With any arguments, shrinking and moments raise ValueError or agree with the numpy reference;
    plain C and AVX2 give the same bytes."""
    values = struct.unpack_from("<11h", data.ljust(22, b"\0"))
    height, width = (value % 97 + 1 for value in values[:2])
    full = (values[2], values[3])
    placement = Placement(*full, values[4], values[5])
    crop = Crop(values[8], values[9], values[10] % 40 + 1, values[10] // 40 % 40 + 1)
    pixels = np.resize(np.frombuffer(data[22:] or b"\x07", np.uint8), (height, width, 3))
    found = {}
    for backend in kernel.available_backends():
        try:
            result = kernel.area_shrink(
                pixels, (values[6], values[7]), crop, placement=placement, backend=backend
            )
        except ValueError:
            continue
        except ZeroDivisionError:  # from geometry: impossible for the size of a real image
            assert backend == "numpy"
            continue
        sums = np.zeros(result.shape, np.uint32)
        found[backend] = (result, kernel.add_moments(result, sums, backend=backend), sums)
    compiled = [found[name] for name in ("c-avx2", "c") if name in found]
    assert len(compiled) in (0, len(kernel.available_backends()) - 1)
    for result, moments, sums in compiled[1:]:
        assert (result == compiled[0][0]).all()
        assert moments == compiled[0][1]
        assert (sums == compiled[0][2]).all()
    if compiled:
        assert np.abs(compiled[0][0].astype(int) - found["numpy"][0].astype(int)).max() <= 1
