"""Take a val split out of a train split, for sources that have none."""

from __future__ import annotations

import numpy as np

from imgprep.dataset.labels import LabelMap
from imgprep.order import shuffled
from imgprep.sources.manifest import SplitManifest


def carve_val(
    train: SplitManifest, labels: LabelMap, per_class: int, seed: int
) -> tuple[SplitManifest, SplitManifest, int]:
    """Move ``per_class`` images of each class from train to val.

    Which they are depends on the seed, the name of the class and the number of its images. A class
    with fewer than twice as many images gives half of them, rounded down, so that none is left
    without training images.

    Returns:
        Train, val, and the number of classes that gave fewer images.
    """
    by_class = np.argsort(train.rows["label"], kind="stable")
    counts = np.bincount(train.rows["label"], minlength=len(labels))
    ends = np.cumsum(counts)
    moved = np.zeros(len(train), bool)
    fewer = 0
    for entry, start, end in zip(labels.classes, ends - counts, ends, strict=True):
        rows = by_class[start:end]
        count = min(per_class, len(rows) // 2)
        fewer += count < per_class
        order = shuffled(len(rows), seed=seed, name=f"val-per-class:{entry.name}")
        moved[rows[order[:count]]] = True
    return (
        train.pick(np.flatnonzero(~moved)),
        train.pick(np.flatnonzero(moved), split="val"),
        fewer,
    )
