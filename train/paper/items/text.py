"""Claims in the text of the paper: one change each, against the same baseline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from train.paper.ablation import ablation
from train.paper.item import Item

NO_LRN: Mapping[str, Any] = {"net.lrn": False, "net.spatial_norm": False}

TEXT: tuple[Item, ...] = (
    ablation(
        id="lrn",
        title="Local response normalisation",
        paper="It reduces the top-1 and top-5 errors by 1.4 and 1.2 points (3.3).",
        notes="0.420340 and 0.193620 without any norm (148), 0.406640 and 0.182100 with them.",
        name="no-lrn",
        settings=NO_LRN,
        change="without LRN",
    ),
)
