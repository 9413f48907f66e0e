"""Resize and crop in one step give the same pixels as resizing everything and then cropping."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from imgprep.image.geometry import Crop, Placement, Region, centre_crop, scaled_size
from imgprep.image.kernel import area_shrink
from imgprep.image.resize import needed_region, resize_crop
from imgprep.spec import FILTERS


def picture(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    """Noise on a slope: hard to resample, and different everywhere."""
    rng = np.random.default_rng(seed)
    slope = np.add.outer(np.linspace(0, 120, height), np.linspace(0, 120, width))[:, :, None]
    return np.clip(slope + rng.integers(-60, 90, (height, width, 3)), 0, 255).astype(np.uint8)


def resize_then_crop(
    image_hwc: NDArray[np.uint8], size_px: int, filter_name: str
) -> NDArray[np.uint8]:
    """All pixels, the slow way; area pixel by pixel by the numpy reference."""
    height, width, _ = image_hwc.shape
    tall, wide = scaled_size(height, width, size_px)
    crop = centre_crop((tall, wide), size_px)
    if filter_name == "area" and min(height, width) > size_px:
        full = np.empty((tall, wide, 3), np.uint8)
        for top in range(tall):
            for left in range(wide):
                tile = area_shrink(image_hwc, (tall, wide), Crop(top, left, 1, 1), backend="numpy")
                full[top, left] = tile[0, 0]
    else:
        method = "BICUBIC" if filter_name == "area" else filter_name.upper()
        full = np.asarray(Image.fromarray(image_hwc).resize((wide, tall), Image.Resampling[method]))
    return full[crop.top : crop.top + size_px, crop.left : crop.left + size_px]


def allowed(filter_name: str, height: int, width: int, size_px: int) -> int:
    """The difference in levels that ``resize_crop`` allows."""
    lobed = filter_name in ("area", "bicubic", "lanczos")
    enlarged, long = min(height, width) < size_px, max(height, width) > 4 * min(height, width)
    return 2 if lobed and enlarged and long else 1


sides = st.one_of(st.integers(1, 40), st.integers(1, 400))


@settings(deadline=None, max_examples=250)
@given(
    st.sampled_from([name for name in FILTERS if name != "area"]),
    sides,
    sides,
    st.integers(8, 48),
    st.integers(0, 2**32 - 1),
)
def test_pillow_filters_equal_resize_then_crop(
    filter_name: str, height: int, width: int, size_px: int, seed: int
) -> None:
    image_hwc = picture(height, width, seed)
    found = resize_crop(image_hwc, size_px=size_px, filter_name=filter_name)
    expected = resize_then_crop(image_hwc, size_px, filter_name)
    assert found.shape == (size_px, size_px, 3)
    assert np.abs(found.astype(int) - expected).max() <= allowed(
        filter_name, height, width, size_px
    )


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(8, 12), st.integers(0, 2**32 - 1))
def test_area_equals_resize_then_crop(height: int, width: int, size_px: int, seed: int) -> None:
    image_hwc = picture(height, width, seed)
    found = resize_crop(image_hwc, size_px=size_px, filter_name="area")
    expected = resize_then_crop(image_hwc, size_px, "area")
    assert np.abs(found.astype(int) - expected).max() <= 1


@given(st.sampled_from(FILTERS), sides, sides, st.integers(8, 48))
def test_the_needed_region_is_enough(
    filter_name: str, height: int, width: int, size_px: int
) -> None:
    image_hwc = picture(height, width, 7)
    region = needed_region(height, width, size_px=size_px, filter_name=filter_name)
    cut = image_hwc[region.top : region.bottom, region.left : region.right].copy()
    placement = Placement(height, width, region.top, region.left)
    found = resize_crop(cut, size_px=size_px, filter_name=filter_name, placement=placement)
    expected = resize_crop(image_hwc, size_px=size_px, filter_name=filter_name)
    assert (found == expected).all()


def test_area_needs_only_the_central_square() -> None:
    found = needed_region(375, 500, size_px=256, filter_name="area")
    assert found == Region(0, 375, 61, 437)
    assert needed_region(375, 500, size_px=256, filter_name="box") == Region(0, 375, 0, 500)
    assert needed_region(500, 256, size_px=256, filter_name="box") == Region(122, 378, 0, 256)


@pytest.mark.parametrize("filter_name", FILTERS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 70), (70, 1), (900, 3), (3, 900), (63, 250)])
def test_extreme_shapes_equal_resize_then_crop(filter_name: str, shape: tuple[int, int]) -> None:
    image_hwc = picture(*shape, seed=1)
    found = resize_crop(image_hwc, size_px=64, filter_name=filter_name)
    expected = resize_then_crop(image_hwc, 64, filter_name)
    assert np.abs(found.astype(int) - expected).max() <= allowed(filter_name, *shape, 64)


@pytest.mark.parametrize("filter_name", FILTERS)
@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_flat_image_stays_flat(filter_name: str, level: int) -> None:
    for shape in ((20, 31), (64, 64), (100, 90), (400, 300)):
        image_hwc = np.full((*shape, 3), level, np.uint8)
        assert (resize_crop(image_hwc, size_px=64, filter_name=filter_name) == level).all()


@pytest.mark.parametrize("filter_name", FILTERS)
def test_an_image_of_the_right_short_side_is_only_cropped(filter_name: str) -> None:
    image_hwc = picture(64, 99, 3)
    found = resize_crop(image_hwc, size_px=64, filter_name=filter_name)
    assert (found == image_hwc[:, 17:81]).all()
    assert found.flags.c_contiguous


@pytest.mark.parametrize("filter_name", FILTERS)
@pytest.mark.parametrize("shape", [(32, 32), (64, 64), (64, 80), (90, 64), (100, 120)])
def test_the_result_never_shares_memory(filter_name: str, shape: tuple[int, int]) -> None:
    image_hwc = picture(*shape, seed=4)
    found = resize_crop(image_hwc, size_px=64, filter_name=filter_name)
    assert not np.shares_memory(found, image_hwc)
    assert found.flags.writeable


@pytest.mark.parametrize("shape", [(1, 10_000), (10_000, 1)])
@pytest.mark.parametrize("filter_name", FILTERS)
def test_ten_thousand_by_one_is_within_one_level(filter_name: str, shape: tuple[int, int]) -> None:
    image_hwc = picture(*shape, seed=2)
    found = resize_crop(image_hwc, size_px=8, filter_name=filter_name)
    expected = resize_then_crop(image_hwc, 8, filter_name)
    assert np.abs(found.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("filter_name", [name for name in FILTERS if name != "box"])
@pytest.mark.parametrize("shape", [(128, 172), (172, 128), (48, 72)])
def test_mirroring_and_resizing_commute(filter_name: str, shape: tuple[int, int]) -> None:
    scaled = scaled_size(*shape, 64)
    assert all((side - 64) % 2 == 0 for side in scaled), "otherwise the crop is not symmetric"
    image_hwc = picture(*shape, seed=6)
    plain = resize_crop(image_hwc, size_px=64, filter_name=filter_name)
    turned = resize_crop(image_hwc[::-1, ::-1].copy(), size_px=64, filter_name=filter_name)
    assert np.abs(plain.astype(int) - turned[::-1, ::-1]).max() <= 1


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory from /proc")
def test_a_very_long_image_does_not_need_its_scaled_size_in_memory() -> None:
    # 10000x1 would scale to 2560000x256, which takes 2 GB.
    code = (
        "import numpy as np\n"
        "from pathlib import Path\n"
        "from imgprep.image.resize import resize_crop\n"
        "from imgprep.spec import FILTERS\n"
        "for shape in ((10000, 1, 3), (1, 10000, 3)):\n"
        "    for name in FILTERS:\n"
        "        resize_crop(np.zeros(shape, np.uint8), size_px=256, filter_name=name)\n"
        "status = Path('/proc/self/status').read_text()\n"
        "print(status.split('VmHWM:')[1].split()[0])\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    peak_mib = int(result.stdout) / 1024
    assert peak_mib < 300
