"""Record encodings: how the pixels of a record become the bytes of its image file, and back.

To add one, write its class here, add it to ``_ENCODINGS`` below and its name to
``imgprep.spec.Encoding``. For training, DALI must be able to decode it, unless ``needs_decoder``
is False. Codecs are imported when they are used, so that ``--help`` stays fast.
"""

from __future__ import annotations

import io
import struct
from abc import ABC, abstractmethod
from functools import cache
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from imgprep.dataset.format import NPY_HEADER_BYTES
from imgprep.errors import FormatError, ImageError
from imgprep.spec import Encoding, ImageSpec

PNG_COMPRESS_LEVEL = 1
"""zlib level of ``png`` records: 3 times as fast as level 6 for files 4 % larger."""
PNG_START = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
KNOWN_HEADERS_MAX = 16


class RecordEncoding(ABC):
    """One encoding; ``name`` is its value of ``--encoding``."""

    name: ClassVar[Encoding]
    extension: ClassVar[str]
    """Extension of the image file in a shard."""
    is_lossless: ClassVar[bool]
    needs_decoder: ClassVar[bool] = True
    """False where the file holds the pixels themselves, which ``view`` gives without a copy."""

    @abstractmethod
    def encode(self, image_hwc: NDArray[np.uint8], spec: ImageSpec) -> bytes:
        """Image file of C-contiguous (size, size, 3) uint8 pixels."""

    @abstractmethod
    def expected_bytes(self, spec: ImageSpec) -> float:
        """Size to expect of the image file of a photograph, without reading any."""

    @abstractmethod
    def fault(self, content: bytes, size_px: int) -> str | None:
        """Why an image file cannot be a record of this size; None if it may be one.

        Looks only at what the file declares, so that a few bytes that declare gigabytes never
        reach a decoder.
        """

    @abstractmethod
    def view(self, content: bytes, size_px: int) -> NDArray[np.uint8]:
        """Pixels (size, size, 3) of an image file, valid until the next one is decoded.

        Raises:
            FormatError: it does not decode, or to another size; the message is the cause alone.
        """

    def pixels(self, content: bytes, size_px: int) -> NDArray[np.uint8]:
        """The same pixels as a new array.

        Raises:
            FormatError: as ``view``.
        """
        try:
            return self.view(content, size_px).copy()
        except FormatError as exc:
            raise FormatError(f"the record {exc}") from exc


def encoding_of(name: str) -> RecordEncoding:
    """The encoding of this name, one of ``imgprep.spec.ENCODINGS``."""
    return _BY_NAME[name]


class _Compressed(RecordEncoding):
    """An image format with a header that declares the size of the image."""

    @abstractmethod
    def header(self, content: bytes) -> tuple[int, int, int]:
        """Height, width and length in bytes of the header. ImageError if it is another format."""

    def fault(self, content: bytes, size_px: int) -> str | None:
        return _header_check(self, size_px).fault(content)

    def view(self, content: bytes, size_px: int) -> NDArray[np.uint8]:
        from imgprep.image.decode import decode_image

        limit = 1 + size_px**2 // 1_000_000  # a larger image cannot be a record
        try:
            image_hwc = decode_image(content, max_megapixels=limit, exif="ignore").image_hwc
        except ImageError as exc:
            raise FormatError(f"does not decode: {exc}") from exc
        if image_hwc.shape != (size_px, size_px, 3):
            raise FormatError(f"decodes to {image_hwc.shape}, not {(size_px, size_px, 3)}")
        return image_hwc


class HeaderCheck:
    """Checks the headers of records of one size.

    Headers repeat within a dataset, so a checked prefix is cached: 0.1 microseconds a record.
    """

    def __init__(self, encoding: _Compressed, size_px: int) -> None:
        self._encoding = encoding
        self._size_px = size_px
        self._known: set[bytes] = set()
        self._known_bytes = 0
        """Length of every known header."""

    def fault(self, content: bytes) -> str | None:
        """See ``RecordEncoding.fault``."""
        if content[: self._known_bytes] in self._known:
            return None
        try:
            height, width, header_bytes = self._encoding.header(content)
        except ImageError as exc:
            return str(exc)
        if (height, width) != (self._size_px, self._size_px):
            return f"declares {width}x{height} pixels, not {self._size_px} square"
        if header_bytes != self._known_bytes or len(self._known) >= KNOWN_HEADERS_MAX:
            self._known.clear()
        self._known_bytes = header_bytes
        self._known.add(content[:header_bytes])
        return None


