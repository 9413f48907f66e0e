"""Texts from elsewhere, made safe to show."""

from __future__ import annotations

import os


def printable(text: str) -> str:
    """``text`` with undecodable bytes and control characters escaped, safe for a terminal."""
    plain = os.fsencode(text).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in plain)
