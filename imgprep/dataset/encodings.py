"""Record encodings: how the pixels of a record become the bytes of its image file, and back.

To add one, write its class here, add it to ``_ENCODINGS`` below and its name to
``imgprep.spec.Encoding``. For training, DALI must be able to decode it, unless ``needs_decoder``
is False. Codecs are imported when they are used, so that ``--help`` stays fast.
"""

from __future__ import annotations

import io
import struct
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from imgprep.dataset.format import NPY_HEADER_BYTES
from imgprep.errors import FormatError, ImageError
from imgprep.spec import Encoding, ImageSpec, Shape, is_record_size, longest_px

PNG_COMPRESS_LEVEL = 1
"""zlib level of ``png`` records: 3 times as fast as level 6 for files 4 % larger."""
PNG_START = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
RECTANGLE_PIXELS = 1.38
"""Pixels of a rectangle, in squares of its short side: the mean of 300 images of ImageNet."""
KNOWN_HEADERS_BYTES_MAX = 1 << 20


@dataclass(frozen=True, slots=True)
class SidesField:
    """Height and width in the header of an image file."""

    offset: int
    dtype: str
    """Of each side, for numpy."""
    width_first: bool

    @property
    def end(self) -> int:
        """Offset of the first byte after both."""
        return self.offset + 2 * np.dtype(self.dtype).itemsize

    def read(self, field_n: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Height and width (n, 2) from the bytes of some files' fields (n, bytes)."""
        sides = np.ascontiguousarray(field_n).view(self.dtype).astype(np.int64)
        return sides[:, ::-1] if self.width_first else sides


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
        """Image file of C-contiguous (height, width, 3) uint8 pixels."""

    @abstractmethod
    def expected_bytes(self, spec: ImageSpec) -> float:
        """Size to expect of the image file of a photograph, without reading any."""

    @abstractmethod
    def record_size(self, content: bytes, size_px: int, shape: Shape = "square") -> tuple[int, int]:
        """Height and width that an image file declares.

        The file is not decoded, so that a few bytes that declare gigabytes never reach a decoder.

        Raises:
            FormatError: it cannot be a record of this size and shape; the message is the cause
                alone.
        """

    def fault(self, content: bytes, size_px: int, shape: Shape = "square") -> str | None:
        """Why an image file cannot be a record, as ``record_size``; None if it may be one."""
        try:
            self.record_size(content, size_px, shape)
        except FormatError as exc:
            return str(exc)
        return None

    def header_bytes(self, content: bytes) -> int:
        """Bytes at the beginning of an image file without fault that decide ``record_size``."""
        return 0

    def sides_in(self, content: bytes) -> SidesField:
        """Where the header of an image file without fault states height and width."""
        raise NotImplementedError(f"{self.name} records state no size")

    @abstractmethod
    def view(self, content: bytes, size_px: int, shape: Shape = "square") -> NDArray[np.uint8]:
        """Pixels (height, width, 3) of an image file, valid until the next one is decoded.

        Raises:
            FormatError: it does not decode, or to another size; the message is the cause alone.
        """

    def pixels(self, content: bytes, size_px: int, shape: Shape = "square") -> NDArray[np.uint8]:
        """The same pixels as a new array.

        Raises:
            FormatError: as ``view``.
        """
        try:
            return self.view(content, size_px, shape).copy()
        except FormatError as exc:
            raise FormatError(f"the record {exc}") from exc


def encoding_of(name: str) -> RecordEncoding:
    """The encoding of this name, one of ``imgprep.spec.ENCODINGS``."""
    return _BY_NAME[name]


def expected_pixels(spec: ImageSpec) -> float:
    """Pixels to expect of a record of a photograph."""
    return spec.size_px**2 * (RECTANGLE_PIXELS if spec.shape == "rectangle" else 1.0)


class _Compressed(RecordEncoding):
    """An image format with a header that declares the size of the image."""

    @abstractmethod
    def header(self, content: bytes) -> tuple[int, int, int]:
        """Height, width and length in bytes of the header. ImageError if it is another format."""

    def record_size(self, content: bytes, size_px: int, shape: Shape = "square") -> tuple[int, int]:
        return _header_check(self, size_px, shape).record_size(content)

    def header_bytes(self, content: bytes) -> int:
        return self.header(content)[2]

    def view(self, content: bytes, size_px: int, shape: Shape = "square") -> NDArray[np.uint8]:
        from imgprep.image.decode import decode_image

        # a larger image cannot be a record
        limit = 1 + size_px * longest_px(size_px, shape) // 1_000_000
        try:
            image_hwc = decode_image(content, max_megapixels=limit, exif="ignore").image_hwc
        except ImageError as exc:
            raise FormatError(f"does not decode: {exc}") from exc
        height, width, _ = image_hwc.shape
        if not is_record_size(height, width, size_px, shape):
            wanted = (size_px, size_px, 3) if shape != "rectangle" else _sides(size_px, shape)
            raise FormatError(f"decodes to {image_hwc.shape}, not {wanted}")
        return image_hwc


def _sides(size_px: int, shape: Shape) -> str:
    """What the sides of a record must be, for messages."""
    if shape != "rectangle":
        return f"{size_px} square"
    return f"a short side of {size_px} and a long side of at most {longest_px(size_px, shape)}"


class HeaderCheck:
    """Checks the headers of records of one size and shape.

    Headers repeat within a dataset, so checked prefixes are cached: 0.2 microseconds a record,
    where reading the header takes 30.
    """

    def __init__(self, encoding: _Compressed, size_px: int, shape: Shape) -> None:
        self._encoding = encoding
        self._size_px, self._shape = size_px, shape
        self._known: dict[bytes, tuple[int, int]] = {}
        self._known_bytes = 0
        """Length of every known header."""

    def record_size(self, content: bytes) -> tuple[int, int]:
        """See ``RecordEncoding.record_size``."""
        known = self._known.get(content[: self._known_bytes])
        if known is not None:
            return known
        try:
            height, width, header_bytes = self._encoding.header(content)
        except ImageError as exc:
            raise FormatError(str(exc)) from exc
        if not is_record_size(height, width, self._size_px, self._shape):
            wanted = _sides(self._size_px, self._shape)
            raise FormatError(f"declares {width}x{height} pixels, not {wanted}")
        full = (len(self._known) + 1) * header_bytes > KNOWN_HEADERS_BYTES_MAX
        if header_bytes != self._known_bytes or full:
            self._known.clear()
        self._known_bytes = header_bytes
        self._known[content[:header_bytes]] = (height, width)
        return height, width


@cache
def _header_check(encoding: _Compressed, size_px: int, shape: Shape) -> HeaderCheck:
    return HeaderCheck(encoding, size_px, shape)


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
        return per_px * expected_pixels(spec) * (1.0 if spec.subsampling == "420" else 4 / 3)

    def header(self, content: bytes) -> tuple[int, int, int]:
        from imgprep.image.jpegfile import read_header

        if content[:2] != b"\xff\xd8":
            raise ImageError("not a JPEG")
        header = read_header(content)
        return header.height_px, header.width_px, header.frame_end

    def sides_in(self, content: bytes) -> SidesField:
        from imgprep.image.jpegfile import read_header

        return SidesField(read_header(content).frame_offset + 5, ">u2", width_first=False)


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
        return 2.0 * expected_pixels(spec)

    def header(self, content: bytes) -> tuple[int, int, int]:
        if not content.startswith(PNG_START) or len(content) < len(PNG_START) + 8:
            raise ImageError("not a PNG")
        width, height = struct.unpack_from(">II", content, len(PNG_START))
        return height, width, len(PNG_START) + 8

    def sides_in(self, content: bytes) -> SidesField:
        return SidesField(len(PNG_START), ">u4", width_first=True)


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

    def record_size(self, content: bytes, size_px: int, shape: Shape = "square") -> tuple[int, int]:
        if len(content) != NPY_HEADER_BYTES + 3 * size_px**2:
            raise FormatError(f"{len(content):,} bytes are not {size_px} pixels square")
        return size_px, size_px

    def view(self, content: bytes, size_px: int, shape: Shape = "square") -> NDArray[np.uint8]:
        fault = self.fault(content, size_px)
        if fault:
            raise FormatError(f"does not decode: {fault}")
        pixels = np.frombuffer(content, np.uint8, offset=NPY_HEADER_BYTES)
        return pixels.reshape(size_px, size_px, 3)


_ENCODINGS: tuple[RecordEncoding, ...] = (Jpeg(), Png(), Raw())
_BY_NAME: dict[str, RecordEncoding] = {encoding.name: encoding for encoding in _ENCODINGS}
