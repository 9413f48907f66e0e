"""Area averages and moments: every backend is compared with the exact definition."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from imgprep.errors import UsageError
from imgprep.image.geometry import Crop, Placement, centre_crop, covered_region, scaled_size
from imgprep.image.kernel import add_moments, area_shrink, available_backends, choose_backend

BACKENDS = available_backends()
COMPILED = tuple(name for name in BACKENDS if name != "numpy")
each_backend = pytest.mark.parametrize("backend", BACKENDS)

seeds = st.integers(0, 2**32 - 1)


def noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Random pixels, half of them near the ends of the range."""
    rng = np.random.default_rng(seed)
    levels = rng.integers(0, 256, (height, width, 3))
    ends = rng.choice([0, 1, 254, 255], (height, width, 3))
    return np.where(rng.random((height, width, 1)) < 0.5, levels, ends).astype(np.uint8)


def overlap_matrix(n_source: int, n_scaled: int) -> NDArray[np.int64]:
    """(n_scaled, n_source): the overlap of each output and source sample, times n_scaled."""
    i, j = np.ogrid[:n_scaled, :n_source]
    ends = np.minimum((i + 1) * n_source, (j + 1) * n_scaled)
    matrix: NDArray[np.int64] = np.maximum(ends - np.maximum(i * n_source, j * n_scaled), 0)
    assert (matrix.sum(axis=1) == n_source).all()
    return matrix


def exact_area(
    image_hwc: NDArray[np.uint8], scaled_hw: tuple[int, int], crop: Crop
) -> NDArray[np.int64]:
    """The whole scaled image in exact integers, rounded half up, then cropped."""
    height, width, _ = image_hwc.shape
    down, across = overlap_matrix(height, scaled_hw[0]), overlap_matrix(width, scaled_hw[1])
    sums = np.einsum("ih,hwc,kw->ikc", down, image_hwc.astype(np.int64), across, optimize=True)
    full = (2 * sums + height * width) // (2 * height * width)
    cropped: NDArray[np.int64] = full[crop.top :, crop.left :][: crop.height_px, : crop.width_px]
    return cropped


@st.composite
def shrinks(draw: st.DrawFn) -> tuple[NDArray[np.uint8], tuple[int, int], Crop]:
    """Any shrink that the kernel allows, including those that no build uses."""
    scaled = draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    extra = st.one_of(st.integers(0, 3), st.integers(0, 60), st.sampled_from([500, 900]))
    height, width = (side + draw(extra) for side in scaled)
    rows, columns = (draw(st.integers(1, side)) for side in scaled)
    top, left = draw(st.integers(0, scaled[0] - rows)), draw(st.integers(0, scaled[1] - columns))
    return noise(height, width, draw(seeds)), scaled, Crop(top, left, rows, columns)


@settings(deadline=None, max_examples=150)
@given(shrinks())
def test_area_is_the_exact_area_average_within_one_level(
    case: tuple[NDArray[np.uint8], tuple[int, int], Crop],
) -> None:
    image_hwc, scaled, crop = case
    expected = exact_area(image_hwc, scaled, crop)
    for backend in BACKENDS:
        found = area_shrink(image_hwc, scaled, crop, backend=backend)
        assert found.shape == (crop.height_px, crop.width_px, 3)
        assert np.abs(found - expected).max() <= (0 if backend == "numpy" else 1), backend


@settings(deadline=None, max_examples=100)
@given(shrinks())
def test_compiled_backends_give_the_same_bytes(
    case: tuple[NDArray[np.uint8], tuple[int, int], Crop],
) -> None:
    results = {area_shrink(*case, backend=backend).tobytes() for backend in COMPILED}
    assert len(results) <= 1


@settings(max_examples=80)
@given(shrinks(), st.tuples(*[st.integers(0, 3)] * 4))
def test_the_covered_region_is_enough(
    case: tuple[NDArray[np.uint8], tuple[int, int], Crop], margins: tuple[int, int, int, int]
) -> None:
    image_hwc, scaled, crop = case
    height, width, _ = image_hwc.shape
    region = covered_region((height, width), scaled, crop)
    above, below, before, after = margins
    top, left = max(region.top - above, 0), max(region.left - before, 0)
    cut = image_hwc[top : region.bottom + below, left : region.right + after].copy()
    placement = Placement(height, width, top, left)
    for backend in BACKENDS:
        expected = area_shrink(image_hwc, scaled, crop, backend=backend)
        assert (
            area_shrink(cut, scaled, crop, placement=placement, backend=backend) == expected
        ).all()


