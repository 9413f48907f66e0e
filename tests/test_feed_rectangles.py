"""The training draws its crops from whole rectangles, and tests on their central squares."""

from __future__ import annotations

import itertools
import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from imgprep.colour.pca import RgbPca
from imgprep.dataset.encodings import encoding_of
from imgprep.spec import Encoding, ImageSpec
from tests.conftest import imgprep
from tests.environments import readers_python
from tests.feeding import CPU, joined, loading, overwrite, packed
from train.config import CropKind, InputConfig
from train.errors import ConfigError, DataError
from train.feed.augment import epoch_draws, placed
from train.feed.damage import HeaderScreen
from train.feed.dataset import TrainingSet, open_dataset
from train.feed.graph import Graph
from train.feed.graph_spec import FeedBatch, graph_spec
from train.feed.loader import EvalLoader, Share
from train.feed.records import RecordReader
from train.feed.spans import new_buffer
from train.loader import ImageLoader

SIZE, CROP = 64, 48
PLAIN = InputConfig(crop_px=CROP, threads=2, lighting="off", mean="none", flip=False)
NO_PCA = RgbPca(np.ones(3), np.eye(3), np.zeros(3), "scikit-learn")
CENTRE = replace(PLAIN, mean="centre", flip=True)


def built_as(mini: Path, dest: Path, shape: str, encoding: str) -> TrainingSet:
    """Build the mini ImageNet with records of a shape."""
    options = ("--shape", shape, "--encoding", encoding, "--size", SIZE, "--shard-images", 20)
    ran = imgprep("build-shards", mini, dest, *options)
    assert ran.code == 0, ran.err
    return open_dataset(dest)


@pytest.fixture(scope="module")
def sets(mini: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, TrainingSet]:
    """The same images as rectangles and squares."""
    folder = tmp_path_factory.mktemp("shapes")
    return {
        name: built_as(mini, folder / name, *name.split("-"))
        for name in ("rectangle-png", "rectangle-jpeg", "square-png")
    }


def stored(data: TrainingSet, record_n: NDArray[np.int64]) -> list[NDArray[np.uint8]]:
    """Decode records as they are stored."""
    records = RecordReader(data, "train").read(record_n)
    how = encoding_of(data.encoding)
    return [how.pixels(record.content, data.size_px, data.shape) for record in records]


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize(("encoding", "levels"), [("png", 0), ("jpeg", 3)])
def test_crops_have_the_pixels_at_their_place(
    sets: dict[str, TrainingSet], encoding: str, levels: int, whole: bool
) -> None:
    data = sets[f"rectangle-{encoding}"]
    reader = RecordReader(data, "train")
    record_n = np.arange(40)
    spec = replace(graph_spec(data, CENTRE, batch_images=40, lighting=False), decode_whole=whole)
    with loading(data, CENTRE, batch_images=40) as loader:
        draws = loader.draws(3).rows(0, 40)
    graph = Graph(spec, "cpu", None)
    records = reader.read_batch(reader.plan(record_n), new_buffer)
    found = graph.submit(FeedBatch(records=records, draws=draws, stream=(7, 3)))
    (view,) = graph.collect()
    low = (SIZE - CROP) // 2
    mean = data.mean_image_hwc[low : low + CROP, low : low + CROP]
    outside = 0
    for row, pixels in enumerate(stored(data, record_n)):
        top, left = found.crop_yx[row].tolist()
        crop = pixels[top : top + CROP, left : left + CROP]
        assert crop.shape == (CROP, CROP, 3)
        outside += max(top + CROP, left + CROP) > SIZE
        crop = crop[:, ::-1] if draws.flip[row] else crop
        expected = crop.astype(np.float32) - mean
        assert np.abs(np.asarray(view)[row] - expected).max() <= levels + 1e-4
    assert outside > 5  # crops that a square record does not have


@pytest.mark.parametrize("whole", [False, True])
def test_resized_parts_are_taken_from_the_whole_rectangle(
    sets: dict[str, TrainingSet], whole: bool
) -> None:
    data, config = sets["rectangle-png"], replace(PLAIN, crop="resized", crop_area=(0.3, 1.0))
    record_n = np.arange(40)
    spec = graph_spec(data, config, batch_images=40, lighting=False)
    with loading(data, config, batch_images=40) as loader:
        draws = loader.draws(0).rows(0, 40)
    graph, reader = (
        Graph(replace(spec, decode_whole=whole), "cpu", None),
        RecordReader(data, "train"),
    )
    records = reader.read_batch(reader.plan(record_n), new_buffer)
    found = graph.submit(FeedBatch(records=records, draws=draws, stream=(7, 0)))
    (view,) = graph.collect()
    assert found.crop_hw.max() > SIZE  # larger than any part of a square record
    for row, pixels in enumerate(stored(data, record_n)):
        (top, left), (height, width) = found.crop_yx[row], found.crop_hw[row]
        part = pixels[top : top + height, left : left + width]
        assert part.shape[:2] == (height, width)
        resized = Image.fromarray(part).resize((CROP, CROP), Image.Resampling.BILINEAR)
        difference = np.abs(np.asarray(view)[row] - np.asarray(resized, np.float32))
        assert difference.mean() < 0.5  # they round weights, and between two passes, differently


