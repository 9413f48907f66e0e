"""Published colour statistics of ImageNet, to compare ours with.

All are on the 0-255 scale, components in descending order of variance. Axes are as published:
their signs are arbitrary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from imgprep.colour.pca import LEVELS, RgbPca, angle_degrees

Triple: TypeAlias = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedPca:
    """Published principal components of RGB."""

    key: str
    """Short name for tables and JSON."""
    source: str
    stdevs: Triple
    """Square roots of the eigenvalues, levels 0-255, descending."""
    eigenvectors: tuple[Triple, Triple, Triple]
    """Rows R, G, B; column k belongs to ``stdevs[k]``."""

    @property
    def stdev_rgb(self) -> Triple:
        """Standard deviation of R, G, B that these components imply, levels 0-255."""
        r, g, b = (
            math.hypot(*(s * v for s, v in zip(self.stdevs, row, strict=True)))
            for row in self.eigenvectors
        )
        return (r, g, b)


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedRgb:
    """A published mean, or standard deviation, of R, G, B."""

    key: str
    source: str
    rgb: Triple
    """Levels 0-255."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Comparison:
    """Our components compared with published ones."""

    theirs: PublishedPca
    stdev_ratio: NDArray[np.float64]
    """Our standard deviations divided by theirs (3,)."""
    angle_degrees: NDArray[np.float64]
    """Angle between our axes and theirs (3,), 0 to 90."""


def compare(pca: RgbPca) -> tuple[Comparison, ...]:
    """Compare ``pca`` with each of ``PUBLISHED_PCAS``."""
    return tuple(
        Comparison(
            theirs=theirs,
            stdev_ratio=pca.stdevs / np.array(theirs.stdevs),
            angle_degrees=angle_degrees(pca.eigenvectors, np.array(theirs.eigenvectors)),
        )
        for theirs in PUBLISHED_PCAS
    )


def _levels(rgb_01: Triple) -> Triple:
    r, g, b = rgb_01
    return (LEVELS * r, LEVELS * g, LEVELS * b)


AUTHOR_2014 = PublishedPca(
    key="author-2014",
    source="A. Krizhevsky, cuda-convnet2, make-data/input_meta",
    stdevs=(121.7801, 37.0939, 19.7208),
    eigenvectors=(
        (-0.56351, -0.71258, 0.41796),
        (-0.57618, -0.02354, -0.81698),
        (-0.59200, 0.70120, 0.39731),
    ),
)

# As published these are eigenvalues of pixels on the 0-1 scale: 0.2175, 0.0188, 0.0045.
LIGHTING = PublishedPca(
    key="lighting",
    source='fb.resnet.torch, datasets/imagenet.lua ("Lighting")',
    stdevs=_levels((math.sqrt(0.2175), math.sqrt(0.0188), math.sqrt(0.0045))),
    eigenvectors=(
        (-0.5675, 0.7192, 0.4009),
        (-0.5808, -0.0045, -0.8140),
        (-0.5836, -0.6948, 0.4203),
    ),
)

PUBLISHED_PCAS: tuple[PublishedPca, ...] = (AUTHOR_2014, LIGHTING)

_COMMON = "fb.resnet.torch and torchvision, where they are on the 0-1 scale"

PUBLISHED_MEANS: tuple[PublishedRgb, ...] = (
    PublishedRgb(
        key="author-2014",
        source=f"{AUTHOR_2014.source}: average of its mean image",
        rgb=(127.30, 119.72, 104.91),
    ),
    PublishedRgb(key="common", source=_COMMON, rgb=_levels((0.485, 0.456, 0.406))),
)

PUBLISHED_STDEVS: tuple[PublishedRgb, ...] = (
    *(
        PublishedRgb(key=pca.key, source=f"{pca.source}: implied by its PCA", rgb=pca.stdev_rgb)
        for pca in PUBLISHED_PCAS
    ),
    # Smaller than the lighting constants of the same code imply: not the spread of all pixels.
    PublishedRgb(key="common", source=_COMMON, rgb=_levels((0.229, 0.224, 0.225))),
)
