"""Parse one header of a tar: type, size and name, and the extensions that precede it.

It supports USTAR, the old V7 form, GNU long names and base-256 numbers, and PAX ``path`` and
``size``.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

BLOCK_BYTES = 512
MAX_EXTENSION_BYTES = 1024 * 1024
MAX_NAME_BYTES = 4096
"""PATH_MAX: no file can have a longer name."""
MAX_MEMBER_BYTES = 1 << 62
# sum() over a header costs 3 us and Adler-32, whose low half is the same sum, 0.3 us.
ADLER_MODULUS = 65521
EXTENSION_TYPES = frozenset(b"LKxXg")
_PAX_SPARSE = b"GNU.sparse."
_PAX_VOLUME = b"GNU.volume.offset"
# The only PAX records that are read; a tar may hold a million others.
_PAX_KEPT = frozenset({b"path", b"size", _PAX_VOLUME})
Span = Callable[[int, int], bytes]
"""``span(position, size_bytes)``: bytes of the tar, fewer at its end."""


class HeaderError(Exception):
    """A header is invalid, and the walk cannot continue; ``problem`` is the slug."""

    def __init__(self, cause: str, problem: str = "bad-header") -> None:
        super().__init__(cause)
        self.problem = problem


def is_header(block: bytes) -> bool:
    """Whether 512 bytes are a USTAR or GNU header with a correct checksum."""
    if block[257:262] != b"ustar" or len(block) != BLOCK_BYTES:
        return False
    try:
        check_header(block)
    except HeaderError:
        return False
    return True


def padded(size_bytes: int) -> int:
    """``size_bytes`` rounded up to whole blocks."""
    return (size_bytes + BLOCK_BYTES - 1) // BLOCK_BYTES * BLOCK_BYTES


def check_header(header: bytes) -> tuple[int, int]:
    """Return (type, size) of a header; raise HeaderError if its checksum is wrong."""
    stored = _number(header[148:156])
    total = zlib.adler32(header[156:], zlib.adler32(header[:148])) & 0xFFFF
    if (total + 255 - stored) % ADLER_MODULUS:
        # Some old writers summed signed bytes, which differs for non-ASCII names.
        counted = header[:148] + header[156:]
        signed = sum(counted) - 256 * sum(byte > 127 for byte in counted) + 256
        if signed != stored:
            raise HeaderError("its checksum is wrong")
    return header[156], _number(header[124:136])


def _number(field: bytes) -> int:
    """A number field: octal digits, or base 256 with the top bit set."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big") & ~(0x80 << (8 * (len(field) - 1)))
        if field[0] & 0x40 or value > MAX_MEMBER_BYTES:
            raise HeaderError(f"the number {field.hex()} is negative or too large")
        return value
    digits = field.split(b"\0", 1)[0].strip(b" ")
    if not digits:
        return 0
    try:
        if digits.isdigit():
            return int(digits, 8)
    except ValueError:
        pass
    raise HeaderError(f"{field!r} is not an octal number")


def member_name(header: bytes) -> bytes:
    name = header[:100].split(b"\0", 1)[0]
    # GNU tar stores times where POSIX stores the prefix.
    if header[345] and header[257:263] == b"ustar\0":
        return header[345:500].split(b"\0", 1)[0] + b"/" + name
    return name


class Extension:
    """GNU long names and PAX records, which describe the members after them."""

    def __init__(self) -> None:
        self._next: dict[bytes, bytes] = {}
        self._all: dict[bytes, bytes] = {}
        self.in_force = False

    def read(self, span: Span, kind: int, position: int, size_bytes: int) -> None:
        """Read an extension: for the next member, or (``g``) for all members that follow."""
        if size_bytes > MAX_EXTENSION_BYTES:
            raise HeaderError(f"an extension header of {size_bytes} bytes")
        content = span(position, size_bytes)
        if len(content) < size_bytes:
            raise HeaderError("the archive ends inside an extension header", "cut-short")
        if kind == ord("L"):
            self._next[b"path"] = content.split(b"\0", 1)[0]
        elif kind != ord("K"):
            (self._all if kind == ord("g") else self._next).update(_pax_records(content))
        self.in_force = True

    def apply(self, kind: int, name: bytes, size_bytes: int) -> tuple[int, bytes, int]:
        """Replace the name and size of the header by those of the extension."""
        records = {**self._all, **self._next}
        self._next = {}
        self.in_force = bool(self._all)
        name = records.get(b"path", name).split(b"\0", 1)[0]
        if len(name) > MAX_NAME_BYTES:
            raise HeaderError(f"a name of {len(name)} bytes")
        text = records.get(b"size")
        if text is not None:
            if not text.isdigit() or len(text) > 19 or int(text) > MAX_MEMBER_BYTES:
                raise HeaderError(f"the PAX size {text!r} is not a size")
            size_bytes = int(text)
        if _PAX_SPARSE in records:
            kind = ord("S")
        if self._all.pop(_PAX_VOLUME, None) is not None:
            kind = ord("M")  # It describes the first member of a further volume only.
            self.in_force = bool(self._all)
        return kind, name, size_bytes


def _pax_records(content: bytes) -> dict[bytes, bytes]:
    """Parse repeated ``b"<length> <key>=<value>\\n"``; return the records in ``_PAX_KEPT``."""
    records: dict[bytes, bytes] = {}
    at = 0
    while at < len(content) and content[at] != 0:
        digits, space, _ = content[at : at + 20].partition(b" ")
        length = int(digits) if digits.isdigit() else 0
        record = content[at + len(digits) + 1 : at + length]
        key, equals, value = record.partition(b"=")
        if not (space and equals and record.endswith(b"\n")):
            raise HeaderError("a PAX record is malformed")
        if key in _PAX_KEPT:
            records[key] = value[:-1]
        elif key.startswith(_PAX_SPARSE):
            records[_PAX_SPARSE] = b""
        at += length
    return records