def test_parts_of_rectangles_are_drawn_as_torchvision_draws_them() -> None:
    n = 20_000
    code = (
        "import json, torch\n"
        "from torchvision.transforms import RandomResizedCrop as Crop\n"
        "image = torch.zeros(3, 256, 512)\n"
        f"print(json.dumps([Crop.get_params(image, [.3, 1], [3/4, 4/3]) for _ in range({n})]))"
    )
    shown = subprocess.run([readers_python(), "-c", code], capture_output=True, check=True)
    theirs = np.array(json.loads(shown.stdout), float)
    config = InputConfig(crop="resized", crop_area=(0.3, 1.0), mean="none", lighting="off")
    draws = epoch_draws(config, NO_PCA, 256, n, seed=3, epoch=0)
    size_hw = np.tile([[256, 512]], (n, 1))
    found = placed(draws, config, size_hw, size_px=256, stream=(3, 0))
    ours = np.concatenate([found.crop_yx, found.crop_hw], axis=1).astype(float)
    quantiles = np.linspace(0, 1, 21)[1:-1]
    np.testing.assert_allclose(
        np.quantile(ours, quantiles, axis=0), np.quantile(theirs, quantiles, axis=0), atol=8
    )


@pytest.mark.parametrize("crop", ["random", "resized"])
def test_batches_are_the_same_for_any_number_of_processes(
    sets: dict[str, TrainingSet], crop: CropKind
) -> None:
    data, config = sets["rectangle-jpeg"], replace(PLAIN, crop=crop)
    with loading(data, config, batch_images=30) as loader:
        alone = [*loader.epoch(2)]
    shares = []
    for rank in range(2):
        with loading(data, config, Share(rank, 2), batch_images=30) as loader:
            shares.append([*loader.epoch(2)])
    pairs = itertools.chain.from_iterable(zip(*shares, strict=True))
    images, record_n = joined(alone)
    shared_images, shared_n = joined([*pairs])
    assert (record_n == shared_n).all()
    assert (images == shared_images).all()
    assert len(np.unique(record_n)) == len(record_n) == data.records("train")


def test_an_epoch_resumes_in_the_middle(sets: dict[str, TrainingSet]) -> None:
    data = sets["rectangle-jpeg"]
    with loading(data, PLAIN, batch_images=20) as loader:
        whole = [*loader.epoch(1)]
    with loading(data, PLAIN, batch_images=20) as loader:
        rest = [*loader.epoch(1, first_step=2)]
    for (images, record_n), (again, again_n) in zip(
        (joined([batch]) for batch in whole[2:]), (joined([batch]) for batch in rest), strict=True
    ):
        assert (record_n == again_n).all()
        assert (images == again).all()


def test_picked_records_are_those_of_the_epoch(sets: dict[str, TrainingSet]) -> None:
    data = sets["rectangle-png"]
    with loading(data, PLAIN, batch_images=20) as loader:
        images, record_n = joined([*loader.epoch(4)])
        chosen = record_n[[70, 3, 41]]
        picked = loader.pick(4, chosen)
    assert (picked.images.numpy() == images[[70, 3, 41]]).all()
    for row, pixels in enumerate(stored(data, chosen)):
        top, left = picked.draws.crop_yx[row].tolist()
        expected = pixels[top : top + CROP, left : left + CROP].transpose(2, 0, 1)
        assert (picked.images[row].numpy() == expected).all()


