"""Names that file managers, systems and network drives leave behind: neither images nor classes."""

from __future__ import annotations

CLUTTER = frozenset({b"thumbs.db", b"desktop.ini", b"__macosx"})


def is_clutter(name: bytes) -> bool:
    """Whether a name is hidden, or left behind by a file manager."""
    return name.startswith(b".") or name.lower() in CLUTTER
