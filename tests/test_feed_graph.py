"""The graph gives the pixels of the numpy reference, from the same draws: exact to rounding."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from imgprep.processors import processors
from tests.augment_reference import augmented, lighting_noise, pixels_of
from tests.conftest import imgprep
from tests.feeding import CPU, joined, loading, through_graph
from train.config import InputConfig, MeanKind
from train.errors import ConfigError
from train.feed.augment import EpochDraws, epoch_draws, lighting_on
from train.feed.dataset import TrainingSet, open_dataset
from train.feed.graph import build_pipeline
from train.feed.graph_spec import eval_spec, graph_spec, with_threads
from train.feed.loader import EvalLoader, Share, TrainLoader
from train.feed.records import RecordReader
from train.feed.sink import Sink

N = 12
PAPER = InputConfig(threads=2)
SOURCE = InputConfig(
    threads=2,
    crop_chunk=4,
    lighting="sqrt-eigenvalue",
    lighting_divide=True,
    lighting_stop_epoch=68,
)
MEANS: tuple[MeanKind, ...] = ("centre", "aligned", "channel", "none")


@pytest.fixture(scope="module", params=["jpeg", "png", "raw"])
def encoded(
    request: pytest.FixtureRequest, mini: Path, tmp_path_factory: pytest.TempPathFactory
) -> TrainingSet:
    dest = tmp_path_factory.mktemp("encoded") / request.param
    ran = imgprep("build-shards", mini, dest, "--encoding", request.param, "--limit", 24)
    assert ran.code == 0, ran.err
    return open_dataset(dest)


@pytest.fixture(scope="module")
def data(built: Path) -> TrainingSet:
    return open_dataset(built)


def check(
    data: TrainingSet, config: InputConfig, *, epoch: int = 0, atol: float, rtol: float = 0
) -> None:
    """Compare every way to compute the pixels with the reference."""
    draws = epoch_draws(config, data.pca, data.size_px, N, seed=3, epoch=epoch)
    lit = lighting_on(config, epoch)
    spec = graph_spec(data, config, batch_images=N, lighting=lit)
    reader = RecordReader(data, "train")
    records = [record.content for record in reader.read(range(N))]
    expected = augmented(data, config, draws, records, lit)
    for whole in (False, True):  # as on a CPU, as on a GPU
        images = through_graph(reader, replace(spec, decode_whole=whole), draws)
        np.testing.assert_allclose(images, expected, atol=atol, rtol=rtol)
    reader.close()


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("preset", [PAPER, SOURCE], ids=["paper", "source"])
def test_the_graph_gives_the_pixels_of_the_reference(
    encoded: TrainingSet, preset: InputConfig, mean: MeanKind
) -> None:
    check(encoded, replace(preset, mean=mean), atol=1e-4)


@pytest.mark.parametrize("mean", MEANS)
def test_pixels_after_the_lighting_noise_stops(data: TrainingSet, mean: MeanKind) -> None:
    check(data, replace(SOURCE, mean=mean), epoch=68, atol=1e-4)


@pytest.mark.parametrize("mean", MEANS)
def test_pixels_with_vertical_flips(data: TrainingSet, mean: MeanKind) -> None:
    check(data, replace(SOURCE, mean=mean, vertical_flip=True), atol=1e-4)


@pytest.mark.parametrize("mean", MEANS)
def test_crops_show_the_mean_outside_the_record(data: TrainingSet, mean: MeanKind) -> None:
    check(data, replace(SOURCE, mean=mean, translate_px=40, crop_chunk=1), atol=1e-3)


@pytest.mark.parametrize("mean", MEANS)
def test_pixels_with_scale_jitter_and_everything_else(data: TrainingSet, mean: MeanKind) -> None:
    """DALI accumulates positions along a row, so they are off by some 1e-3 pixels at the end."""
    config = replace(
        SOURCE, mean=mean, translate_px=9, scale_jitter=0.4, vertical_flip=True, crop_chunk=1
    )
    check(data, config, atol=0.25)


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("extras", [{}, {"translate_px": 8, "vertical_flip": True}])
def test_pixels_in_half_precision(
    data: TrainingSet, mean: MeanKind, extras: dict[str, object]
) -> None:
    config = replace(SOURCE, mean=mean, dtype="float16", **extras)  # type: ignore[arg-type]
    check(data, config, atol=1e-2, rtol=1e-3)
    check(data, replace(config, vertical_flip=True), atol=1e-2, rtol=1e-3)


@pytest.mark.parametrize("crop_px", [8, 225, 255, 256])
def test_pixels_of_any_crop_size(data: TrainingSet, crop_px: int) -> None:
    for mean in ("centre", "aligned"):
        check(data, replace(PAPER, mean=mean, crop_px=crop_px), atol=1e-4)


def test_a_crop_larger_than_the_records_is_refused(data: TrainingSet) -> None:
    with pytest.raises(ConfigError, match="at most 256"):
        graph_spec(data, replace(PAPER, crop_px=257), batch_images=1, lighting=False)


def test_lighting_noise_has_the_scale_of_paper_and_source(data: TrainingSet) -> None:
    alpha = np.array([0.1, -0.2, 0.05])
    for config in (PAPER, SOURCE):
        by_hand = lighting_noise(data, config, alpha)
        draws = epoch_draws(config, data.pca, 256, 4000, seed=0, epoch=0)
        along = draws.lighting_rgb.astype(np.float64) @ data.pca.eigenvectors
        unit = lighting_noise(data, config, np.eye(3)[0]) @ data.pca.eigenvectors[:, 0]
        assert along[:, 0].std() == pytest.approx(0.1 * unit, rel=0.05)
        assert by_hand @ data.pca.eigenvectors[:, 0] == pytest.approx(0.1 * unit)
    ratio = data.pca.stdevs / (data.pca.eigenvalues / 255)
    np.testing.assert_allclose(ratio, 255 / data.pca.stdevs)  # the source over the words


@pytest.mark.parametrize("mean", MEANS)
def test_ten_views_are_corners_and_centre_and_their_mirror_images(
    data: TrainingSet, mean: MeanKind
) -> None:
    """Corners (0,0) (0,32), centre, (32,0) (32,32), then the same five mirrored."""
    loader = EvalLoader(
        data, replace(PAPER, mean=mean), Share(0, 1), batch_images=10, device=CPU, views=10
    )
    reader = RecordReader(data, "val")
    corners = [(0, 0), (0, 32), (16, 16), (32, 0), (32, 32)]
    for batch in islice(loader, 1):
        records = [record.content for record in reader.read(batch.record_n)]
        for view, images in enumerate(batch.images_v):
            still = EpochDraws.fixed(len(records), corners[view % 5])
            draws = replace(still, flip=np.full(len(records), view >= 5))
            expected = augmented(data, replace(PAPER, mean=mean), draws, records, lit=False)
            np.testing.assert_allclose(images.numpy(), expected, atol=1e-4)
    loader.close()
    reader.close()


def test_gaussian_noise_depends_on_the_position_in_the_epoch(data: TrainingSet) -> None:
    quiet = replace(PAPER, crop_px=64, dtype="float32")
    noisy = replace(quiet, gaussian_sd=5.0)
    with loading(data, quiet, batch_images=40) as one, loading(data, noisy, batch_images=40) as two:
        plain = torch.cat([batch.images for batch in one.epoch(0)])
        noise = torch.cat([batch.images for batch in two.epoch(0)]) - plain
    assert float(noise.std()) == pytest.approx(5, rel=0.01)
    assert abs(float(noise.mean())) < 0.05
    assert float((noise[0] * noise[1]).mean()) == pytest.approx(0, abs=1)
    with loading(data, noisy, Share(1, 2), batch_images=10) as other:
        batch = next(iter(other.epoch(0)))
        torch.testing.assert_close(batch.images - plain[5:10], noise[5:10], atol=1e-3, rtol=0)


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize(
    "extras",
    [
        {"hw_decoder_load": 0.8},
        {"translate_px": 4, "scale_jitter": 0.1},
        {"dtype": "float16", "vertical_flip": True},
    ],
)
def test_gpu_graph_serialises_without_a_gpu(
    encoded: TrainingSet, mean: MeanKind, extras: dict[str, object]
) -> None:
    config = replace(SOURCE, mean=mean, **extras)  # type: ignore[arg-type]
    spec = graph_spec(encoded, config, batch_images=8, lighting=True)
    text = build_pipeline(spec, "gpu", None)[0].serialize()
    assert (b"mixed" in text) == (encoded.encoding != "raw")
    assert b"gpu" in text
    told = "hw_decoder_load" in extras and encoded.encoding != "raw"
    assert (b"hw_decoder_load" in text) == told
    on_cpu = build_pipeline(spec, "cpu", None)[0].serialize()
    assert b"hw_decoder_load" not in on_cpu
    for views in (1, 10):
        still = eval_spec(encoded, config, batch_images=8, views=views)
        assert build_pipeline(still, "gpu", None)[0].serialize()


def test_decoding_threads_follow_the_processors_up_to_a_limit_beside_a_gpu() -> None:
    def threads(device: str, available: int | None, wanted: int | None = None) -> int | None:
        return with_threads(InputConfig(threads=wanted), device, available).threads

    assert [threads("cuda", n) for n in (1, 8, 16, 64)] == [1, 8, 8, 8]
    assert [threads("cpu", n) for n in (1, 8, 16, 64)] == [1, 8, 16, 64]
    assert threads("cpu", None) == processors()
    assert threads("cuda", 4, wanted=16) == 16
    with pytest.raises(ConfigError, match=r"hw_decoder_load must be from 0 to 1; got 1\.5"):
        InputConfig(hw_decoder_load=1.5)


@pytest.mark.gpu
@pytest.mark.parametrize("mean", MEANS)
def test_gpu_equals_cpu(encoded: TrainingSet, mean: MeanKind) -> None:
    """The GPU's JPEG decoder may differ from the CPU's by a few levels."""
    if not torch.cuda.is_available():
        pytest.skip("no GPU is visible to torch")
    config = replace(SOURCE, mean=mean)
    with loading(encoded, config, batch_images=5) as cpu:
        expected, _ = joined([*cpu.epoch(0), *cpu.epoch(1)])
    gpu = TrainLoader(
        encoded, config, Share(0, 1), batch_images=5, seed=7, device=torch.device("cuda", 0)
    )
    batches = [
        replace(batch, images=batch.images.cpu())
        for epoch in range(2)
        for batch in gpu.epoch(epoch)
    ]
    gpu.close()
    found, _ = joined(batches)
    # Records without a decoder, or with a lossless one, differ by rounding only.
    assert np.abs(found - expected).max() < (6 if encoded.encoding == "jpeg" else 1e-3)
    assert np.abs(found - expected).mean() < (0.1 if encoded.encoding == "jpeg" else 1e-4)


@pytest.mark.gpu
def test_raw_records_reach_a_gpu_from_page_locked_memory() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU is visible to torch")
    sink = Sink(PAPER, torch.device("cuda", 0), views=1, pixel_sd=0.0)
    buffer = sink.buffer(1 << 20, for_transfer=True)
    assert torch.from_numpy(buffer).is_pinned()


def test_the_reference_decodes_records(data: TrainingSet) -> None:
    reader = RecordReader(data, "train")
    assert pixels_of(reader.read([0])[0].content).shape == (256, 256, 3)
    reader.close()
