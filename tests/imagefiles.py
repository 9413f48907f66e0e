"""Make image files of every kind in memory."""

from __future__ import annotations

import base64
import io
import struct
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imgprep.image.decode import Decoded, decode_image
from imgprep.spec import ExifPolicy

# 32x24, made by libjpeg-turbo's jpegtran -arithmetic.
ARITHMETIC = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAYEBQYFBAYGBQYHBwYIChAKCgkJChQODwwQFxQYGBcUFhYaHSUfGhsj"
    "HBYWICwgIyYnKSopGR8tMC0oMCUoKSj/2wBDAQcHBwoIChMKChMoGhYaKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgo"
    "KCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCj/yQARCAAYACADASIAAhEBAxEB/8wACgAQEAUBEBEF/9oADAMBAAIR"
    "AxEAPwD/AMXQRyMuk+eil79ZLcWycPJtrp8cYlI0P4TxW/1GNT5u05g0+EQH8uqsjAD7M8h1zA3S+0KCzMC0tR/Y"
    "gvxX44Fkd/KM9xIxvKSQzhIWGglHQXD/2Q=="
)


# 16x16, made by cjpeg -sample 1x2,2x1,1x1.
ODD_SAMPLING = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAA0JCgsKCA0LCgsODg0PEyAVExISEyccHhcgLikxMC4pLSwzOko+MzZGNywt"
    "QFdBRkxOUlNSMj5aYVpQYEpRUk//2wBDAQ4ODhMREyYVFSZPNS01T09PT09PT09PT09PT09PT09PT09PT09PT09PT09P"
    "T09PT09PT09PT09PT09PT09PT0//wAARCAAQABADARIAAiEBAxEB/8QAFQABAQAAAAAAAAAAAAAAAAAABQb/xAAXEAEA"
    "AwAAAAAAAAAAAAAAAAAFACIy/8QAFQEBAQAAAAAAAAAAAAAAAAAAAwL/xAAZEQACAwEAAAAAAAAAAAAAAAAAAgMFITH/"
    "2gAMAwEAAhEDEQA/AASDs1leQdmsFZRllLrLLmn/2Q=="
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
    """A 16-bit PNG of (height, width, bands) samples, with filter 0 in every row."""
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
    """The JPEG with another transform in its Adobe segment, or without that segment."""
    start = data.index(b"\xff\xee\x00\x0eAdobe")
    if transform is None:
        return data[:start] + data[start + 16 :]
    return data[: start + 15] + bytes([transform]) + data[start + 16 :]
