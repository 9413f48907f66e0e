"""Which image goes into which shard: a pure function of split size, spec and seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imgprep.order import shuffled
from imgprep.spec import (
    SHARD_IMAGES_MAX_AUTO,
    SHARD_IMAGES_MIN_AUTO,
    SHARDS_MIN_AUTO,
    BuildSpec,
)


@dataclass(frozen=True, slots=True, eq=False)
class SplitPlan:
    """The shards of one split: shard ``k`` holds the manifest rows ``rows(k)``, in that order."""

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
    """Images a shard holds when the user leaves it open.

    1,000 makes about 35 MB a shard and 1,282 shards of ImageNet, enough to share out over any
    number of workers; a small set is cut finer, so that it too keeps several workers busy.
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
