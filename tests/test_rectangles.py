"""Records of ``--shape rectangle`` show the whole image; their central squares are as before."""

from __future__ import annotations

import io
import itertools
import json
import tarfile
from pathlib import Path
from typing import IO

import numpy as np
import pytest
import simplejpeg
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from imgprep.dataset.encodings import encoding_of
from imgprep.dataset.index import load_index
from imgprep.errors import FormatError, UsageError
from imgprep.image.geometry import (
    centre_crop,
    rectangle_crop,
    scaled_size,
)
from imgprep.image.prepare import prepare
from imgprep.image.resize import central_square, resize_crop
from imgprep.spec import FILTERS, LONG_SIDE_MAX, SHAPES, ImageSpec, Shape, is_record_size
from tests.conftest import files_of, imgprep

STATISTICS = ("mean_image.npy", "mean_image.png", "pixel_sum.npy", "rgb_pca.json")


def picture(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    """Noise on a slope."""
    rng = np.random.default_rng(seed)
    slope = np.add.outer(np.linspace(0, 120, height), np.linspace(0, 120, width))[:, :, None]
    return np.clip(slope + rng.integers(-60, 90, (height, width, 3)), 0, 255).astype(np.uint8)


sides = st.one_of(st.integers(1, 40), st.integers(1, 400), st.integers(1, 70_000))
sizes = st.integers(8, 512)


@given(sides, sides, sizes)
@example(1, 65_535, 256)
@example(100, 801, 100)
@example(101, 809, 101)
def test_the_crop_has_the_whole_image_or_its_middle(height: int, width: int, size_px: int) -> None:
    scaled = scaled_size(height, width, size_px)
    crop = rectangle_crop(scaled, size_px)
    assert is_record_size(crop.height_px, crop.width_px, size_px, "rectangle")
    assert 0 <= crop.top <= scaled[0] - crop.height_px
    assert 0 <= crop.left <= scaled[1] - crop.width_px
    if max(scaled) <= LONG_SIDE_MAX * size_px:
        assert (crop.height_px, crop.width_px) == scaled
    else:
        assert max(crop.height_px, crop.width_px) == LONG_SIDE_MAX * size_px
    square, inner = (
        centre_crop(scaled, size_px),
        centre_crop((crop.height_px, crop.width_px), size_px),
    )
    assert (square.top, square.left) == (crop.top + inner.top, crop.left + inner.left)


small_sides = st.one_of(st.integers(1, 40), st.integers(1, 300))


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(FILTERS), small_sides, small_sides, st.integers(8, 48), st.integers(0, 99))
def test_the_central_square_equals_the_square_record(
    filter_name: str, height: int, width: int, size_px: int, seed: int
) -> None:
    image_hwc = picture(height, width, seed)
    square = resize_crop(image_hwc, size_px=size_px, filter_name=filter_name)
    rectangle = resize_crop(image_hwc, size_px=size_px, filter_name=filter_name, shape="rectangle")
    assert rectangle.flags.c_contiguous
    assert is_record_size(rectangle.shape[0], rectangle.shape[1], size_px, "rectangle")
    difference = np.abs(central_square(rectangle, size_px).astype(int) - square)
    if filter_name == "area" and min(height, width) >= size_px:
        assert not difference.any()
    assert difference.max() <= 2


@pytest.mark.parametrize("subsampling", ["420", "422", "444"])
@pytest.mark.parametrize("hw", [(300, 500), (511, 256), (90, 40), (256, 256), (2200, 256)])
def test_a_jpeg_becomes_the_whole_scaled_image(hw: tuple[int, int], subsampling: str) -> None:
    data = simplejpeg.encode_jpeg(picture(*hw, seed=2), colorsubsampling=subsampling)
    found = prepare(data, ImageSpec(shape="rectangle"))
    decoded = simplejpeg.decode_jpeg(data)
    expected = resize_crop(decoded, size_px=256, filter_name="area", shape="rectangle")
    assert (found.image_hwc == expected).all()
    assert found.cut == (max(hw) > LONG_SIDE_MAX * min(hw))
    assert found.enlarged == (min(hw) < 256)
    square = prepare(data, ImageSpec()).image_hwc
    if not found.enlarged:
        assert (central_square(found.image_hwc, 256) == square).all()


@pytest.mark.parametrize("hw", [(1, 65_000), (65_000, 1), (40, 20_000), (300, 30_000)])
def test_of_a_panorama_the_middle_is_kept(hw: tuple[int, int]) -> None:
    file = io.BytesIO()
    Image.new("RGB", hw[::-1], (200, 100, 50)).save(file, "JPEG")
    found = prepare(file.getvalue(), ImageSpec(shape="rectangle"))
    assert sorted(found.image_hwc.shape[:2]) == [256, 2048]
    assert found.cut
    assert np.abs(found.image_hwc.astype(int) - (200, 100, 50)).max() <= 3


