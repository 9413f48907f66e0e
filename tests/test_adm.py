"""Records of ``--shape adm`` are bit for bit what the published function makes."""

from __future__ import annotations

import io
import random
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from imgprep.dataset.index import load_index
from imgprep.image.adm import WHOLE_PX_MAX, adm_crop
from imgprep.image.prepare import prepare
from imgprep.spec import BuildSpec, ImageSpec
from tests.conftest import imgprep
from tests.reading import source_of


def published(image: Image.Image, size_px: int) -> NDArray[np.uint8]:
    """``center_crop_arr`` of openai/guided-diffusion, step by step."""
    while min(*image.size) >= 2 * size_px:
        image = image.resize(
            (image.size[0] // 2, image.size[1] // 2), resample=Image.Resampling.BOX
        )
    scale = size_px / min(*image.size)
    wide, tall = round(image.size[0] * scale), round(image.size[1] * scale)
    pixels = np.array(image.resize((wide, tall), resample=Image.Resampling.BICUBIC))
    top, left = (tall - size_px) // 2, (wide - size_px) // 2
    return pixels[top : top + size_px, left : left + size_px]


def picture(height: int, width: int, seed: int) -> Image.Image:
    """Noise on a slope."""
    rng = np.random.default_rng(seed)
    slope = np.add.outer(np.linspace(0, 120, height), np.linspace(0, 120, width))[:, :, None]
    noisy = slope + rng.integers(-60, 90, (height, width, 3))
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


sides = st.one_of(st.integers(1, 40), st.integers(1, 700))


@given(sides, sides, st.sampled_from([8, 16, 32, 33, 64, 100, 256]), st.integers(0, 99))
@example(64, 64, 64, 0)
@example(127, 129, 64, 0)
@example(128, 128, 64, 0)
@example(256, 517, 256, 0)
def test_pixels_equal_the_published_function(
    height: int, width: int, size_px: int, seed: int
) -> None:
    image = picture(height, width, seed)
    found = adm_crop(np.array(image), size_px)
    assert found.shape == (size_px, size_px, 3)
    assert (found == published(image, size_px)).all()


@pytest.mark.parametrize("size_px", [64, 256, 512])
def test_jpeg_files_equal_the_published_function(size_px: int) -> None:
    chosen = random.Random(5)
    for number in range(12):
        image = picture(chosen.randint(200, 1100), chosen.randint(200, 1100), number)
        mode = ("RGB", "RGB", "L", "CMYK")[number % 4]
        file = io.BytesIO()
        options = {"quality": chosen.randint(60, 95), "subsampling": number % 3}
        image.convert(mode).save(file, "JPEG", progressive=number % 5 == 0, **options)
        found = prepare(file.getvalue(), ImageSpec(size_px=size_px, shape="adm"))
        loaded = Image.open(file).convert("RGB")
        assert (found.image_hwc == published(loaded, size_px)).all()
        assert found.enlarged == (min(loaded.size) < size_px)


@pytest.mark.parametrize("shape", [(1, 70_000), (70_000, 1), (2, 250_000)])
def test_memory_is_bounded_for_a_long_narrow_image(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    image_hwc = rng.integers(0, 256, (*shape, 3), np.uint8)
    scaled_px = 256 * 256 * max(shape) // min(shape)
    assert scaled_px > WHOLE_PX_MAX
    found = adm_crop(image_hwc, 256)
    middle = max(shape) // 2
    near = slice(middle - 1200, middle + 1200)
    near_hwc = image_hwc[:, near] if shape[0] < shape[1] else image_hwc[near]
    expected = published(Image.fromarray(np.ascontiguousarray(near_hwc)), 256)
    assert np.abs(found.astype(int) - expected).max() <= 2


def test_a_build_has_the_published_pixels(mini: Path, tmp_path: Path) -> None:
    dest = tmp_path / "out"
    options = ("--shape", "adm", "--size", 32, "--encoding", "png")
    ran = imgprep("build-shards", mini, dest, *options)
    assert ran.code == 0, ran.err
    index = load_index(dest)
    assert (index.shape, index.size_px) == ("adm", 32)
    assert index.spec["image.filter"] is None
    assert imgprep("verify", dest, "--decode").code == 0
    sources = source_of(dest, "val")
    compared = 0
    with tarfile.open(dest / "val-000000.tar") as tar:
        for member in tar:
            key, _, extension = member.name.partition(".")
            if extension == "png":
                file = tar.extractfile(member)
                assert file is not None
                stored = np.array(Image.open(file))
                loaded = Image.open(mini / "val" / sources[key]).convert("RGB")
                assert (stored == published(loaded, 32)).all()
                compared += 1
    assert compared == index.splits["val"].shards[0].records


def test_the_shape_is_part_of_the_build_identity(mini: Path, tmp_path: Path) -> None:
    dest = tmp_path / "out"
    build = ("build-shards", mini, dest, "--size", 16, "--split", "val")
    assert imgprep(*build).code == 0
    ran = imgprep(*build, "--shape", "adm")
    assert ran.code == 1
    assert "spec.image.shape: was square, is adm" in ran.err
    assert BuildSpec().to_json()["image.shape"] == "square"


def test_a_filter_beside_adm_is_refused(tmp_path: Path) -> None:
    ran = imgprep("build-shards", tmp_path, tmp_path / "out", "--shape", "adm", "--filter", "box")
    assert ran.code == 2
    assert (
        "shape adm has its own filters (box, then bicubic): leave out the filter 'box'" in ran.err
    )
