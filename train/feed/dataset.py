"""Open a dataset of imgprep for training: its index, labels, mean image and PCA."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgprep.colour.pca import RgbPca
from imgprep.colour.stats import rgb_moments_from_json
from imgprep.dataset.format import LABELS, MEAN_IMAGE_NPY, RGB_PCA
from imgprep.dataset.index import DatasetIndex, labels_of, load_index, read_checked
from imgprep.dataset.labels import LabelMap
from imgprep.dataset.npyfile import read_npy
from imgprep.errors import FormatError, StoreError
from imgprep.spec import Shape
from imgprep.storage import Location
from imgprep.storage.atomic import json_object
from train.errors import DataError


@dataclass(frozen=True, slots=True, eq=False)
class TrainingSet:
    """A finished dataset with the statistics that training needs."""

    index: DatasetIndex
    labels: LabelMap
    mean_image_hwc: NDArray[np.float32]
    """Mean of the training images, or of their central squares (size, size, 3), levels 0-255."""
    pca: RgbPca
    """Principal components of their RGB values, levels 0-255."""

    @property
    def folder(self) -> Path:
        """The dataset's local folder.

        Raises:
            FormatError: it is in an object store.
        """
        return self.index.folder

    @property
    def location(self) -> str:
        """The dataset's path or URL."""
        return self.index.location

    @property
    def size_px(self) -> int:
        """Side of every square record; short side of every rectangle."""
        return self.index.size_px

    @property
    def shape(self) -> Shape:
        """``square``, ``rectangle`` or ``adm``."""
        return self.index.shape

    @property
    def sides(self) -> str:
        """The size of the records, for people."""
        what = "with a short side of" if self.are_rectangles else "of"
        return f"{what} {self.size_px} px"

    @property
    def are_rectangles(self) -> bool:
        """Whether records have different heights and widths."""
        return self.shape == "rectangle"

    @property
    def encoding(self) -> str:
        """``jpeg``, ``png`` or ``raw``."""
        return self.index.encoding

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.index.classes

    @property
    def fingerprint(self) -> str:
        """Equal fingerprints mean equal data."""
        return self.index.fingerprint

    @property
    def label_order_sha256(self) -> str:
        """Hash of the class order, which gives the labels their meaning."""
        return self.index.label_order_sha256

    def records(self, split: str) -> int:
        """Number of records of ``split``; 0 if the dataset has no such split."""
        return self.index.splits[split].records if split in self.index.splits else 0


def open_dataset(location: Location) -> TrainingSet:
    """Read the index of a dataset and the files beside its shards, without opening a shard.

    Raises:
        DataError: there is no finished dataset, it was edited or damaged, it has no training split
            and therefore no statistics, or an object store does not answer or denies access.
    """
    try:
        index = load_index(location)
        if not index.splits.get("train") or not index.splits["train"].records:
            raise DataError(
                f"{index.store}: there are no training images, and so neither mean image nor PCA; "
                "build the dataset with its train split"
            )
        labels = labels_of(index, _checked_json(index, LABELS))
        mean_image_hwc = _mean_image(index)
        pca = _pca(index)
    except (FormatError, StoreError) as exc:
        raise DataError(str(exc)) from exc
    return TrainingSet(index, labels, mean_image_hwc, pca)


def _checked_json(index: DatasetIndex, name: str) -> dict[str, Any]:
    return json_object(read_checked(index, name), index.store.where(name), name)


def _mean_image(index: DatasetIndex) -> NDArray[np.float32]:
    content, where = read_checked(index, MEAN_IMAGE_NPY), index.store.where(MEAN_IMAGE_NPY)
    try:
        mean_hwc = read_npy(content)
    except ValueError as exc:
        raise DataError(f"{where}: {exc}") from exc
    if mean_hwc.dtype != np.float32 or mean_hwc.shape != (index.size_px, index.size_px, 3):
        raise DataError(
            f"{where}: {mean_hwc.dtype} {mean_hwc.shape}, expected float32 "
            f"({index.size_px}, {index.size_px}, 3)"
        )
    return mean_hwc


def _pca(index: DatasetIndex) -> RgbPca:
    """Read the stored components, so that every machine uses the same floats."""
    value = _checked_json(index, RGB_PCA)
    rgb_moments_from_json(value)  # its checks
    try:
        eigenvalues, eigenvectors, mean_rgb = (
            np.array(value[name], dtype=np.float64)
            for name in ("eigenvalues", "eigenvectors", "rgb_mean")
        )
        solver = value["solver"]
    except (KeyError, TypeError, ValueError, OverflowError) as exc:
        raise DataError(
            f"{index.store.where(RGB_PCA)}: malformed components: {exc!r:.200}"
        ) from exc
    shapes = (eigenvalues.shape, eigenvectors.shape, mean_rgb.shape)
    finite = all(np.isfinite(array).all() for array in (eigenvalues, eigenvectors, mean_rgb))
    if shapes != ((3,), (3, 3), (3,)) or not finite or (eigenvalues < 0).any():
        raise DataError(f"{index.store.where(RGB_PCA)}: malformed components")
    return RgbPca(eigenvalues, eigenvectors, mean_rgb, solver)
