"""Which part of a source is taken, and where its labels come from."""

from __future__ import annotations

from dataclasses import dataclass

from imgprep.errors import UsageError
from imgprep.sources.selection import ALL_CLASSES, Selection


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelTable:
    """A .csv or .tsv file that gives each image its label, and the names of its columns."""

    location: str
    """A path or URL."""
    path_column: str = "path"
    label_column: str = "label"
    split_column: str | None = None
    """None: ``split``, if the table has such a column."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Take:
    """Which part of a source is taken, and where its labels come from."""

    selection: Selection = ALL_CLASSES
    val_per_class: int = 0
    """Images of each class to move from train to val, in a source without val; 0 for none."""
    table: LabelTable | None = None
    """Labels the images instead of the layout."""
    seed: int = 0
    """Decides which images are moved."""

    def __post_init__(self) -> None:
        if self.val_per_class < 0:
            raise UsageError(f"val-per-class must be at least 1; got {self.val_per_class}")


EVERYTHING = Take()