@each_backend
@pytest.mark.parametrize(
    ("placement", "shape"),
    [
        (Placement(20, 40, 1, 5), (19, 20)),
        (Placement(20, 40, 0, 6), (20, 20)),
        (Placement(20, 40, 0, 5), (19, 20)),
        (Placement(20, 40, 0, 5), (20, 19)),
        (Placement(20, 40, 0, 5), (21, 30)),
        (Placement(20, 40, 0, 5), (20, 36)),
        (Placement(20, 40, -1, 5), (21, 30)),
        (Placement(20, 40, 0, -1), (20, 40)),
        (Placement(2**40, 40), (20, 40)),
        (Placement(20, 40, 0, 2**40), (20, 40)),
        (Placement(0, 0), (20, 40)),
    ],
)
def test_pixels_that_do_not_include_the_crop_are_rejected(
    backend: str, placement: Placement, shape: tuple[int, int]
) -> None:
    with pytest.raises(ValueError, match="inside the given pixels"):  # needs columns 5 to 25
        area_shrink(noise(*shape), (8, 16), Crop(0, 2, 8, 8), placement=placement, backend=backend)
    fitting = Placement(20, 40, 0, 5)
    area_shrink(noise(20, 20), (8, 16), Crop(0, 2, 8, 8), placement=fitting, backend=backend)


@each_backend
@pytest.mark.parametrize("level", [0, 1, 127, 128, 254, 255])
@pytest.mark.parametrize("height", [256, 257, 375, 511, 512, 1000, 2900])
def test_a_flat_image_stays_flat(backend: str, level: int, height: int) -> None:
    image_hwc = np.full((height, height + 17, 3), level, np.uint8)
    for size in (256, 94):
        scaled = scaled_size(height, height + 17, size)
        found = area_shrink(image_hwc, scaled, centre_crop(scaled, size), backend=backend)
        assert (found == level).all()


