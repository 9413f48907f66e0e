"""Decode image files with Pillow: a fixed list of formats, recognised by their first bytes.

The plugin of the recognised format is called directly: ``PIL.Image.open`` would try other plugins,
and its size limit is a global variable of the whole process.
"""

from __future__ import annotations

import importlib
import io
import logging
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imgprep.errors import ImageError
from imgprep.image.decoded import Decoded, Notes, check_megapixels, turn_back, turn_upright
from imgprep.image.exif import ORIENTATION_TAG, exif_orientation, valid_orientation
from imgprep.spec import ExifPolicy

# (format, Pillow plugin, signatures): raster formats with a fixed signature that Pillow reads
# without an external program.
_FORMATS: tuple[tuple[str, str, tuple[bytes, ...]], ...] = (
    ("PNG", "PngImagePlugin", (b"\x89PNG\r\n\x1a\n",)),
    ("GIF", "GifImagePlugin", (b"GIF87a", b"GIF89a")),
    ("BMP", "BmpImagePlugin", (b"BM",)),
    ("TIFF", "TiffImagePlugin", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    ("PPM", "PpmImagePlugin", (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6")),
    ("JPEG2000", "Jpeg2KImagePlugin", (b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  \r\n\x87\n")),
    ("WEBP", "WebPImagePlugin", ()),
    ("AVIF", "AvifImagePlugin", ()),
    ("JPEG", "JpegImagePlugin", (b"\xff\xd8",)),
)
_PLUGINS = {name: plugin for name, plugin, _ in _FORMATS}


@dataclass(frozen=True, slots=True)
class PillowImage:
    """Pixels as stored (not turned upright), and what Pillow reported about the file."""

    image_hwc: NDArray[np.uint8]
    mode: str
    exif_orientation: int
    warnings: tuple[str, ...]


def decode_other(data: bytes, *, max_megapixels: int, exif: ExifPolicy) -> Decoded:
    """``decode_image`` for every format except JPEG."""
    format_name = sniff(data)
    if format_name == "PNG":
        _check_png(data)
    opened = open_pixels(data, format_name, max_megapixels=max_megapixels)
    image_hwc = opened.image_hwc
    if exif == "apply":
        image_hwc = turn_upright(image_hwc, opened.exif_orientation)
    notes = Notes(format_name, opened.mode, opened.exif_orientation, opened.warnings)
    return Decoded(image_hwc, notes)


def sniff(data: bytes) -> str:
    """The format name by the first bytes; ImageError if the format is not known."""
    if not data:
        raise ImageError("empty file: 0 bytes")
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:12] in (b"ftypavif", b"ftypavis"):
        return "AVIF"
    for name, _, signatures in _FORMATS:
        if data.startswith(signatures):
            return name
    start = data[:64]
    if all(32 <= byte < 127 or byte in b"\t\n\r" for byte in start):
        raise ImageError("not an image: the file is text")
    raise ImageError(f"not a known image format: the file starts with {start[:8].hex(' ')}")


def open_pixels(data: bytes, format_name: str, *, max_megapixels: int | None) -> PillowImage:
    """Decode the first frame with the plugin of ``format_name``; ImageError for any failure.

    The declared size is checked against ``max_megapixels`` before decoding; None means that the
    caller has checked it.
    """
    messages: list[str] = []
    with _collect_warnings(messages):
        try:
            return _open(data, format_name, max_megapixels, messages)
        except ImageError:
            raise
        except Exception as exc:
            # Pillow's plugins let any exception of their parsers through, MemoryError included.
            raise ImageError(f"damaged {format_name}: {str(exc) or type(exc).__name__}") from exc


def _open(
    data: bytes, format_name: str, max_megapixels: int | None, messages: list[str]
) -> PillowImage:
    try:
        importlib.import_module(f"PIL.{_PLUGINS[format_name]}")
        factory: Any
        accept: Any
        factory, accept = Image.OPEN[format_name]
    except (ImportError, KeyError) as exc:
        raise ImageError(f"{format_name}: this build of Pillow cannot read it") from exc
    if accept is not None and isinstance(accept(data[:16]), str):  # the reason why it cannot
        raise ImageError(f"{format_name}: this build of Pillow cannot read it")
    image = factory(io.BytesIO(data), "")
    width, height = image.size
    if max_megapixels is not None:
        check_megapixels(height, width, max_megapixels)
    mode = image.mode
    orientation = _orientation(image)
    image.load()
    image_hwc = _to_rgb(image)
    if format_name == "TIFF" and orientation != 1 and ORIENTATION_TAG not in image.tag_v2:
        image_hwc = turn_back(image_hwc, orientation)  # the plugin turned it already
    return PillowImage(image_hwc, mode, orientation, tuple(dict.fromkeys(messages)))


def _orientation(image: Image.Image) -> int:
    block = image.info.get("exif")
    if isinstance(block, bytes):
        return exif_orientation(block)
    # Pillow finds the orientation in other places too: the directory of a TIFF, and XMP.
    return valid_orientation(image.getexif().get(ORIENTATION_TAG))


def _to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode == "F":
        raise ImageError("unsupported: floating-point pixels have no defined range")
    if image.mode == "I" or image.mode.startswith("I;16"):
        # convert("RGB") would clip at 255. Of 16-bit colour it keeps the high byte; so does this.
        grey = np.asarray(image)
        if grey.min() < 0 or grey.max() > 65535:
            raise ImageError("unsupported: 32-bit integer pixels have no defined range")
        return np.repeat((grey >> 8).astype(np.uint8)[:, :, None], 3, axis=2)
    return np.ascontiguousarray(image.convert("RGB"))


def _check_png(data: bytes) -> None:
    """ImageError if a PNG is truncated or a critical chunk is damaged; Pillow may not notice."""
    position = 8
    while position + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        kind = data[position + 4 : position + 8]
        end = position + 12 + length
        if end > len(data):
            break
        critical = kind[:1].isupper()
        (stated,) = struct.unpack_from(">I", data, end - 4)
        if critical and zlib.crc32(memoryview(data)[position + 4 : end - 4]) != stated:
            raise ImageError(f"damaged PNG: checksum of chunk {kind.decode('latin-1')} is wrong")
        if kind == b"IEND":
            return
        position = end
    raise ImageError("truncated PNG: it ends before its IEND chunk")


class _LogCollector(logging.Handler):
    """Appends the text of each log record of level WARNING or above to a list."""

    def __init__(self, messages: list[str]) -> None:
        super().__init__(logging.WARNING)
        self.messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@contextmanager
def _collect_warnings(messages: list[str]) -> Iterator[None]:
    """Append Pillow's warnings and log messages to ``messages`` instead of printing them."""
    logger, handler = logging.getLogger("PIL"), _LogCollector(messages)

    def note(message: Warning | str, *_: object, **__: object) -> None:
        messages.append(str(message))

    logger.addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = note
            yield
    finally:
        logger.removeHandler(handler)
