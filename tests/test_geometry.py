"""Sizes and offsets are compared with exact rational arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgprep.image.geometry import Crop, centre_crop, scaled_size, source_box

sides = st.integers(1, 70_000)
targets = st.integers(1, 4096)


@given(sides, sides, targets)
def test_the_short_side_is_exact_and_the_other_is_rounded_half_up(
    height: int, width: int, short: int
) -> None:
    factor = Fraction(short, min(height, width))
    expected = tuple(math.floor(side * factor + Fraction(1, 2)) for side in (height, width))
    assert scaled_size(height, width, short) == expected
    assert min(expected) == short


@given(sides, sides, targets)
def test_both_axes_shrink_or_both_grow(height: int, width: int, short: int) -> None:
    scaled = scaled_size(height, width, short)
    if min(height, width) > short:
        assert scaled[0] < height
        assert scaled[1] < width
    else:
        assert scaled[0] >= height
        assert scaled[1] >= width


@given(sides, sides, targets)
def test_the_crop_is_central_and_inside(height: int, width: int, short: int) -> None:
    scaled = scaled_size(height, width, short)
    crop = centre_crop(scaled, short)
    for offset, side in ((crop.top, scaled[0]), (crop.left, scaled[1])):
        after = side - short - offset
        assert offset >= 0
        assert after - offset in (0, 1), "an odd surplus pixel is cut at the right or bottom"


@given(sides, sides, targets)
def test_the_source_box_is_inside_the_source(height: int, width: int, short: int) -> None:
    scaled = scaled_size(height, width, short)
    left, top, right, bottom = source_box((height, width), scaled, centre_crop(scaled, short))
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height


@pytest.mark.parametrize(
    ("source", "scaled", "crop"),
    [
        ((375, 500), (256, 341), Crop(0, 42, 256, 256)),
        ((500, 375), (341, 256), Crop(42, 0, 256, 256)),
        ((256, 256), (256, 256), Crop(0, 0, 256, 256)),
        ((1, 10_000), (256, 2_560_000), Crop(0, 1_279_872, 256, 256)),
        ((512, 517), (256, 259), Crop(0, 1, 256, 256)),  # 258.5 is rounded up
    ],
)
def test_known_sizes(source: tuple[int, int], scaled: tuple[int, int], crop: Crop) -> None:
    assert scaled_size(*source, 256) == scaled
    assert centre_crop(scaled, 256) == crop


def test_known_box() -> None:
    assert source_box((2, 4), (4, 8), Crop(0, 2, 4, 4)) == (1.0, 0.0, 3.0, 2.0)