@cache
def _header_check(encoding: _Compressed, size_px: int) -> HeaderCheck:
    return HeaderCheck(encoding, size_px)


class Jpeg(_Compressed):
    """Baseline JPEG by libjpeg-turbo 3, with its standard Huffman tables."""

    name = "jpeg"
    extension = "jpg"
    is_lossless = False
    _BYTES_PER_PX = ((95, 0.54), (90, 0.38), (75, 0.22), (0, 0.15))
    """Rough upper means of photographs by quality, 4:2:0; 4:4:4 takes a third more."""

    def encode(self, image_hwc: NDArray[np.uint8], spec: ImageSpec) -> bytes:
        import simplejpeg

        return bytes(
            simplejpeg.encode_jpeg(
                image_hwc, quality=spec.quality, colorsubsampling=spec.subsampling
            )
        )

    def expected_bytes(self, spec: ImageSpec) -> float:
        per_px = next(rate for quality, rate in self._BYTES_PER_PX if spec.quality >= quality)
        return per_px * spec.size_px**2 * (1.0 if spec.subsampling == "420" else 4 / 3)

    def header(self, content: bytes) -> tuple[int, int, int]:
        from imgprep.image.jpegfile import read_header

        if content[:2] != b"\xff\xd8":
            raise ImageError("not a JPEG")
        header = read_header(content)
        return header.height_px, header.width_px, header.frame_end


class Png(_Compressed):
    """PNG by Pillow."""

    name = "png"
    extension = "png"
    is_lossless = True

    def encode(self, image_hwc: NDArray[np.uint8], spec: ImageSpec) -> bytes:
        from PIL import Image

        stream = io.BytesIO()
        Image.fromarray(image_hwc).save(stream, "PNG", compress_level=PNG_COMPRESS_LEVEL)
        return stream.getvalue()

    def expected_bytes(self, spec: ImageSpec) -> float:
        return 2.0 * spec.size_px**2

    def header(self, content: bytes) -> tuple[int, int, int]:
        if not content.startswith(PNG_START) or len(content) < len(PNG_START) + 8:
            raise ImageError("not a PNG")
        width, height = struct.unpack_from(">II", content, len(PNG_START))
        return height, width, len(PNG_START) + 8


class Raw(RecordEncoding):
    """Pixels in a ``.npy`` file of version 1.0 whose header is 128 bytes long."""

    name = "raw"
    extension = "npy"
    is_lossless = True
    needs_decoder = False

    def encode(self, image_hwc: NDArray[np.uint8], spec: ImageSpec) -> bytes:
        fields = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {image_hwc.shape}, }}"
        room = NPY_HEADER_BYTES - 10
        start = b"\x93NUMPY\x01\x00" + room.to_bytes(2, "little")
        return start + f"{fields:<{room - 1}}\n".encode() + image_hwc.tobytes()

    def expected_bytes(self, spec: ImageSpec) -> float:
        return 3.0 * spec.size_px**2

    def fault(self, content: bytes, size_px: int) -> str | None:
        if len(content) == NPY_HEADER_BYTES + 3 * size_px**2:
            return None
        return f"{len(content):,} bytes are not {size_px} pixels square"

    def view(self, content: bytes, size_px: int) -> NDArray[np.uint8]:
        fault = self.fault(content, size_px)
        if fault:
            raise FormatError(f"does not decode: {fault}")
        pixels = np.frombuffer(content, np.uint8, offset=NPY_HEADER_BYTES)
        return pixels.reshape(size_px, size_px, 3)


_ENCODINGS: tuple[RecordEncoding, ...] = (Jpeg(), Png(), Raw())
_BY_NAME: dict[str, RecordEncoding] = {encoding.name: encoding for encoding in _ENCODINGS}
