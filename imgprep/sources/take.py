"""Which part of a source is taken."""

from __future__ import annotations

from dataclasses import dataclass

from imgprep.sources.selection import ALL_CLASSES, Selection


@dataclass(frozen=True, kw_only=True, slots=True)
class Take:
    """Which part of a source is taken."""

    selection: Selection = ALL_CLASSES


EVERYTHING = Take()