@each_backend
def test_half_size_is_the_mean_of_two_by_two(backend: str) -> None:
    image_hwc = noise(64, 64)
    wide = image_hwc.astype(int)
    quads = wide[0::2, 0::2] + wide[1::2, 0::2] + wide[0::2, 1::2] + wide[1::2, 1::2]
    found = area_shrink(image_hwc, (32, 32), Crop(0, 0, 32, 32), backend=backend)
    assert (found == (quads + 2) // 4).all()


@each_backend
def test_an_edge_pixel_counts_by_its_covered_fraction(backend: str) -> None:
    row = np.array([30, 60, 90], np.uint8)
    image_hwc = np.repeat(np.repeat(row[None, :, None], 3, axis=0), 3, axis=2)
    found = area_shrink(image_hwc, (2, 2), Crop(0, 0, 2, 2), backend=backend)
    assert found[0, :, 0].tolist() == [40, 80]  # (30 + 60/2) / 1.5, (60/2 + 90) / 1.5


@each_backend
def test_many_taps_do_not_accumulate_a_bias(backend: str) -> None:
    image_hwc = noise(780, 820, 5)
    for size in (20, 27, 40):  # the exact version, and the last sizes of the fixed-point version
        found = area_shrink(image_hwc, (size, size), Crop(0, 0, size, size), backend=backend)
        down, across = overlap_matrix(780, size), overlap_matrix(820, size)
        sums = np.einsum("ih,hwc,kw->ikc", down, image_hwc.astype(float), across, optimize=True)
        assert abs((found - sums / (780 * 820)).mean()) < 0.05


@each_backend
def test_reads_stay_inside_the_image(backend: str) -> None:
    # The image is surrounded by 255s, which a read outside of it would add to the result.
    for height, width in [(9, 9), (10, 31), (12, 8), (33, 9), (40, 40)]:
        around = np.full((3 * height * width + 128,), 255, np.uint8)
        image_hwc = around[64:-64].reshape(height, width, 3)
        image_hwc[:] = 0
        scaled = scaled_size(height, width, 8)
        assert not area_shrink(image_hwc, scaled, centre_crop(scaled, 8), backend=backend).any()


@each_backend
@pytest.mark.parametrize(
    ("scaled", "crop"),
    [
        ((11, 8), Crop(0, 0, 8, 8)),
        ((8, 21), Crop(0, 0, 8, 8)),
        ((8, 16), Crop(0, 9, 8, 8)),
        ((8, 16), Crop(1, 0, 8, 8)),
        ((8, 16), Crop(-1, 0, 8, 8)),
        ((8, 16), Crop(0, -1, 8, 8)),
        ((0, 0), Crop(0, 0, 8, 8)),
    ],
)
def test_area_rejects_sizes_that_do_not_fit(
    backend: str, scaled: tuple[int, int], crop: Crop
) -> None:
    with pytest.raises(ValueError, match="crop must be inside"):
        area_shrink(noise(10, 20), scaled, crop, backend=backend)


@each_backend
@pytest.mark.parametrize(
    "image",
    [
        np.zeros((10, 20), np.uint8),
        np.zeros((10, 20, 4), np.uint8),
        np.zeros((10, 20, 3), np.int8),
        np.zeros((10, 20, 3), np.uint16),
        np.zeros((0, 20, 3), np.uint8),
        np.zeros((10, 40, 3), np.uint8)[:, ::2],
    ],
)
def test_wrong_arrays_are_rejected(backend: str, image: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError):
        area_shrink(image, (8, 8), Crop(0, 0, 8, 8), backend=backend)
    with pytest.raises(ValueError):
        add_moments(image, np.zeros(image.shape, np.uint32), backend=backend)


def expected_moments(image_hwc: NDArray[np.uint8]) -> tuple[int, ...]:
    r, g, b = image_hwc.reshape(-1, 3).astype(np.int64).T
    return tuple(int(x @ y) for x, y in ((r, r), (g, g), (b, b), (r, g), (r, b), (g, b)))


@settings(deadline=None, max_examples=80)
@given(st.integers(1, 70), st.integers(1, 70), seeds)
def test_moments_are_exact(height: int, width: int, seed: int) -> None:
    image_hwc = noise(height, width, seed)
    start = np.random.default_rng(seed).integers(0, 2**31, image_hwc.shape, dtype=np.uint32)
    for backend in BACKENDS:
        pixel_sum = start.copy()
        assert add_moments(image_hwc, pixel_sum, backend=backend) == expected_moments(image_hwc)
        assert (pixel_sum == start.astype(np.int64) + image_hwc).all()


@each_backend
def test_moments_do_not_overflow_on_the_largest_white_record(backend: str) -> None:
    white = np.full((4096, 4096, 3), 255, np.uint8)
    pixel_sum = np.zeros(white.shape, np.uint32)
    assert add_moments(white, pixel_sum, backend=backend) == (4096 * 4096 * 255 * 255,) * 6
    assert (pixel_sum == 255).all()


@each_backend
@pytest.mark.parametrize(
    "pixel_sum",
    [
        np.zeros((8, 9, 3), np.uint32),
        np.zeros((8, 8, 3), np.int64),
        np.zeros((8, 8, 3), np.float32),
        np.zeros((8, 16, 3), np.uint32)[:, ::2],
    ],
)
def test_a_wrong_pixel_sum_is_rejected(backend: str, pixel_sum: NDArray[np.uint32]) -> None:
    with pytest.raises(ValueError):
        add_moments(noise(8, 8), pixel_sum, backend=backend)


def test_the_backend_is_chosen_by_name() -> None:
    assert choose_backend(None) == choose_backend("auto") == BACKENDS[0]
    assert choose_backend("numpy") == "numpy"
    with pytest.raises(UsageError, match=r"IMGPREP_KERNEL must be one of .*; got 'gpu'"):
        choose_backend("gpu")


@each_backend
def test_the_environment_selects_a_backend(backend: str) -> None:
    code = "from imgprep.image.kernel import BACKEND; print(BACKEND)"
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "IMGPREP_KERNEL": backend},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == backend
