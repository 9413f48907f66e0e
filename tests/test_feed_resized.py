"""Random-resized-crop, centre crop, division by channel and memory layout."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from imgprep.colour.pca import RgbPca
from tests.augment_reference import augmented
from tests.conftest import imgprep
from tests.environments import readers_python
from tests.feeding import joined, loading, through_graph
from train.config import InputConfig, Lighting, MeanKind, MemoryFormat
from train.errors import ConfigError
from train.feed.augment import EpochDraws, epoch_draws, lighting_on
from train.feed.dataset import TrainingSet, open_dataset
from train.feed.graph import build_pipeline
from train.feed.graph_spec import graph_spec
from train.feed.records import RecordReader

N = 16
IMAGENET_MEAN, IMAGENET_SD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
MODERN = InputConfig(
    crop="resized",
    mean="channel",
    mean_rgb=IMAGENET_MEAN,
    sd_rgb=IMAGENET_SD,
    lighting="off",
    threads=2,
)
NO_PCA = RgbPca(np.ones(3), np.eye(3), np.zeros(3), "scikit-learn")


@pytest.fixture(scope="module")
def data(built: Path) -> TrainingSet:
    return open_dataset(built)


def drawn(config: InputConfig, n: int, size_px: int = 256, epoch: int = 0) -> EpochDraws:
    return epoch_draws(config, NO_PCA, size_px, n, seed=3, epoch=epoch)


def pixels(data: TrainingSet, config: InputConfig) -> tuple[np.ndarray, np.ndarray]:
    """The images (n, 3, crop, crop) of the graph, and those of the reference."""
    reader = RecordReader(data, "train")
    records = [record.content for record in reader.read(range(N))]
    draws = epoch_draws(config, data.pca, data.size_px, N, seed=3, epoch=0)
    lit = lighting_on(config, 0)
    spec = graph_spec(data, config, batch_images=N, lighting=lit)
    found = through_graph(reader, spec, draws)
    as_on_gpu = through_graph(reader, replace(spec, decode_whole=True), draws)
    np.testing.assert_allclose(as_on_gpu, found, atol=1e-4)
    reader.close()
    return found, augmented(data, config, draws, records, lit)


def measures(boxes: np.ndarray) -> list[np.ndarray]:
    """Area, logarithm of the ratio and corner of boxes (n, 4): top, left, height, width."""
    top, left, height, width = boxes.astype(np.float64).T
    return [height * width / 256**2, np.log(width / height), top / 256, left / 256]


def test_parts_are_drawn_as_torchvision_draws_them() -> None:
    """The quantiles of area, ratio and corner agree with those of the real RandomResizedCrop."""
    n = 20_000
    code = (
        "import json, torch\n"
        "from torchvision.transforms import RandomResizedCrop as Crop\n"
        "image = torch.zeros(3, 256, 256)\n"
        f"print(json.dumps([Crop.get_params(image, [.08, 1], [3/4, 4/3]) for _ in range({n})]))"
    )
    shown = subprocess.run([readers_python(), "-c", code], capture_output=True, check=True)
    theirs = np.array(json.loads(shown.stdout))
    draws = drawn(MODERN, n)
    ours = np.concatenate([draws.crop_yx, draws.crop_hw], axis=1)
    quantiles = np.linspace(0, 1, 21)[1:-1]
    for found, expected in zip(measures(ours), measures(theirs), strict=True):
        np.testing.assert_allclose(
            np.quantile(found, quantiles), np.quantile(expected, quantiles), atol=0.02
        )


@pytest.mark.parametrize("ratio", [(0.75, 4 / 3), (2.0, 3.0), (0.1, 0.5), (100.0, 100.0)])
@pytest.mark.parametrize("area", [(0.08, 1.0), (1.0, 1.0), (1e-9, 1e-9)])
def test_parts_lie_in_the_record(area: tuple[float, ...], ratio: tuple[float, ...]) -> None:
    for size_px in (8, 100):
        config = replace(MODERN, crop_px=8, crop_area=area, crop_ratio=ratio)
        draws = drawn(config, 500, size_px)
        assert draws.crop_hw.min() >= 1
        assert draws.crop_yx.min() >= 0
        assert (draws.crop_yx + draws.crop_hw).max() <= size_px


def test_a_part_of_an_impossible_shape_becomes_the_largest_allowed_one() -> None:
    draws = drawn(replace(MODERN, crop_area=(1.0, 1.0), crop_ratio=(2.0, 2.0)), 50)
    assert np.unique(draws.crop_hw, axis=0).tolist() == [[128, 256]]


def test_neighbours_share_a_part_where_they_share_a_crop() -> None:
    draws = drawn(replace(MODERN, crop_chunk=4), 10)
    for each in (draws.crop_yx, draws.crop_hw, draws.flip):
        assert np.array_equal(each, np.repeat(each[::4], 4, axis=0)[:10])
    assert not np.array_equal(draws.crop_hw[0], draws.crop_hw[4])


def test_the_other_draws_do_not_depend_on_the_kind_of_crop() -> None:
    one, other = drawn(InputConfig(), 40), drawn(replace(MODERN, lighting="eigenvalue"), 40)
    assert np.array_equal(one.flip, other.flip)
    assert np.array_equal(one.lighting_rgb, other.lighting_rgb)
    assert not one.crop_hw.any()


@pytest.mark.parametrize("encoding", ["jpeg", "png", "raw"])
def test_parts_have_the_pixels_that_pillow_gives(encoding: str, mini: Path, tmp_path: Path) -> None:
    """Pillow rounds to whole levels twice; the C code does not round, and DALI does once."""
    dest = tmp_path / encoding
    ran = imgprep("build-shards", mini, dest, "--encoding", encoding, "--limit", 24)
    assert ran.code == 0, ran.err
    found, expected = pixels(open_dataset(dest), MODERN)
    difference = np.abs(found - expected) * np.array(IMAGENET_SD)[:, None, None]
    assert difference.max() < 1.01
    assert difference.mean() < 0.3


@pytest.mark.parametrize("mean", ["centre", "channel", "none"])
@pytest.mark.parametrize("lighting", ["eigenvalue", "off"])
def test_parts_with_each_mean_and_noise(
    data: TrainingSet, mean: MeanKind, lighting: Lighting
) -> None:
    config = replace(
        MODERN, mean=mean, mean_rgb=None, sd_rgb=None, lighting=lighting, vertical_flip=True
    )
    found, expected = pixels(data, replace(config, lighting_divide=True))
    assert np.abs(found - expected).max() < 1.01


@pytest.mark.parametrize("mean", ["centre", "aligned", "channel", "none"])
@pytest.mark.parametrize("extras", [{}, {"translate_px": 9}, {"lighting": "off"}])
def test_each_channel_is_divided_by_its_standard_deviation(
    data: TrainingSet, mean: MeanKind, extras: dict[str, object]
) -> None:
    config = InputConfig(threads=2, mean=mean, lighting_divide=True, sd_rgb=IMAGENET_SD)
    found, expected = pixels(data, replace(config, **extras))  # type: ignore[arg-type]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_centre_crop_is_the_same_in_every_epoch(data: TrainingSet) -> None:
    config = InputConfig(crop="centre", flip=False, lighting="off", threads=2)
    assert drawn(config, 3).crop_yx.tolist() == [[16, 16]] * 3
    found, expected = pixels(data, config)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_memory_format_changes_only_the_order_in_memory(data: TrainingSet) -> None:
    small = replace(MODERN, crop_px=32)
    with (
        loading(data, small) as last,
        loading(data, replace(small, memory_format="channels-first")) as first,
    ):
        ours, theirs = list(last.epoch(0)), list(first.epoch(0))
    np.testing.assert_array_equal(joined(ours)[0], joined(theirs)[0])
    assert all(b.images.is_contiguous(memory_format=torch.channels_last) for b in ours)
    assert all(b.images.is_contiguous() for b in theirs)


@pytest.mark.parametrize("extras", [{}, {"dtype": "float16"}, {"mean": "centre", "mean_rgb": None}])
def test_the_gpu_graph_with_parts_serialises_without_a_gpu(
    data: TrainingSet, extras: dict[str, object]
) -> None:
    config = replace(MODERN, **extras)  # type: ignore[arg-type]
    spec = graph_spec(data, config, batch_images=8, lighting=False)
    text = build_pipeline(spec, "gpu", None)[0].serialize()
    assert b"mixed" in text
    assert b"Resize" in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop": "square"}, "crop must be one of random, resized, centre; got 'square'"),
        (
            {"memory_format": "NCHW"},
            "memory_format must be one of channels-last, channels-first; got 'NCHW'",
        ),
        ({"crop_area": (0.5,)}, "crop_area must be two numbers in increasing order"),
        ({"crop_area": (0.5, 1.5)}, "above 0 and at most 1; got"),
        ({"crop_ratio": (2.0, 1.0)}, "crop_ratio must be two numbers in increasing order"),
        ({"sd_rgb": (0.229, 0.224, 0.225)}, "sd_rgb must be three numbers from 1 to 255"),
        ({"mean_rgb": (1.0, 2.0)}, "mean_rgb must be three numbers from 0 to 255"),
        ({"mean": "none"}, "mean_rgb needs mean = channel; got none"),
        (
            {"mean": "aligned", "mean_rgb": None},
            "input.mean=aligned cannot be used with input.crop=resized",
        ),
        ({"translate_px": 1}, "input.translate_px need input.crop=random; got resized"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(MODERN, **changes)  # type: ignore[arg-type]


def test_the_c_code_and_dali_give_the_same_parts(data: TrainingSet) -> None:
    """With the mean image DALI resizes, and without it the C code, if that was built."""
    plain = replace(MODERN, mean="none", mean_rgb=None, sd_rgb=None)
    with_window = replace(plain, mean="centre")
    window = data.mean_image_hwc[16:240, 16:240].transpose(2, 0, 1)
    found, other = pixels(data, plain)[0], pixels(data, with_window)[0] + window
    assert np.abs(found - other).max() < 2.01
    assert np.abs(found - other).mean() < 0.5


@pytest.mark.parametrize("memory_format", ["channels-last", "channels-first"])
def test_images_stay_as_they_are_while_they_are_kept(
    data: TrainingSet, memory_format: MemoryFormat
) -> None:
    """Their memory is used again only when nothing refers to them."""
    config = replace(MODERN, crop_px=32, memory_format=memory_format)
    with loading(data, config, batch_images=10) as loader:
        kept = [(b.images[:, 1], b.images.clone()) for e in range(3) for b in loader.epoch(e)]
        assert all(torch.equal(view, copy[:, 1]) for view, copy in kept)
        kept.clear()
        places = {batch.images.data_ptr() for epoch in range(3) for batch in loader.epoch(epoch)}
    assert len(places) < 30


def test_the_resizing_code_refuses_what_does_not_fit() -> None:
    code = pytest.importorskip("train.feed._resize")
    part, out = np.zeros((5, 6, 3), np.uint8), np.zeros(3 * 8 * 8, np.float32)
    ones, zeros = (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)
    code.resize(part, out, 8, (False, True), ones, zeros, True)
    for wrong in (part[:, :, :2].copy(), part[0], part.astype(np.uint16), part[:0], part[:, :0]):
        with pytest.raises(ValueError, match="the part must be uint8"):
            code.resize(wrong, out, 8, (False, True), ones, zeros, True)
    for wrong_size in (-8, 0, 7, 9, 2**40):
        with pytest.raises(ValueError, match="the part must be uint8"):
            code.resize(part, out, wrong_size, (False, True), ones, zeros, True)
    with pytest.raises(ValueError, match="contiguous"):
        code.resize(part[:, ::2], out, 8, (False, True), ones, zeros, True)
