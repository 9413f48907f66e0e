"""The statistics of a finished dataset are those of every pixel of every training image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from imgprep.colour.stats import load_moments
from imgprep.image.prepare import prepare
from imgprep.spec import ImageSpec
from tests.reading import source_of


@pytest.fixture(scope="module")
def pixels(mini: Path, built: Path) -> NDArray[np.uint8]:
    """All training pixels, ``(images, 256, 256, 3)``, prepared one by one from the source."""
    paths = [mini / "train" / where for where in source_of(built, "train").values()]
    images = [prepare(path.read_bytes(), ImageSpec()).image_hwc for path in paths]
    return np.stack(images)


@pytest.fixture(scope="module")
def stored(built: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((built / "rgb_pca.json").read_text())
    return content


def test_pca_equals_a_fit_of_every_pixel(pixels: NDArray[np.uint8], stored: dict[str, Any]) -> None:
    fitted = PCA(n_components=3).fit(pixels.reshape(-1, 3).astype(np.float64))
    np.testing.assert_allclose(stored["eigenvalues"], fitted.explained_variance_, rtol=1e-9)
    np.testing.assert_allclose(stored["rgb_mean"], fitted.mean_, rtol=1e-9)
    axes = np.array(stored["eigenvectors"])  # columns
    for ours, theirs in zip(axes.T, fitted.components_, strict=True):
        aligned = theirs * np.sign(ours @ theirs)
        np.testing.assert_allclose(ours, aligned, rtol=1e-9, atol=1e-9)


def test_covariance_equals_numpys(pixels: NDArray[np.uint8], stored: dict[str, Any]) -> None:
    covariance = np.cov(pixels.reshape(-1, 3).astype(np.float64), rowvar=False)
    np.testing.assert_allclose(stored["rgb_covariance"], covariance, rtol=1e-9)


def test_sums_are_exact_integers(
    pixels: NDArray[np.uint8], built: Path, stored: dict[str, Any]
) -> None:
    moments = load_moments(built)
    np.testing.assert_array_equal(moments.pixel_sum_hwc, pixels.sum(axis=0, dtype=np.int64))
    flat = pixels.reshape(-1, 3).astype(np.int64)
    assert stored["rgb_second_moment"] == (flat.T @ flat).tolist()
    assert stored["rgb_sum"] == flat.sum(axis=0).tolist()
    assert stored["images"] == len(pixels) == 96


def test_mean_image_is_the_mean_of_each_pixel(pixels: NDArray[np.uint8], built: Path) -> None:
    mean_image = np.load(built / "mean_image.npy", allow_pickle=False)
    expected = (pixels.sum(axis=0, dtype=np.int64) / len(pixels)).astype(np.float32)
    np.testing.assert_array_equal(mean_image, expected)
