"""Unsupervised learning: k-means of photographs, and how well its clusters agree with the classes.

Three descriptions of the same photographs are clustered: small pixels, the first principal
components of these, and the network's last hidden layer (fc7).

Suffixes: n photographs, d numbers of a description, p pixels' rows and columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from train.errors import DataError

SMALL_PX = 32
"""Side of the photographs whose pixels are clustered."""
COMPONENTS = 64
"""Principal components kept; fewer if there are fewer photographs."""
STARTS = 10
"""Starts of k-means; the best one counts."""
SHUFFLES = 20
"""Random assignments that show what chance would give."""
NEAREST = 8
"""Photographs shown for each cluster: those nearest to its centre."""

Vectors = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """A cluster."""

    photographs: int
    most_frequent: int
    """The class (label) that most of its photographs have; of a tie, the first."""
    of_that_class: int
    nearest: tuple[int, ...]
    """Up to ``NEAREST`` photographs (positions in the input), nearest to the centre first."""

    def to_json(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "photographs": self.photographs,
            "most_frequent": self.most_frequent,
            "of_that_class": self.of_that_class,
            "nearest": list(self.nearest),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Clustering:
    """The clusters of one description, largest share of one class first."""

    description: str
    dimensions: int
    clusters: tuple[Cluster, ...]
    purity: float
    """Share of the photographs that have the most frequent class of their cluster."""
    information: float
    """Normalised mutual information of clusters and classes: 0 for none, 1 for the same."""
    chance_purity: float
    """The same for clusters of the same sizes filled at random: mean of ``SHUFFLES``."""
    chance_information: float

    def to_json(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "description": self.description,
            "dimensions": self.dimensions,
            "purity": self.purity,
            "normalised_mutual_information": self.information,
            "chance_purity": self.chance_purity,
            "chance_normalised_mutual_information": self.chance_information,
            "clusters": [cluster.to_json() for cluster in self.clusters],
        }


def small_pixels(photographs: Sequence[NDArray[np.uint8]], side_px: int = SMALL_PX) -> Vectors:
    """Shrink photographs (rows, columns, 3) to a side and flatten them: (n, 3 * side * side)."""
    from PIL import Image

    return np.stack(
        [
            np.asarray(
                Image.fromarray(each).resize((side_px, side_px), Image.Resampling.BOX), np.float32
            ).reshape(-1)
            for each in photographs
        ]
    )


def principal_components(vectors_nd: Vectors, *, seed: int, count: int = COMPONENTS) -> Vectors:
    """Return the first ``count`` principal components of vectors (n, d): (n, at most count)."""
    from sklearn.decomposition import PCA

    kept = min(count, *vectors_nd.shape)
    fitted = PCA(n_components=kept, svd_solver="randomized", random_state=seed)
    found: Vectors = fitted.fit_transform(vectors_nd).astype(np.float32)
    return found


def cluster_all(
    described: Mapping[str, Vectors], labels_n: NDArray[np.int64], *, seed: int
) -> list[Clustering]:
    """Cluster each description of the same photographs into as many clusters as classes.

    Raises:
        DataError: the photographs are of fewer than two classes, or a description has a value that
            is not finite.
    """
    classes = len(np.unique(labels_n))
    if classes < 2:
        raise DataError("clusters are compared with classes: this needs at least two classes")
    return [cluster(name, vectors, labels_n, seed=seed) for name, vectors in described.items()]


def cluster(
    description: str, vectors_nd: Vectors, labels_n: NDArray[np.int64], *, seed: int
) -> Clustering:
    """Cluster vectors (n, d) by k-means, and compare the clusters with the classes ``labels_n``.

    Raises:
        DataError: a value is not finite.
    """
    from sklearn.cluster import KMeans

    if not np.isfinite(vectors_nd).all():
        raise DataError(f"{description}: some values are not finite, so there are no clusters")
    # Equal vectors, as of a net that answers the same to everything, are fewer points.
    count = min(len(np.unique(labels_n)), len(np.unique(vectors_nd, axis=0)))
    fitted = KMeans(n_clusters=count, n_init=STARTS, random_state=seed).fit(vectors_nd)
    chance = _by_chance(fitted.labels_, labels_n, seed)
    apart = np.linalg.norm(vectors_nd - fitted.cluster_centers_[fitted.labels_], axis=1)
    clusters = [
        _cluster(np.flatnonzero(fitted.labels_ == k), labels_n, apart) for k in range(count)
    ]
    clusters.sort(key=lambda each: (-each.of_that_class / each.photographs, each.nearest))
    return Clustering(
        description=description,
        dimensions=vectors_nd.shape[1],
        clusters=tuple(clusters),
        purity=purity(fitted.labels_, labels_n),
        information=information(fitted.labels_, labels_n),
        chance_purity=chance[0],
        chance_information=chance[1],
    )


def purity(cluster_n: NDArray[np.int64], labels_n: NDArray[np.int64]) -> float:
    """Return the share of photographs that have the most frequent class of their cluster."""
    from sklearn.metrics.cluster import contingency_matrix

    return float(contingency_matrix(labels_n, cluster_n).max(0).sum() / len(labels_n))


def information(cluster_n: NDArray[np.int64], labels_n: NDArray[np.int64]) -> float:
    """Return the normalised mutual information (arithmetic mean) of clusters and classes."""
    from sklearn.metrics import normalized_mutual_info_score

    return float(normalized_mutual_info_score(labels_n, cluster_n))


def _by_chance(
    cluster_n: NDArray[np.int64], labels_n: NDArray[np.int64], seed: int
) -> tuple[float, float]:
    """Mean purity and mutual information of the clusters with their photographs shuffled."""
    random = np.random.default_rng(seed)
    found = [
        (purity(mixed, labels_n), information(mixed, labels_n))
        for mixed in (random.permutation(cluster_n) for _ in range(SHUFFLES))
    ]
    mean_purity, mean_information = np.mean(found, axis=0).tolist()
    return mean_purity, mean_information


def _cluster(
    members: NDArray[np.int64], labels_n: NDArray[np.int64], apart: NDArray[np.float32]
) -> Cluster:
    counts = np.bincount(labels_n[members])
    near = members[np.argsort(apart[members], kind="stable")][:NEAREST]
    return Cluster(
        photographs=len(members),
        most_frequent=int(counts.argmax()),
        of_that_class=int(counts.max()),
        nearest=tuple(near.tolist()),
    )
