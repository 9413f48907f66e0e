"""The moments are exact, and do not depend on order, grouping or the number of workers."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from imgprep.colour.moments import FOLD_IMAGES, Moments, MomentsAccumulator, RgbMoments, merge
from imgprep.errors import FormatError

SIZE_PX = 4
Images = NDArray[np.uint8]


def image_sets(min_images: int = 0) -> st.SearchStrategy[Images]:
    return st.integers(min_images, 4).flatmap(
        lambda n: arrays(np.uint8, (n, SIZE_PX, SIZE_PX, 3), elements=st.integers(0, 255))
    )


def moments_of(images: Images) -> Moments:
    accumulator = MomentsAccumulator(images.shape[1])
    for image_hwc in images:
        accumulator.add(image_hwc)
    return accumulator.moments()


@given(image_sets())
def test_sums_are_those_of_plain_integer_arithmetic(images: Images) -> None:
    moments = moments_of(images)
    wide = images.astype(np.int64)
    r, g, b = wide.reshape(-1, 3).T
    assert moments.images == len(images)
    assert moments.pixels == images.size // 3
    assert moments.pixel_sum_hwc.dtype == np.int64
    np.testing.assert_array_equal(moments.pixel_sum_hwc, wide.sum(axis=0))
    assert moments.rgb_sum == (r.sum(), g.sum(), b.sum())
    pairs = ((r, r), (g, g), (b, b), (r, g), (r, b), (g, b))
    assert list(moments.second) == [int(x @ y) for x, y in pairs]
    assert all(type(value) is int for value in (*moments.rgb_sum, *moments.second))


@given(image_sets(), image_sets(), image_sets())
def test_merge_is_associative_commutative_and_equal_to_one_pass(
    a: Images, b: Images, c: Images
) -> None:
    x, y, z = moments_of(a), moments_of(b), moments_of(c)
    assert x + y == y + x
    assert (x + y) + z == x + (y + z)
    assert merge(merge(x, y), z) == moments_of(np.concatenate([a, b, c]))
    assert x + Moments.empty(SIZE_PX) == x


@given(image_sets(min_images=1))
def test_covariance_is_the_exact_fraction_rounded_once(images: Images) -> None:
    pixels = images.reshape(-1, 3).astype(int).tolist()
    n = len(pixels)
    sums = [sum(pixel[i] for pixel in pixels) for i in range(3)]
    for ddof in (0, 1):
        covariance = moments_of(images).rgb_covariance(ddof)
        for i in range(3):
            for j in range(3):
                products = sum(pixel[i] * pixel[j] for pixel in pixels)
                exact = (products - Fraction(sums[i] * sums[j], n)) / (n - ddof)
                assert covariance[i, j] == float(exact)


@given(image_sets(min_images=1), st.integers(1, 10**9))
def test_covariance_of_very_many_images_is_still_rounded_once(images: Images, times: int) -> None:
    few = moments_of(images).rgb
    r, g, b = (times * x for x in few.sums)
    rr, gg, bb, rg, rb, gb = (times * x for x in few.second)
    many = RgbMoments(times * few.images, SIZE_PX, (r, g, b), (rr, gg, bb, rg, rb, gb))
    n = many.pixels
    exact = [
        [float((xy - Fraction(x * y, n)) / (n - 1)) for xy, y in zip(row, many.sums, strict=True)]
        for row, x in zip(many.second_matrix(), many.sums, strict=True)
    ]
    assert many.covariance().tolist() == exact


@given(image_sets(min_images=1))
def test_covariance_and_mean_agree_with_numpy(images: Images) -> None:
    moments = moments_of(images)
    pixels = images.reshape(-1, 3).astype(np.float64)
    np.testing.assert_allclose(moments.rgb_mean(), pixels.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(
        moments.rgb_covariance(), np.cov(pixels, rowvar=False), rtol=1e-9, atol=1e-9
    )


def test_covariance_does_not_cancel_at_full_imagenet_size() -> None:
    """One pixel of 84 billion is one level darker: naive float64 sums cannot see that."""
    images, size_px = 1_281_167, 256
    n = images * size_px**2
    s, q = 255 * n - 1, 255**2 * (n - 1) + 254**2
    rgb = RgbMoments(images, size_px, (s, s, s), (q, q, q, q, q, q))
    assert (rgb.covariance() == 1 / n).all()


@given(image_sets(min_images=1))
def test_mean_image_is_the_exact_quotient(images: Images) -> None:
    mean_image_hwc = moments_of(images).mean_image_hwc()
    assert mean_image_hwc.dtype == np.float32
    sums = images.astype(np.int64).sum(axis=0)
    expected = [np.float32(float(Fraction(int(s), len(images)))) for s in sums.ravel()]
    assert mean_image_hwc.ravel().tolist() == expected


@given(image_sets(), st.integers(1, 3))
def test_folding_does_not_change_the_result(images: Images, fold_images: int) -> None:
    folding = MomentsAccumulator(SIZE_PX, fold_images=fold_images)
    for image_hwc in images:
        folding.add(image_hwc)
    assert folding.moments() == moments_of(images)


def test_fold_happens_before_uint32_overflows() -> None:
    assert 255 * FOLD_IMAGES < 2**32
    with pytest.raises(ValueError, match="fold_images"):
        MomentsAccumulator(SIZE_PX, fold_images=FOLD_IMAGES + 1)


def test_fold_resets_the_uint32_sum_when_it_is_full() -> None:
    accumulator = MomentsAccumulator(1, fold_images=1)
    white = np.full((1, 1, 3), 255, dtype=np.uint8)
    accumulator._recent_u32.fill(2**32 - 1)  # as full as it can ever be
    accumulator._unfolded = 1
    accumulator.add(white)
    assert accumulator.moments().pixel_sum_hwc.tolist() == [[[2**32 + 254] * 3]]


def test_more_images_can_be_added_after_reading_the_moments() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, SIZE_PX, SIZE_PX, 3), dtype=np.uint8)
    accumulator = MomentsAccumulator(SIZE_PX)
    accumulator.add(images[0])
    before = accumulator.moments()
    for image_hwc in images[1:]:
        accumulator.add(image_hwc)
    assert accumulator.moments() == moments_of(images)
    assert before == moments_of(images[:1])


def test_equality_is_by_value_of_every_field() -> None:
    image = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    moments = moments_of(image)
    assert moments == moments_of(image)
    assert moments != Moments(2, moments.pixel_sum_hwc, moments.second)
    assert moments != Moments(1, moments.pixel_sum_hwc + 1, moments.second)
    assert moments != Moments(1, moments.pixel_sum_hwc, (0, *moments.second[1:]))
    assert moments != Moments.empty(3)
    assert moments != "moments"


def test_pixel_sum_is_read_only_and_contiguous() -> None:
    transposed = np.ones((3, 2, 2), dtype=np.int64).T
    moments = Moments(1, transposed, (4, 4, 4, 4, 4, 4))
    assert moments.pixel_sum_hwc.flags.c_contiguous
    with pytest.raises(ValueError, match="read-only"):
        moments.pixel_sum_hwc[0, 0, 0] = 7


def test_sizes_that_differ_do_not_merge() -> None:
    with pytest.raises(FormatError, match="8 px and 16 px"):
        merge(Moments.empty(8), Moments.empty(16))


@pytest.mark.parametrize(
    ("pixel_sum", "message"),
    [
        (np.zeros((4, 5, 3), dtype=np.int64), r"shape \(4, 5, 3\)"),
        (np.zeros((4, 4), dtype=np.int64), r"shape \(4, 4\)"),
        (np.zeros((4, 4, 3), dtype=np.float64), "float64, not int64"),
    ],
)
def test_wrong_arrays_are_rejected(pixel_sum: NDArray[np.int64], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        Moments(1, pixel_sum, (0, 0, 0, 0, 0, 0))


@pytest.mark.parametrize(
    ("sums", "second", "message"),
    [
        ((256, 0, 0), (65536, 0, 0, 0, 0, 0), "cannot come from"),
        ((10, 0, 0), (9, 0, 0, 0, 0, 0), "cannot come from"),
        ((10, 0, 0), (2551, 0, 0, 0, 0, 0), "cannot come from"),
        ((-1, 0, 0), (0, 0, 0, 0, 0, 0), "cannot come from"),
        ((9, 0, 0), (80, 0, 0, 0, 0, 0), "negative variance"),
    ],
)
def test_impossible_sums_are_rejected(
    sums: tuple[int, int, int], second: tuple[int, int, int, int, int, int], message: str
) -> None:
    with pytest.raises(FormatError, match=message):
        RgbMoments(1, 1, sums, second)


def test_no_images_have_no_mean() -> None:
    for compute in (
        Moments.empty(8).mean_image_hwc,
        Moments.empty(8).rgb_mean,
        Moments.empty(8).rgb_covariance,
    ):
        with pytest.raises(FormatError, match=r"no images|too few"):
            compute()