@pytest.mark.parametrize("views", [1, 10])
def test_the_test_views_are_those_of_the_square_records(
    sets: dict[str, TrainingSet], views: int
) -> None:
    found = []
    for name in ("rectangle-png", "square-png"):
        loader = EvalLoader(
            sets[name],
            CENTRE,
            Share(0, 1),
            batch_images=7,
            device=CPU,
            views=10 if views == 10 else 1,
        )
        found.append([*loader])
        loader.close()
    for rectangles, squares in zip(*found, strict=True):
        assert len(rectangles.images_v) == views
        for ours, theirs in zip(rectangles.images_v, squares.images_v, strict=True):
            assert (ours == theirs).all()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (replace(PLAIN, mean="aligned"), "set input.mean to centre, channel or none"),
        (replace(PLAIN, translate_px=2), "need square records"),
        (replace(PLAIN, scale_jitter=0.1), "need square records"),
        (replace(PLAIN, crop_px=SIZE + 1), "at most 64"),
    ],
)
def test_settings_that_need_squares_are_refused(
    sets: dict[str, TrainingSet], config: InputConfig, message: str
) -> None:
    with pytest.raises(ConfigError, match=message), loading(sets["rectangle-png"], config):
        pass


@pytest.mark.parametrize("encoding", ["jpeg", "png"])
def test_sizes_are_read_from_the_headers(sets: dict[str, TrainingSet], encoding: Encoding) -> None:
    spec = graph_spec(sets[f"rectangle-{encoding}"], PLAIN, batch_images=64, lighting=False)
    how, screen, rng = encoding_of(encoding), HeaderScreen(spec), np.random.default_rng(2)
    image = ImageSpec(encoding=encoding)
    for number in range(8):
        longs = rng.integers(SIZE, 8 * SIZE + 1, 30).tolist()
        sizes = [(long, SIZE) if k % 2 else (SIZE, long) for k, long in enumerate(longs)]
        files = [how.encode(np.full((*hw, 3), number, np.uint8), image) for hw in sizes]
        assert screen.check(packed(files)).tolist() == [list(hw) for hw in sizes]
        for wrong in ((SIZE - 1, 90), (SIZE + 1, 90), (SIZE, 8 * SIZE + 1)):
            other = how.encode(np.zeros((*wrong, 3), np.uint8), image)
            with pytest.raises(DataError, match=f"declares {wrong[1]}x{wrong[0]} pixels"):
                screen.check(packed([*files, other]))
        with pytest.raises(DataError):
            screen.check(packed([*files, files[0][:20]]))


def test_a_damaged_rectangle_is_named(
    sets: dict[str, TrainingSet], mini: Path, tmp_path: Path
) -> None:
    built_as(mini, tmp_path / "out", "rectangle", "png")
    shard, key = overwrite(tmp_path / "out", 30, 16, b"\0\0\0\x09")
    data = open_dataset(tmp_path / "out")
    with loading(data, PLAIN) as loader, pytest.raises(DataError) as raised:
        [*loader.epoch(0)]
    assert shard in str(raised.value)
    assert key in str(raised.value)
    assert "declares 9x" in str(raised.value)


def test_the_sheet_has_the_trainers_view_of_rectangles(
    sets: dict[str, TrainingSet], tmp_path: Path
) -> None:
    folder = sets["rectangle-jpeg"].folder
    ran = imgprep("preview", folder, "-o", tmp_path / "sheet.png", "--json")
    assert ran.code == 0, ran.err
    assert "at most 64" in ran.json["trainer_missing"]  # its crops are of 224 pixels


def test_the_public_loader_delivers_the_centres_of_rectangles(sets: dict[str, TrainingSet]) -> None:
    data = sets["rectangle-png"]
    plain: dict[str, Any] = {"mean": None, "sd": None, "shuffle": False, "augmentation": "none"}
    loader = ImageLoader(data.index.store, batch_images=25, crop_px=CROP, device="cpu", **plain)
    images = np.concatenate([images.numpy() for images, _ in loader])
    loader.close()
    assert len(images) == loader.images
    for image_chw, image_hwc in zip(images, stored(data, np.arange(len(images))), strict=True):
        top, left = ((side - CROP) // 2 for side in image_hwc.shape[:2])
        centre = image_hwc[top : top + CROP, left : left + CROP]
        assert (image_chw.transpose(1, 2, 0) == centre).all()


def test_the_public_loader_resumes_among_parts_of_rectangles(sets: dict[str, TrainingSet]) -> None:
    settings: dict[str, Any] = {"batch_images": 25, "crop_px": CROP, "seed": 5, "device": "cpu"}
    first = ImageLoader(sets["rectangle-jpeg"].index.store, **settings)
    whole = [images for images, _ in first]
    first.set_epoch(0)
    stopped = iter(first)
    next(stopped)
    second = ImageLoader(sets["rectangle-jpeg"].index.store, **settings)
    second.load_state_dict(first.state_dict())
    rest = [images for images, _ in second]
    assert len(rest) == len(whole) - 1
    assert all((a == b).all() for a, b in zip(rest, whole[1:], strict=True))
    first.close()
    second.close()
