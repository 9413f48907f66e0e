"""Name what a file is that should be a tar: compressed data, a web page, a pointer, text."""

from __future__ import annotations

_DECOMPRESS = "decompress it first"
_UNPACK = "unpack it first"
_DOWNLOAD = "the download saved it instead of the archive: download it again"
_SIGNATURES = (
    (b"\x1f\x8b", "gzip data", _DECOMPRESS),
    (b"BZh", "bzip2 data", _DECOMPRESS),
    (b"\xfd7zXZ\0", "xz data", _DECOMPRESS),
    (b"\x28\xb5\x2f\xfd", "zstd data", _DECOMPRESS),
    (b"\x04\x22\x4d\x18", "LZ4 data", _DECOMPRESS),
    (b"LZIP", "lzip data", _DECOMPRESS),
    (b"\x1f\x9d", "compress data", _DECOMPRESS),
    (b"PK\x03\x04", "a zip archive", _UNPACK),
    (b"PK\x05\x06", "an empty zip archive", _DOWNLOAD),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (b"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    (b"version https://git-lfs", "a Git LFS pointer", "get the file itself with git lfs pull"),
    (b"d8:announce", "a BitTorrent file", "download the archive that it describes"),
    (b"\xff\xd8\xff", "a JPEG image", _DOWNLOAD),
    (b"\x89PNG\r\n\x1a\n", "a PNG image", _DOWNLOAD),
    (b"%PDF-", "a PDF document", _DOWNLOAD),
)
_WEB_PAGE = (
    "an HTML page",
    "the download saved a web page, often a login page, instead of the archive: sign in and "
    "download it again",
)
_MARKUP = (
    (b"<!doctype html", *_WEB_PAGE),
    (b"<html", *_WEB_PAGE),
    (b"<head", *_WEB_PAGE),
    (b"<body", *_WEB_PAGE),
    (b"<?xml", "an XML document", _DOWNLOAD),
    (b"<error>", "an XML document", _DOWNLOAD),
    (b'{"', "a JSON document", _DOWNLOAD),
)
_TEXT = frozenset(b"\t\n\r\f") | frozenset(range(32, 127))
TEXT_SHOWN = 40


def not_a_tar(head: bytes) -> str:
    """Say what a file is, and what to do, by its first bytes; empty if they are not recognised."""
    for start, what, advice in _SIGNATURES:
        if head.startswith(start):
            return f"it is {what}, not a tar: {advice}"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for start, what, advice in _MARKUP:
        if text.startswith(start):
            return f"it is {what}, not a tar: {advice}"
    if head and all(byte in _TEXT for byte in head):
        shown = head.decode("ascii").strip()[:TEXT_SHOWN]
        return f"it is text, not a tar ({shown!r}): {_DOWNLOAD}"
    return ""
