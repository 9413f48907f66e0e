"""PCA from moments is scikit-learn's PCA of every pixel, and gradient ascent confirms it."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from imgprep.colour.moments import Moments, RgbMoments
from imgprep.colour.pca import RgbPca, angle_degrees, fit_pca, orient, sigma_points
from imgprep.errors import FormatError, UsageError
from imgprep.spec import SOLVERS, Solver

Pixels = NDArray[np.uint8]
SIZE_PX = 16
BOTH = pytest.mark.parametrize("solver", SOLVERS)


def rgb_of(pixels: Pixels) -> RgbMoments:
    """The moments of (n * 256, 3) pixels, taken as n images of 16x16."""
    wide = pixels.astype(np.int64)
    r, g, b = wide.T
    rows = [(r, r), (g, g), (b, b), (r, g), (r, b), (g, b)]
    rr, gg, bb, rg, rb, gb = (int(x @ y) for x, y in rows)
    sum_r, sum_g, sum_b = wide.sum(axis=0).tolist()
    images = len(pixels) // SIZE_PX**2
    return RgbMoments(images, SIZE_PX, (sum_r, sum_g, sum_b), (rr, gg, bb, rg, rb, gb))


def photo_like(seed: int, spreads: tuple[float, float, float] = (60.0, 20.0, 8.0)) -> Pixels:
    """Pixels with brightness, red-blue and magenta-green spreads near those of photographs."""
    rng = np.random.default_rng(seed)
    axes = np.array([[0.58, 0.58, 0.58], [0.7, 0.0, -0.7], [0.4, -0.8, 0.4]])
    colours = 120 + (rng.normal(size=(2048, 3)) * spreads) @ axes
    pixels: Pixels = np.clip(np.rint(colours), 0, 255).astype(np.uint8)
    return pixels


def check_orthonormal(pca: RgbPca) -> None:
    np.testing.assert_allclose(pca.eigenvectors.T @ pca.eigenvectors, np.eye(3), atol=1e-12)
    assert (np.diff(pca.eigenvalues) <= 0).all()
    assert (pca.eigenvalues >= 0).all()


@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_equals_scikit_learn_on_every_random_pixel(seed: int, images: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (images * 256, 3), dtype=np.uint8)
    every_pixel = PCA(n_components=3).fit(pixels.astype(np.float64))
    ours = fit_pca(rgb_of(pixels))
    check_orthonormal(ours)
    np.testing.assert_allclose(ours.eigenvalues, every_pixel.explained_variance_, rtol=1e-9)
    np.testing.assert_allclose(ours.mean_rgb, every_pixel.mean_, rtol=1e-9)
    np.testing.assert_allclose(
        ours.explained_variance_ratio, every_pixel.explained_variance_ratio_, rtol=1e-9
    )
    # Random pixels have close eigenvalues, so axes agree to rounding divided by the gap.
    gap = float(np.abs(np.diff(ours.eigenvalues)).min() / ours.eigenvalues[0])
    assert angle_degrees(ours.eigenvectors, every_pixel.components_.T).max() < 1e-11 / gap


@given(st.integers(0, 2**32 - 1))
def test_equals_scikit_learn_on_every_pixel_of_photo_like_images(seed: int) -> None:
    pixels = photo_like(seed)
    every_pixel = PCA(n_components=3).fit(pixels.astype(np.float64))
    ours = fit_pca(rgb_of(pixels))
    np.testing.assert_allclose(ours.eigenvalues, every_pixel.explained_variance_, rtol=1e-9)
    np.testing.assert_allclose(
        ours.eigenvectors, orient(every_pixel.components_.T), rtol=1e-9, atol=1e-9
    )


@given(st.integers(0, 2**32 - 1))
def test_gradient_ascent_finds_the_same_axes(seed: int) -> None:
    rgb = rgb_of(photo_like(seed))
    reference, climbed = fit_pca(rgb), fit_pca(rgb, "gradient-ascent")
    check_orthonormal(climbed)
    assert angle_degrees(climbed.eigenvectors, reference.eigenvectors).max() < 1e-6
    np.testing.assert_allclose(climbed.eigenvalues, reference.eigenvalues, rtol=1e-9)
    assert (climbed.eigenvectors * reference.eigenvectors).sum(axis=0).min() > 0, "same signs"
    assert len(climbed.steps) == 3
    assert max(climbed.steps) < 1000


@pytest.mark.parametrize("amounts", [(3, 6, 1), (3, 1, 6), (6, 3, 1), (1, 6, 3), (1, 3, 6)])
def test_gradient_ascent_does_not_end_on_a_saddle(amounts: tuple[int, int, int]) -> None:
    """The axes are the very directions that climbs start from: two of three start on a saddle."""
    axes = np.array([(6, 6, 7), (-2, 9, -6), (9, -2, -6)])
    corners = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
    pixels = np.tile(128 + (corners * amounts) @ axes, (32, 1)).astype(np.uint8)
    climbed = fit_pca(rgb_of(pixels), "gradient-ascent")
    expected = axes[np.argsort(amounts)[::-1]].T / 11
    assert angle_degrees(climbed.eigenvectors, expected).max() < 1e-6


@BOTH
def test_uncorrelated_channels_give_the_channel_axes(solver: Solver) -> None:
    levels = np.array([(r, g, b) for r in (0, 200) for g in (0, 50) for b in (0, 100)])
    ours = fit_pca(rgb_of(np.tile(levels, (32, 1)).astype(np.uint8)), solver)
    n = 256
    np.testing.assert_allclose(ours.eigenvalues, np.array([1e4, 2500, 625]) * n / (n - 1))
    np.testing.assert_allclose(
        np.abs(ours.eigenvectors), [[1, 0, 0], [0, 0, 1], [0, 1, 0]], atol=1e-9
    )


def test_small_eigenvalues_keep_their_digits() -> None:
    """Two small components beside a large one, six orders of variance apart."""
    pixels = photo_like(3, spreads=(60.0, 0.3, 0.3))
    every_pixel = PCA(n_components=3, svd_solver="full").fit(pixels.astype(np.float64))
    for solver in ("scikit-learn", "gradient-ascent"):
        ours = fit_pca(rgb_of(pixels), solver)
        np.testing.assert_allclose(ours.eigenvalues, every_pixel.explained_variance_, rtol=1e-9)


@BOTH
def test_grey_images_have_one_component_and_exact_zeros(solver: Solver) -> None:
    grey = np.random.default_rng(1).integers(0, 256, (512, 1), dtype=np.uint8)
    ours = fit_pca(rgb_of(np.repeat(grey, 3, axis=1)), solver)
    check_orthonormal(ours)
    np.testing.assert_allclose(
        ours.eigenvalues[0], 3 * grey.astype(np.float64).var(ddof=1), rtol=1e-12
    )
    assert ours.eigenvalues[1:].tolist() == [0.0, 0.0]
    np.testing.assert_allclose(ours.eigenvectors[:, 0], [3**-0.5] * 3, rtol=1e-12)
    assert ours.axis_is_unique == (True, False, False)


@BOTH
def test_images_of_one_colour_have_no_components(solver: Solver) -> None:
    ours = fit_pca(rgb_of(np.full((256, 3), (10, 200, 33), dtype=np.uint8)), solver)
    check_orthonormal(ours)
    assert ours.eigenvalues.tolist() == [0.0, 0.0, 0.0]
    assert ours.explained_variance_ratio.tolist() == [0.0, 0.0, 0.0]
    assert ours.mean_rgb.tolist() == [10.0, 200.0, 33.0]
    assert ours.axis_is_unique == (False, False, False)


@BOTH
def test_two_colours_have_one_component(solver: Solver) -> None:
    choice = np.random.default_rng(2).integers(0, 2, (512, 1))
    pixels = np.where(choice == 0, [[200, 10, 3]], [[100, 50, 30]]).astype(np.uint8)
    ours = fit_pca(rgb_of(pixels), solver)
    along = np.array([100.0, -40.0, -27.0])
    assert angle_degrees(ours.eigenvectors[:, :1], along[:, None])[0] < 1e-9
    assert ours.eigenvalues[1:].tolist() == [0.0, 0.0]


@BOTH
def test_equal_variances_terminate_and_are_reported_as_not_unique(solver: Solver) -> None:
    cube = np.array([(r, g, b) for r in (0, 255) for g in (0, 255) for b in (0, 255)])
    ours = fit_pca(rgb_of(np.tile(cube, (32, 1)).astype(np.uint8)), solver)
    check_orthonormal(ours)
    np.testing.assert_allclose(ours.eigenvalues, 127.5**2 * 256 / 255, rtol=1e-12)
    assert ours.axis_is_unique == (False, False, False)


def test_gradient_ascent_ends_if_eigenvalues_are_almost_equal() -> None:
    images = 2**32
    n = images * SIZE_PX**2
    mean_square, mean_product = n * 255**2 // 2, n * 255**2 // 4
    second = (mean_square, mean_square - 10**9, mean_square - 10**15) + (mean_product,) * 3
    rgb = RgbMoments(images, SIZE_PX, (n * 255 // 2,) * 3, second)
    climbed = fit_pca(rgb, "gradient-ascent")
    check_orthonormal(climbed)
    np.testing.assert_allclose(climbed.eigenvalues, fit_pca(rgb).eigenvalues, rtol=1e-9)
    assert climbed.axis_is_unique == (False, False, True)


@given(st.integers(0, 2**32 - 1))
def test_sigma_points_have_the_mean_and_covariance_of_all_pixels(seed: int) -> None:
    rgb = rgb_of(photo_like(seed))
    points = sigma_points(rgb)
    assert points.shape == (7, 3)
    np.testing.assert_allclose(points.mean(axis=0), rgb.mean(), rtol=1e-12)
    np.testing.assert_allclose(np.cov(points, rowvar=False), rgb.covariance(), rtol=1e-11)


@given(st.permutations([0, 1, 2]), st.lists(st.sampled_from([-1.0, 1.0]), min_size=3, max_size=3))
def test_signs_do_not_depend_on_the_solver_s_signs(order: list[int], signs: list[float]) -> None:
    axes = fit_pca(rgb_of(photo_like(7))).eigenvectors[:, order]
    np.testing.assert_array_equal(orient(axes * signs), axes)


def test_signs_point_to_brightness_red_and_magenta() -> None:
    vectors = fit_pca(rgb_of(photo_like(8))).eigenvectors
    assert (vectors[:, 0] > 0).all()
    assert vectors[0, 1] > 0 > vectors[2, 1]
    assert vectors[1, 2] < 0 < min(vectors[0, 2], vectors[2, 2])


def test_signs_are_stable_if_red_and_blue_have_equal_weights() -> None:
    """The second axis of photographs: its largest component is R in one set and B in another."""
    more_red = np.array([[0.71], [0.0], [-0.70]])
    more_blue = np.array([[0.70], [0.0], [-0.71]])
    assert orient(-more_red)[0, 0] > 0
    assert orient(-more_blue)[0, 0] > 0


def test_a_tie_between_directions_goes_to_the_first() -> None:
    between = np.array([[1.0], [1.0], [1.0]]) / 3**0.5 - np.array([[1.0], [0.0], [-1.0]]) / 2**0.5
    last_bits = 1e-13 * np.array([[-1.0], [0.0], [1.0]])
    for nearly in (between, between + last_bits, between - last_bits):
        assert orient(nearly)[:, 0].sum() > 0
        assert orient(-nearly)[:, 0].sum() > 0


@given(st.floats(1e-9, 89.9))
def test_angles_are_accurate_even_when_tiny(degrees: float) -> None:
    radians = np.radians(degrees)
    a = np.array([[1.0], [0.0], [0.0]])
    b = np.array([[np.cos(radians)], [np.sin(radians)], [0.0]])
    np.testing.assert_allclose(angle_degrees(a, b), [degrees], rtol=1e-9)
    np.testing.assert_allclose(angle_degrees(-3 * b, a), [degrees], rtol=1e-9)


def test_arrays_of_a_result_cannot_be_changed() -> None:
    pca = fit_pca(rgb_of(photo_like(9)))
    for array in (pca.eigenvalues, pca.eigenvectors, pca.mean_rgb):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1.0


def test_no_images_and_unknown_solvers_are_rejected() -> None:
    with pytest.raises(FormatError, match="no images"):
        fit_pca(Moments.empty(8))
    with pytest.raises(UsageError, match="gradient-ascent"):
        fit_pca(rgb_of(photo_like(1)), "svd")  # type: ignore[arg-type]


def test_gradient_ascent_needs_neither_scikit_learn_nor_lapack() -> None:
    program = """
import json, sys
import numpy as np
for name in ("eig", "eigh", "eigvals", "eigvalsh", "svd", "cholesky", "qr", "solve", "inv"):
    delattr(np.linalg, name)
from imgprep.colour.moments import RgbMoments
from imgprep.colour.pca import fit_pca
pca = fit_pca(RgbMoments(1, 2, (30, 20, 10), (300, 200, 90, 160, 80, 60)), "gradient-ascent")
print(json.dumps([pca.eigenvalues.tolist(), "sklearn" in sys.modules]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    eigenvalues, imported = json.loads(done.stdout)
    covariance = (np.array([[300, 160, 80], [160, 200, 60], [80, 60, 90]]) * 4.0) / 12
    covariance -= np.outer([30, 20, 10], [30, 20, 10]) / 12
    np.testing.assert_allclose(eigenvalues, np.linalg.eigvalsh(covariance)[::-1], rtol=1e-9)
    assert not imported
