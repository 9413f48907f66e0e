"""Read one array of structures from a MATLAB 5 file, the form of the devkit's ``meta.mat``.

``scipy.io.loadmat`` reads far more, but a damaged file can make it end the whole process with a
segmentation fault (seen with scipy 1.17), and a devkit is an untrusted file. This reader
supports only numbers and texts, checks every length, and raises ValueError.

The format is that of MathWorks' "MAT-File Level 5 File Format": a header of 128 bytes, then
elements of a tag (type, length) and data padded to 8 bytes; short data is inside the tag.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

HEADER_BYTES = 128
MAX_UNPACKED_BYTES = 64 * 1024 * 1024
MAX_STRUCTURES = 100_000
MAX_FIELDS = 100

MATRIX, COMPRESSED = 14, 15
NUMBER_CODES = {1: "b", 2: "B", 3: "h", 4: "H", 5: "i", 6: "I", 7: "f", 9: "d", 12: "q", 13: "Q"}
TEXT_ENCODINGS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16"}
STRUCT_CLASS, CHAR_CLASS = 2, 4
NUMBER_CLASSES = range(6, 16)

Value = str | float | None


@dataclass(slots=True)
class _Elements:
    """The consecutive elements in ``data``."""

    data: memoryview
    order: str
    """``<`` or ``>``, as in ``struct``."""
    at: int = 0

    def next(self) -> tuple[int, memoryview]:
        """(type, data) of the next element."""
        tag = self._take(8)
        kind, length = struct.unpack(self.order + "II", tag)
        if kind >> 16:
            if kind >> 16 > 4:
                raise ValueError("a short element of more than 4 bytes")
            return kind & 0xFFFF, tag[4 : 4 + (kind >> 16)]
        content = self._take(length)
        if kind != COMPRESSED:
            self.at = min(self.at + -length % 8, len(self.data))
        return kind, content

    def expect(self, kind: int) -> memoryview:
        """The data of the next element, which must be of type ``kind``."""
        found, content = self.next()
        if found != kind:
            raise ValueError(f"an element of type {found} instead of {kind}")
        return content

    def __bool__(self) -> bool:
        return self.at < len(self.data)

    def _take(self, length: int) -> memoryview:
        taken = self.data[self.at : self.at + length]
        if len(taken) < length:
            raise ValueError("it ends inside an element")
        self.at += length
        return taken


@dataclass(frozen=True, slots=True)
class _Matrix:
    array_class: int
    items: int
    name: bytes
    body: _Elements


def read_structures(data: bytes, variable: str) -> list[dict[str, Value]]:
    """Return the structures of the variable as dicts; other values than a number or text are None.

    Raises:
        ValueError: the file is malformed or holds no such variable.
    """
    orders = {b"IM": "<", b"MI": ">"}
    if len(data) < HEADER_BYTES or data[126:128] not in orders:
        raise ValueError("not a MATLAB 5 file")
    for matrix in _variables(data, orders[data[126:128]]):
        if matrix.name == variable.encode() and matrix.array_class == STRUCT_CLASS:
            return _structures(matrix)
    raise ValueError(f"it has no structures named {variable!r}")


def _variables(data: bytes, order: str) -> Iterator[_Matrix]:
    elements = _Elements(memoryview(data)[HEADER_BYTES:], order)
    left_bytes = MAX_UNPACKED_BYTES
    while elements:
        kind, content = elements.next()
        if kind == COMPRESSED:
            try:
                plain = zlib.decompressobj().decompress(content, left_bytes)
            except zlib.error as exc:
                raise ValueError(f"damaged compression: {exc}") from exc
            left_bytes -= len(plain)
            if left_bytes <= 0:
                raise ValueError(f"it unpacks to more than {MAX_UNPACKED_BYTES >> 20} MiB")
            kind, content = _Elements(memoryview(plain), order).next()
        if kind == MATRIX:
            yield _matrix(content, order)


def _matrix(content: memoryview, order: str) -> _Matrix:
    body = _Elements(content, order)
    flags = body.expect(6)
    if len(flags) != 8:
        raise ValueError("array flags of a wrong length")
    sizes = body.expect(5)
    dimensions = struct.unpack(f"{order}{len(sizes) // 4}i", sizes[: len(sizes) // 4 * 4])
    items = 1
    for size in dimensions:
        if not 0 <= size <= MAX_UNPACKED_BYTES:
            raise ValueError(f"a dimension of {size}")
        items = min(items * size, MAX_UNPACKED_BYTES)
    name = bytes(body.expect(1))
    return _Matrix(struct.unpack(order + "I", flags[:4])[0] & 0xFF, items, name, body)


def _structures(matrix: _Matrix) -> list[dict[str, Value]]:
    body = matrix.body
    width_field = body.expect(5)
    if len(width_field) != 4:
        raise ValueError("a malformed list of fields")
    (width,) = struct.unpack(body.order + "i", width_field)
    names = bytes(body.expect(1))
    if width < 1 or len(names) % width or len(names) // width > MAX_FIELDS:
        raise ValueError("a malformed list of fields")
    if matrix.items > MAX_STRUCTURES:
        raise ValueError(f"{matrix.items} structures")
    fields = [
        names[at : at + width].split(b"\0", 1)[0].decode("ascii", "replace")
        for at in range(0, len(names), width)
    ]
    return [
        {field: _value(body.expect(MATRIX), body.order) for field in fields}
        for _ in range(matrix.items)
    ]


def _value(content: memoryview, order: str) -> Value:
    """Return one number, a text, or None for any other value."""
    if not content:
        return None
    matrix = _matrix(content, order)
    if matrix.array_class == CHAR_CLASS:
        kind, letters = matrix.body.next() if matrix.body else (16, memoryview(b""))
        if kind not in TEXT_ENCODINGS:
            raise ValueError(f"letters of type {kind}")
        encoding = TEXT_ENCODINGS[kind]
        if encoding == "utf-16":
            encoding += "-le" if order == "<" else "-be"
        return bytes(letters).decode(encoding)
    if matrix.array_class in NUMBER_CLASSES and matrix.items == 1:
        kind, number = matrix.body.next()
        code = order + NUMBER_CODES.get(kind, "x")
        if struct.calcsize(code) != len(number) or kind not in NUMBER_CODES:
            raise ValueError(f"a number of type {kind} in {len(number)} bytes")
        return float(struct.unpack(code, number)[0])
    return None
