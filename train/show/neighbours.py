"""Nearest training photographs in the network's eyes, as in the paper's figure 4 (right).

Two photographs are near if their vectors of the last hidden layer (fc7, the input of fc8) have a
small Euclidean distance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from train.net import Net
from train.run.evaluate import BatchLike

NEAREST = 6


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A training record and its distance."""

    record: int
    label: int
    distance: float


@dataclass(frozen=True, slots=True)
class Neighbourhood:
    """A record and its neighbours, nearest first."""

    record: int
    label: int
    nearest: tuple[Neighbour, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """Feature vectors of records, in the order of the loader."""

    record_n: NDArray[np.int64]
    labels_n: NDArray[np.int64]
    vectors_nd: NDArray[np.float32]
    """(n, units of fc7)."""

    def __len__(self) -> int:
        return len(self.record_n)


@torch.no_grad()
def features_of(
    net: Net, batches: Iterable[BatchLike], advanced: Callable[[int], None] = lambda images: None
) -> Features:
    """Compute the input of fc8 for the first view of each image, at test time (no dropout).

    ``advanced`` is called with the number of images of each batch.
    """
    records, labels, vectors = [], [], []
    for batch in batches:
        (images, *_) = batch.images_v
        vectors.append(net.forward_features(images.float(), None).float().cpu().numpy())
        records.append(np.asarray(batch.record_n, np.int64))
        labels.append(batch.labels_n.cpu().numpy())
        advanced(len(records[-1]))
    if not records:
        raise ValueError("features_of needs at least one batch")
    return Features(np.concatenate(records), np.concatenate(labels), np.concatenate(vectors))


def nearest(asked: Features, pool: Features, count: int = NEAREST) -> list[Neighbourhood]:
    """Find the ``count`` nearest of ``pool`` (all, if there are fewer) for each of ``asked``."""
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(
        n_neighbors=min(count, len(pool)), metric="euclidean", algorithm="brute"
    )
    places = search.fit(pool.vectors_nd).kneighbors(asked.vectors_nd, return_distance=False)
    found = []
    for n, row in enumerate(places):
        # The search computes distances from dot products, which are not 0 for equal vectors.
        apart = pool.vectors_nd[row].astype(np.float64) - asked.vectors_nd[n]
        distances = np.linalg.norm(apart, axis=1)
        order = np.argsort(distances, kind="stable")
        near = tuple(
            Neighbour(int(pool.record_n[at]), int(pool.labels_n[at]), float(distance))
            for at, distance in zip(row[order], distances[order], strict=True)
        )
        found.append(Neighbourhood(int(asked.record_n[n]), int(asked.labels_n[n]), near))
    return found
