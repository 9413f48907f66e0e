"""Split plans: which image goes into which shard, by split size, spec and seed alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imgprep.dataset.format import SPLITS
from imgprep.errors import UsageError
from imgprep.order import shuffled
from imgprep.sources.manifest import SourceScan
from imgprep.spec import (
    SHARD_IMAGES_MAX_AUTO,
    SHARD_IMAGES_MIN_AUTO,
    SHARDS_MIN_AUTO,
    BuildSpec,
)


@dataclass(frozen=True, slots=True, eq=False)
class SplitPlan:
    """The shards of one split: shard ``k`` holds the manifest rows ``rows(k)``, in their order."""

    split: str
    order: NDArray[np.integer]
    """Manifest rows in write order, ``(images,)``."""
    shards: int

    @property
    def images(self) -> int:
        """Images that the plan places."""
        return len(self.order)

    def bounds(self, shard: int) -> tuple[int, int]:
        """Half-open range of ``order`` that a shard holds; sizes differ by at most one."""
        return shard * self.images // self.shards, (shard + 1) * self.images // self.shards

    def rows(self, shard: int) -> NDArray[np.integer]:
        """Manifest rows of a shard, in write order."""
        start, stop = self.bounds(shard)
        return self.order[start:stop]


def shard_images_auto(images: int) -> int:
    """Images in a shard when the user does not say.

    1,000 images are about 35 MB and make 1,282 shards of ImageNet, enough for any number of
    workers. A small set gets smaller shards, so that it too keeps several workers busy.
    """
    fine = -(-images // SHARDS_MIN_AUTO)
    return min(SHARD_IMAGES_MAX_AUTO, max(SHARD_IMAGES_MIN_AUTO, fine))


def plan_split(split: str, images: int, spec: BuildSpec) -> SplitPlan:
    """Shuffle a split of ``images`` once and cut it into balanced shards, none of them empty."""
    order = shuffled(images, seed=spec.seed, name=f"write-order:{split}")
    if spec.limit is not None:
        order = order[: spec.limit]
    per_shard = spec.shard_images or shard_images_auto(len(order))
    return SplitPlan(split, order.astype(np.int32), -(-len(order) // per_shard))


def plan_splits(scan: SourceScan, spec: BuildSpec) -> list[SplitPlan]:
    """Plans of the chosen splits.

    Raises:
        UsageError: the source lacks the chosen split.
    """
    wanted = SPLITS if spec.split == "all" else (spec.split,)
    plans = [
        plan_split(split, len(scan.splits[split]), spec)
        for split in wanted
        if split in scan.splits and len(scan.splits[split])
    ]
    if not plans or (spec.split != "all" and len(plans) != 1):
        raise UsageError(
            f"{scan.root}: no usable images in split {spec.split!r}; it has "
            f"{', '.join(f'{name} ({len(rows)})' for name, rows in scan.splits.items()) or 'none'}"
        )
    return plans
