"""Texts from elsewhere, made safe to show."""

from __future__ import annotations

import os


def printable(text: str) -> str:
    """``text`` with undecodable bytes and control characters escaped, safe for a terminal."""
    try:
        raw = os.fsencode(text)
    except UnicodeEncodeError:  # halves of characters, which no name of a file has
        raw = text.encode("utf-8", "backslashreplace")
    return "".join(map(_seen, raw.decode("utf-8", "backslashreplace")))


def plain(text: str) -> str:
    """``text`` with all but lines of printable letters escaped; halves of letters may be in it."""
    return "".join(letter if letter == "\n" else _seen(letter) for letter in text)


def _seen(letter: str) -> str:
    return letter if letter.isprintable() else letter.encode("unicode_escape").decode()
