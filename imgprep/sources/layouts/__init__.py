"""The layouts that a source may have: one module each, registered here.

What comes in is the root of a source; what goes out is a ``Candidate``: the evidence for the
layout, and how to scan each split. To add a layout, write a module with a ``LAYOUT`` (see
``class_folders.py``) and register it below.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from imgprep.sources.layout import Layout

LayoutName = Literal[
    "archives", "class-folders", "kaggle", "cifar", "ilsvrc2010", "fall2011", "shards"
]
LAYOUT_NAMES: tuple[LayoutName, ...] = get_args(LayoutName)
"""What ``--layout`` offers."""


def load_layouts() -> dict[LayoutName, Layout]:
    """Import the layouts; they import numpy, and ``--help`` needs only their names."""
    from imgprep.sources.layouts import (
        archives,
        cifar,
        class_folders,
        fall2011,
        ilsvrc2010,
        kaggle,
        shards,
    )

    return {
        "archives": archives.LAYOUT,
        "class-folders": class_folders.LAYOUT,
        "kaggle": kaggle.LAYOUT,
        "cifar": cifar.LAYOUT,
        "ilsvrc2010": ilsvrc2010.LAYOUT,
        "fall2011": fall2011.LAYOUT,
        "shards": shards.LAYOUT,
    }
