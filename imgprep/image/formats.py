"""Recognise the format of an image file by its first bytes."""

from __future__ import annotations

from imgprep.errors import ImageError

# (format, signatures): raster formats with a fixed signature that Pillow reads without an external
# program.
_SUPPORTED: tuple[tuple[str, tuple[bytes, ...]], ...] = (
    ("PNG", (b"\x89PNG\r\n\x1a\n",)),
    ("GIF", (b"GIF87a", b"GIF89a")),
    ("BMP", (b"BM",)),
    ("TIFF", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    ("PPM", (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6")),
    ("JPEG2000", (b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  \r\n\x87\n")),
    ("JPEG", (b"\xff\xd8",)),
)
_UNSUPPORTED: tuple[tuple[str, tuple[bytes, ...]], ...] = (
    ("JPEG XL", (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")),
    ("Photoshop (PSD)", (b"8BPS",)),
    ("ICO", (b"\0\0\1\0",)),
    ("OpenEXR", (b"\x76\x2f\x31\x01",)),
    ("Radiance HDR", (b"#?RADIANCE", b"#?RGBE")),
    ("DDS", (b"DDS ",)),
    ("JPEG XR", (b"II\xbc\x01",)),
    ("BPG", (b"BPG\xfb",)),
    ("QOI", (b"qoif",)),
    ("FLIF", (b"FLIF",)),
    ("GIMP (XCF)", (b"gimp xcf",)),
    ("MNG", (b"\x8aMNG\r\n\x1a\n",)),
)
_OTHER_FILES: tuple[tuple[str, tuple[bytes, ...]], ...] = (
    ("a gzip file", (b"\x1f\x8b",)),
    ("a bzip2 file", (b"BZh",)),
    ("an xz file", (b"\xfd7zXZ\0",)),
    ("a zstd file", (b"\x28\xb5\x2f\xfd",)),
    ("a zip archive", (b"PK\x03\x04", b"PK\x05\x06")),
    ("a 7z archive", (b"7z\xbc\xaf\x27\x1c",)),
    ("a RAR archive", (b"Rar!\x1a\x07",)),
    ("a PDF file", (b"%PDF-",)),
)
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_MARKUP = {b"<!doctype html": "an HTML page", b"<html": "an HTML page", b"<svg": "an SVG file"}


def sniff(data: bytes) -> str:
    """The format name by the first bytes; ImageError if the format is not supported."""
    if not data:
        raise ImageError("empty file: 0 bytes")
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:12] in (b"ftypavif", b"ftypavis"):
        return "AVIF"
    name = _match(data, _SUPPORTED)
    if name:
        return name
    name = "HEIC" if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS else ""
    name = name or _match(data, _UNSUPPORTED)
    if name:
        raise ImageError(f"unsupported image format: {name}")
    raise ImageError(f"not {_file_kind(data)}")


def _match(data: bytes, table: tuple[tuple[str, tuple[bytes, ...]], ...]) -> str:
    return next((name for name, signatures in table if data.startswith(signatures)), "")


def _file_kind(data: bytes) -> str:
    """The rest of a message that begins with "not"."""
    kind = _match(data, _OTHER_FILES)
    if not kind and data[4:8] == b"ftyp":
        kind = "a video or another ISO media file"
    if not kind and data[257:262] == b"ustar":
        kind = "a tar archive"
    if kind:
        return f"an image: the file is {kind}"
    start = data[:64]
    if all(32 <= byte < 127 or byte in b"\t\n\r" for byte in start):
        words = start.lstrip().lower()
        kind = next((kind for word, kind in _MARKUP.items() if words.startswith(word)), "text")
        return f"an image: the file is {kind}"
    return f"a known image format: the file starts with {start[:8].hex(' ')}"
