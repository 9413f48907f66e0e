"""Texts for people: untrusted text made safe to print, counts with their noun, sizes."""

from __future__ import annotations

import os


def printable(text: str) -> str:
    """``text`` with undecodable bytes and control characters escaped, safe for a terminal."""
    try:
        raw = os.fsencode(text)
    except UnicodeEncodeError:  # A lone surrogate, which no file name contains.
        raw = text.encode("utf-8", "backslashreplace")
    return "".join(map(_escaped, raw.decode("utf-8", "backslashreplace")))


def plain(text: str) -> str:
    """``text`` with everything escaped except printable characters and newlines."""
    return "".join(letter if letter == "\n" else _escaped(letter) for letter in text)


def _escaped(letter: str) -> str:
    return letter if letter.isprintable() else letter.encode("unicode_escape").decode()


def counted(count: int, one: str, many: str | None = None) -> str:
    """A count with its noun, such as ``1,000 classes``; ``many`` is a plural other than one + s."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def readable_bytes(size_bytes: int) -> str:
    """``size_bytes`` with a binary unit: ``27.9 MiB``."""
    value = float(size_bytes)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} bytes" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
