"""Write one shard: a USTAR tar of records and its DALI index; the tar is hashed while written."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import IO

from imgprep.dataset.format import DALI_INDEX_VERSION, LABEL_EXTENSION

BLOCK_BYTES = 512
RECORD_BYTES = 10_240
"""Tar files are padded to this length (POSIX: 20 blocks)."""
_MEMBER_BYTES_MAX = 8**11
_MODE_TO_SIZE = b"0000644\0" + b"0000000\0" * 2
_MTIME = b"00000000000\0"
_TAIL = b"0" + bytes(100) + b"ustar\x0000" + bytes(247)
_FIXED_SUM = sum(_MODE_TO_SIZE) + sum(_MTIME) + sum(b" " * 8) + sum(_TAIL)


def ustar_header(name: bytes, size_bytes: int) -> bytes:
    """Header block of a regular file: mode 0644, owner 0, mtime 0 (equal to ``tarfile``'s).

    Raises:
        ValueError: the name has over 100 bytes or is empty, or the size does not fit USTAR.
    """
    if not 0 < len(name) <= 100 or not 0 <= size_bytes < _MEMBER_BYTES_MAX:
        raise ValueError(f"member {name!r} of {size_bytes} bytes does not fit a USTAR header")
    size = b"%011o\0" % size_bytes
    checksum = b"%06o\0 " % (_FIXED_SUM + sum(name) + sum(size))
    return b"".join((name, bytes(100 - len(name)), _MODE_TO_SIZE, size, _MTIME, checksum, _TAIL))


def padding(size_bytes: int) -> bytes:
    """Zero bytes after a member, up to a whole block."""
    return bytes(-size_bytes % BLOCK_BYTES)


@dataclass(frozen=True, slots=True)
class ShardFacts:
    """Counts, sizes and hash of a finished shard, for its done marker."""

    records: int
    tar_bytes: int
    tar_sha256: str
    idx_bytes: bytes


@dataclass(slots=True)
class ShardWriter:
    """Appends records to an open tar; the caller owns the file and its name."""

    file: IO[bytes]
    image_extension: str
    _hash: hashlib._Hash = field(default_factory=hashlib.sha256)
    _offset: int = 0
    _index: list[str] = field(default_factory=list)

    def add(self, key: str, image: bytes, label: bytes) -> None:
        """Append the record ``key``: its encoded image, then its label."""
        image_name = f"{key}.{self.image_extension}"
        label_name = f"{key}.{LABEL_EXTENSION}"
        image_at = self._offset + BLOCK_BYTES
        image_pad = padding(len(image))
        label_at = image_at + len(image) + len(image_pad) + BLOCK_BYTES
        record = b"".join(
            (
                ustar_header(image_name.encode("ascii"), len(image)),
                image,
                image_pad,
                ustar_header(label_name.encode("ascii"), len(label)),
                label,
                padding(len(label)),
            )
        )
        self._write(record)
        self._index.append(
            f"{self.image_extension} {image_at} {len(image)} {image_name} "
            f"{LABEL_EXTENSION} {label_at} {len(label)} {label_name}\n"
        )

    def finish(self) -> ShardFacts:
        """Write the end of the archive; the caller flushes and renames."""
        end = 2 * BLOCK_BYTES
        self._write(bytes(end + -(self._offset + end) % RECORD_BYTES))
        idx = f"{DALI_INDEX_VERSION} {len(self._index)}\n" + "".join(self._index)
        return ShardFacts(
            len(self._index), self._offset, self._hash.hexdigest(), idx.encode("ascii")
        )

    def _write(self, data: bytes) -> None:
        self.file.write(data)
        self._hash.update(data)
        self._offset += len(data)
