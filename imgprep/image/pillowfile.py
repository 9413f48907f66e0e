"""Decode image files with Pillow: a fixed list of formats, checked for missing pixels.

The plugin of the recognised format is called directly: ``PIL.Image.open`` would try other plugins,
and its size limit is a global variable of the whole process.
"""

from __future__ import annotations

import importlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features

from imgprep.errors import ImageError
from imgprep.image.decoded import Decoded, Notes, check_megapixels, turn_back, turn_upright
from imgprep.image.exif import ORIENTATION_TAG, exif_orientation, valid_orientation
from imgprep.image.formats import sniff
from imgprep.image.memory import DecoderMemoryError, memory_errors
from imgprep.image.pngfile import reduced_png
from imgprep.image.tifffile import check_compression, check_parts, grey_levels, silence_libtiff
from imgprep.spec import ExifPolicy

_PLUGINS = {
    "PNG": "PngImagePlugin",
    "GIF": "GifImagePlugin",
    "BMP": "BmpImagePlugin",
    "TIFF": "TiffImagePlugin",
    "PPM": "PpmImagePlugin",
    "JPEG2000": "Jpeg2KImagePlugin",
    "WEBP": "WebPImagePlugin",
    "AVIF": "AvifImagePlugin",
    "JPEG": "JpegImagePlugin",
}
# Words of Pillow about valid files that it cannot decode.
_UNSUPPORTED = ("unsupported", "not yet supported", "unknown pixel mode", "unknown data org")
_HOW_TO_READ = {
    "WEBP": " (apt-get install libwebp-dev, then tools/setup)",
    "JPEG2000": " (apt-get install libopenjp2-7-dev, then reinstall pillow-simd)",
    "AVIF": " (apt-get install libavif-dev, then reinstall pillow-simd)",
}


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
    faults: tuple[str, ...] = ()
    if format_name == "PNG":
        data, faults = reduced_png(data, max_megapixels=max_megapixels)
    opened = open_pixels(data, format_name, max_megapixels=max_megapixels)
    image_hwc = opened.image_hwc
    if exif == "apply":
        image_hwc = turn_upright(image_hwc, opened.exif_orientation)
    warnings_found = (*faults, *opened.warnings)
    notes = Notes(format_name, opened.mode, opened.exif_orientation, warnings_found)
    return Decoded(image_hwc, notes)


def open_pixels(data: bytes, format_name: str, *, max_megapixels: int | None) -> PillowImage:
    """Decode the first frame with the plugin of ``format_name``; ImageError for any failure.

    The declared size is checked against ``max_megapixels`` before decoding; None means that the
    caller has checked it.
    """
    messages: list[str] = []
    with _collect_warnings(messages):
        try:
            with memory_errors():
                return _open(data, format_name, max_megapixels, messages)
        except (ImageError, DecoderMemoryError):
            raise
        except Exception as exc:
            # Pillow's plugins let any exception of their parsers through, MemoryError included.
            raise ImageError(_cause(format_name, exc)) from exc


def _cause(format_name: str, exc: Exception) -> str:
    """The cause of an exception of Pillow: an unsupported kind of file, or damage."""
    message = str(exc) or type(exc).__name__
    if format_name == "TIFF" and message.isdigit() and isinstance(exc.__cause__, KeyError):
        return f"unsupported TIFF: compression {message}"
    if any(words in message.lower() for words in _UNSUPPORTED):
        return f"unsupported {format_name}: {message}"
    if message.startswith("decoder error"):
        message = "the compressed data cannot be decoded"
    return f"damaged {format_name}: {message}"


def _open(
    data: bytes, format_name: str, max_megapixels: int | None, messages: list[str]
) -> PillowImage:
    try:
        importlib.import_module(f"PIL.{_PLUGINS[format_name]}")
        factory: Any
        accept: Any
        factory, accept = Image.OPEN[format_name]
        refusal = accept(data[:16]) if accept is not None else None
    except (ImportError, KeyError):
        refusal = "no plugin"
    if isinstance(refusal, str):  # the reason why it cannot
        raise ImageError(
            f"unsupported {format_name}: this build of Pillow cannot read it"
            f"{_HOW_TO_READ.get(format_name, '')}"
        )
    image = factory(io.BytesIO(data), "")
    width, height = image.size
    if max_megapixels is not None:
        check_megapixels(height, width, max_megapixels)
    mode = image.mode
    orientation = _orientation(image)
    tags: Mapping[int, Any] = image.tag_v2 if format_name == "TIFF" else {}
    if format_name == "TIFF":
        check_compression(tags, has_libtiff=bool(features.check("libtiff")))
        check_parts(tags, data, max_megapixels=max_megapixels or 0)
        silence_libtiff()
    with memory_errors(height * width):
        image.load()
        image_hwc = _to_rgb(image, tags)
    if format_name == "TIFF" and orientation != 1 and ORIENTATION_TAG not in image.tag_v2:
        image_hwc = turn_back(image_hwc, orientation)  # the plugin turned it already
    return PillowImage(image_hwc, mode, orientation, tuple(dict.fromkeys(messages)))


def _orientation(image: Image.Image) -> int:
    block = image.info.get("exif")
    if isinstance(block, bytes):
        return exif_orientation(block)
    # Pillow finds the orientation in other places too: the directory of a TIFF, and XMP.
    return valid_orientation(image.getexif().get(ORIENTATION_TAG))


def _to_rgb(image: Image.Image, tiff_tags: Mapping[int, Any]) -> NDArray[np.uint8]:
    if image.mode == "F":
        raise ImageError("unsupported: floating-point pixels have no defined range")
    if image.mode == "I" or image.mode.startswith("I;16"):
        # convert("RGB") would clip at 255. Of 16-bit colour it keeps the high byte; so does this.
        grey = np.asarray(image)
        if grey.min() < 0 or grey.max() > 65535:
            raise ImageError("unsupported: 32-bit integer pixels have no defined range")
        if tiff_tags:
            grey = grey_levels(grey, tiff_tags)
        return np.repeat((grey >> 8).astype(np.uint8)[:, :, None], 3, axis=2)
    return np.ascontiguousarray(image.convert("RGB"))


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
