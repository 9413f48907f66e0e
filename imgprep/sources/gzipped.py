"""Unpack a gzip file into memory, up to a limit, and read it there as a file."""

from __future__ import annotations

import gzip
import os
import shutil
import tempfile
import zlib
from typing import BinaryIO

from imgprep.errors import SourceError
from imgprep.sources.tree import RangeFile

READ_BYTES = 64 * 1024
COPY_BYTES = 1 << 20
GZIP_MAGIC = b"\x1f\x8b"


def unpacked(file: BinaryIO, limit_bytes: int, where: str) -> bytes:
    """Return the content of an open gzip file; gzip may be a bomb, so it has a limit.

    Raises:
        SourceError: it unpacks to more than ``limit_bytes``.
        EOFError, zlib.error, OSError: it is cut short, damaged, or cannot be read.
    """
    with gzip.GzipFile(fileobj=file) as packed:
        plain = packed.read(limit_bytes + 1)
    if len(plain) > limit_bytes:
        raise SourceError(
            f"{where} unpacks to more than {limit_bytes >> 20} MiB; is it the right file?"
        )
    return plain


def open_unpacked(path: bytes) -> int:
    """Return a descriptor of the content of a gzip file, which is unpacked into memory; of another
    file, a descriptor of the file itself. The caller closes it.

    Raises:
        OSError: it cannot be read, or is cut short or damaged.
    """
    with open(path, "rb") as file:  # noqa: PTH123 (bytes)
        if file.peek(len(GZIP_MAGIC))[: len(GZIP_MAGIC)] != GZIP_MAGIC:
            return os.dup(file.fileno())
        with _anonymous_file() as plain, gzip.GzipFile(fileobj=file) as packed:
            try:
                shutil.copyfileobj(packed, plain, COPY_BYTES)
            except (EOFError, zlib.error) as exc:
                raise OSError(f"the gzip file is cut short or damaged: {exc}") from exc
            plain.flush()
            return os.dup(plain.fileno())


def _anonymous_file() -> BinaryIO:
    """Open a file without a name, in memory where the system offers it."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("imgprep-unpacked"), "w+b")
    return tempfile.TemporaryFile()


def in_memory(data: bytes, mtime_ns: int = 0) -> RangeFile:
    """Make bytes readable as a file."""
    return RangeFile(
        pread=lambda size_bytes, offset: data[offset : offset + size_bytes],
        size_bytes=len(data),
        mtime_ns=mtime_ns,
        header_bytes=READ_BYTES,
        ahead_bytes=READ_BYTES,
    )
