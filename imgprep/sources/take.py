"""Which part of a source is taken."""

from __future__ import annotations

from dataclasses import dataclass

from imgprep.errors import UsageError
from imgprep.sources.selection import ALL_CLASSES, Selection


@dataclass(frozen=True, kw_only=True, slots=True)
class Take:
    """Which part of a source is taken."""

    selection: Selection = ALL_CLASSES
    val_per_class: int = 0
    """Images of each class to move from train to val, in a source without val; 0 for none."""
    seed: int = 0
    """Decides which images are moved."""

    def __post_init__(self) -> None:
        if self.val_per_class < 0:
            raise UsageError(f"val-per-class must be at least 1; got {self.val_per_class}")


EVERYTHING = Take()