@pytest.mark.parametrize("encoding", ["jpeg", "png"])
def test_only_the_right_sides_are_a_record(encoding: str) -> None:
    how = encoding_of(encoding)
    spec = ImageSpec(size_px=16, shape="rectangle", encoding=how.name)
    for height, width in itertools.product((8, 15, 16, 17, 40, 128, 129), repeat=2):
        content = how.encode(picture(height, width, 0), spec)
        if min(height, width) == 16 and max(height, width) <= 128:
            assert how.record_size(content, 16, "rectangle") == (height, width)
            assert how.fault(content, 16, "rectangle") is None
            assert how.pixels(content, 16, "rectangle").shape == (height, width, 3)
        else:
            fault = f"declares {width}x{height} pixels, not a short side of 16 and a long side of "
            assert how.fault(content, 16, "rectangle") == f"{fault}at most 128"
            with pytest.raises(FormatError, match="the record decodes to"):
                how.pixels(content, 16, "rectangle")
        is_square = height == width == 16
        assert (how.fault(content, 16) is None) == is_square


def test_raw_records_cannot_be_rectangles() -> None:
    with pytest.raises(UsageError, match="with shape rectangle choose jpeg or png"):
        ImageSpec(shape="rectangle", encoding="raw")


@pytest.fixture(scope="module")
def builds(mini: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same images as squares and as rectangles, without loss."""
    dests = {shape: tmp_path_factory.mktemp(shape) / "out" for shape in ("square", "rectangle")}
    options = ("--encoding", "png", "--size", 64, "--shard-images", 20)
    for shape, dest in dests.items():
        ran = imgprep("build-shards", mini, dest, *options, "--shape", shape)
        assert ran.code == 0, ran.err
    return dests


def test_a_build_has_the_statistics_of_its_central_squares(builds: dict[str, Path]) -> None:
    square, rectangle = (files_of(builds[shape]) for shape in ("square", "rectangle"))
    assert {name: square[name] for name in STATISTICS} == {
        name: rectangle[name] for name in STATISTICS
    }
    assert square["train-000000.tar"] != rectangle["train-000000.tar"]
    index = load_index(builds["rectangle"])
    assert (index.shape, index.sides) == ("rectangle", "with a short side of 64 px")
    assert index.fingerprint != load_index(builds["square"]).fingerprint


def sides_of(file: Path | IO[bytes]) -> tuple[int, int]:
    """Height and width of an image file."""
    with Image.open(file) as image:
        return image.height, image.width


def test_every_record_has_its_whole_image(mini: Path, builds: dict[str, Path]) -> None:
    shapes = []
    for path in sorted(builds["rectangle"].glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(".png"):
                    file = tar.extractfile(member)
                    assert file is not None
                    shapes.append(sides_of(file))
    sources = [scaled_size(*sides_of(path), 64) for path in mini.rglob("*.JPEG")]
    assert sorted(shapes) == sorted(sources)
    assert len(set(shapes)) >= 5


def test_every_command_reads_rectangles(builds: dict[str, Path], tmp_path: Path) -> None:
    dest = builds["rectangle"]
    verified = imgprep("verify", dest, "--decode")
    assert verified.code == 0, verified.out
    assert "differ by at most 0.000 levels" in verified.out
    assert "RGB PCA of 96 central squares of 64x64" in imgprep("stats", dest).out
    assert imgprep("stats", dest, "--html", tmp_path / "stats.html").code == 0
    assert imgprep("preview", dest, "-o", tmp_path / "sheet.png").code == 0


def test_the_number_of_workers_does_not_matter(
    mini: Path, builds: dict[str, Path], tmp_path: Path
) -> None:
    options = ("--encoding", "png", "--size", 64, "--shard-images", 20, "--shape", "rectangle")
    assert imgprep("build-shards", mini, tmp_path / "out", *options, "--jobs", 3).code == 0
    assert files_of(tmp_path / "out") == files_of(builds["rectangle"])


def test_long_images_are_counted(tmp_path: Path) -> None:
    folder = tmp_path / "source" / "train" / "thing"
    folder.mkdir(parents=True)
    for name, size in (("wide", (900, 30)), ("tall", (30, 900)), ("plain", (90, 60))):
        Image.new("RGB", size).save(folder / f"{name}.png")
    dest = tmp_path / "out"
    ran = imgprep("build-shards", tmp_path / "source", dest, "--shape", "rectangle", "--size", 32)
    assert ran.code == 0, ran.err
    counts = json.loads((dest / "report.json").read_bytes())["counts"]["train"]
    assert counts["longer than 8:1"] == 2
    assert imgprep("verify", dest, "--decode").code == 0


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size_px", [8, 16, 32, 64, 128, 512])
def test_sizes_work_in_every_shape(shape: Shape, size_px: int) -> None:
    spec = ImageSpec(shape=shape, size_px=size_px)
    for hw in ((375, 500), (33, 32), (700, 512)):
        data = simplejpeg.encode_jpeg(picture(*hw, seed=3))
        prepared = prepare(data, spec)
        height, width, _ = prepared.image_hwc.shape
        assert is_record_size(height, width, size_px, shape)
        content = encoding_of("jpeg").encode(prepared.image_hwc, spec)
        assert encoding_of("jpeg").fault(content, size_px, shape) is None
