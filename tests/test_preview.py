"""Contact sheets: the tiles are the loader's own tensors, the same bytes from one seed."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from imgprep.dataset.encodings import encoding_of
from imgprep.errors import DestinationError, UsageError
from imgprep.pages import preview as records_preview
from imgprep.pages.sheet import Row, Sheet, Tile, check_target, draw
from tests.conftest import REPOSITORY, files_of, imgprep
from tests.feeding import CPU, loading
from tests.reading import labels_of_shards
from tests.training import train
from train.config import InputConfig, RunConfig
from train.feed.augment import epoch_draws, lighting_alphas
from train.feed.dataset import TrainingSet, open_dataset
from train.feed.mean import subtracted_mean
from train.feed.records import RecordReader
from train.presets import DEFAULT_PRESET
from train.presets import preset as settings_of
from train.settings import to_toml
from train.show.choose import choose_records
from train.show.preview import TrainerSheetOptions, make_preview, write_preview

CROP = 64
SETTINGS = ("--set", f"input.crop_px={CROP}")


@pytest.fixture(scope="module")
def data(built: Path) -> TrainingSet:
    return open_dataset(built)


@pytest.fixture(scope="module", params=["png", "raw"])
def other_encoding(
    request: pytest.FixtureRequest, mini: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    dest = tmp_path_factory.mktemp("encoded") / "dataset"
    options = ("--encoding", request.param, "--limit", 12, "--size", 96, "--jobs", 1)
    ran = imgprep("build-shards", mini, dest, *options)
    assert ran.code == 0, ran.err
    return dest


def cut(pixels: np.ndarray[Any, Any], box: list[int]) -> np.ndarray[Any, Any]:
    left, top, width, height = box
    return pixels[top : top + height, left : left + width]


def read_png(path: Path) -> np.ndarray[Any, Any]:
    with Image.open(path) as picture:
        return np.asarray(picture)


@pytest.mark.parametrize("preset", ["paper", "source-2012", "source-2010", "modern"])
def test_a_tile_is_the_tensor_that_trains(
    data: TrainingSet, built: Path, tmp_path: Path, preset: str
) -> None:
    """Of that record in that epoch, whatever the size of the batch; and the stored record."""
    out = tmp_path / "sheet.png"
    config = replace(settings_of(preset).input, crop_px=CROP)
    options = TrainerSheetOptions(first_epoch=1, images=5, draws=2)
    run = RunConfig(preset=preset, input=config, seed=5)
    shown = json.loads(json.dumps(write_preview(built, run, out, options).to_json()))
    pixels = read_png(out)
    assert pixels.shape == (shown["height_px"], shown["width_px"], 3)
    assert (shown["epochs"], shown["seed"], shown["preset"]) == ([1, 2], 5, preset)
    low = (data.size_px - CROP) // 2
    reader = RecordReader(data, "train")
    with loading(data, config, batch_images=7, seed=5) as loader:
        for k, epoch in enumerate((1, 2)):
            images = {
                int(n): image.float().permute(1, 2, 0).numpy()
                for batch in loader.epoch(epoch)
                for n, image in zip(batch.record_n, batch.images, strict=True)
            }
            assert len(shown["records"]) == 5
            for record in shown["records"]:
                draw = record["draws"][k]
                row, column = draw["crop_row"], draw["crop_column"]
                assert 0 <= row <= data.size_px - CROP
                assert 0 <= column <= data.size_px - CROP
                at = (row, column) if config.mean == "aligned" else (low, low)
                mean = data.mean_image_hwc[at[0] : at[0] + CROP, at[1] : at[1] + CROP]
                if config.mean == "aligned" and draw["mirrored"]:
                    mean = mean[:, ::-1]
                expected = np.rint(images[record["record"]] + mean).clip(0, 255)
                np.testing.assert_array_equal(cut(pixels, draw["box"]), expected)
    for record in shown["records"]:
        (stored,) = reader.read([record["record"]])
        assert record["label"] == stored.label
        assert reader.where(record["record"]).endswith(record["key"])
        whole = encoding_of("jpeg").pixels(stored.content, data.size_px)
        np.testing.assert_array_equal(cut(pixels, record["box"]), whole)


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(
    built: Path, tmp_path: Path
) -> None:
    found = []
    for number, seed in enumerate((1, 1, 2)):
        out = tmp_path / f"{number}.png"
        config = RunConfig(input=InputConfig(crop_px=CROP), seed=seed)
        write_preview(built, config, out, TrainerSheetOptions(images=2, draws=1))
        found.append(out.read_bytes())
    assert found[0] == found[1] != found[2]


def test_the_command_takes_the_settings_of_a_run(built: Path, tmp_path: Path) -> None:
    """Its config.toml, and flags over it."""
    config = RunConfig(preset="modern", input=InputConfig(crop_px=CROP, flip=False), seed=9)
    (tmp_path / "config.toml").write_text(to_toml(config))
    given = ("--config", tmp_path / "config.toml", "--set", "input.mean=none", "--draws", 3)
    ran = train("preview", built, "-o", tmp_path / "a.png", *given, "--images", 2, "--json")
    assert (ran.code, ran.err) == (0, "")
    assert (ran.json["seed"], ran.json["preset"], ran.json["epochs"]) == (9, "modern", [0, 1, 2])
    changed = replace(config, input=replace(config.input, mean="none"))
    ours = write_preview(built, changed, tmp_path / "b.png", TrainerSheetOptions(images=2, draws=3))
    assert ours.to_json() == ran.json
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("mean", ["none", "channel", "centre", "aligned"])
@pytest.mark.parametrize("moves", [{}, {"scale_jitter": 0.1, "translate_px": 9}])
def test_without_noise_a_tile_is_the_crop_itself(
    data: TrainingSet, mean: Any, moves: dict[str, Any]
) -> None:
    """What is subtracted is what is added back: all means give the picture that ``none`` gives."""
    shown = {}
    for kind in ("none", mean):
        settings = InputConfig(crop_px=CROP, mean=kind, lighting="off", vertical_flip=True, **moves)
        preview = make_preview(
            data, RunConfig(input=settings, seed=3), TrainerSheetOptions(images=3, draws=3)
        )
        shown[kind] = np.stack([each.views_ehwc for each in preview.shown]).astype(int)
    inside = shown["none"].max(-1) > 0  # beyond the record there is the mean, or nothing
    difference = np.abs(shown["none"] - shown[mean]).max(-1)[inside]
    assert inside.mean() > 0.85
    assert np.quantile(difference, 0.99) <= (2 if "scale_jitter" in moves else 1)


def test_the_alphas_are_those_that_made_the_noise(data: TrainingSet) -> None:
    for lighting in ("eigenvalue", "sqrt-eigenvalue"):
        config = InputConfig(lighting=lighting, lighting_sd=0.1)
        draws = epoch_draws(config, data.pca, data.size_px, 5000, seed=1, epoch=0)
        alphas = lighting_alphas(config, data.pca, draws.lighting_rgb)
        assert alphas.std(0) == pytest.approx([0.1] * 3, rel=0.05)
        scale = data.pca.stdevs if lighting == "sqrt-eigenvalue" else data.pca.eigenvalues / 255
        again = (alphas * scale) @ data.pca.eigenvectors.T
        np.testing.assert_allclose(again, draws.lighting_rgb, atol=1e-4)


def test_records_of_different_classes_come_first(data: TrainingSet) -> None:
    reader = RecordReader(data, "train")
    for seed in range(5):
        chosen = choose_records(reader, 4, seed=seed, name="x")
        assert sorted({read.label for read in reader.read(chosen)}) == [0, 1, 2, 3]
    assert len(set(choose_records(reader, 500, seed=1, name="x").tolist())) == 96


def test_a_picked_record_is_that_of_the_batches(data: TrainingSet) -> None:
    record_n = np.array([90, 3, 41])
    with loading(data, batch_images=8) as loader:
        picked = loader.pick(2, record_n)
        found = {
            int(n): image
            for batch in loader.epoch(2)
            for n, image in zip(batch.record_n, batch.images, strict=True)
        }
        for n, image in zip(record_n, picked.images, strict=True):
            torch.testing.assert_close(image, found[int(n)], rtol=0, atol=0)
    assert picked.images.device == CPU


def test_the_dataset_as_a_sheet(built: Path, tmp_path: Path) -> None:
    """Records under their classes, then the trainer's view; the dataset stays as it is."""
    before = files_of(built)
    out = tmp_path / "sheet.png"
    ran = imgprep("preview", built, "-o", out, "--classes", 3, "--records", 5, "--json")
    assert (ran.code, ran.err) == (0, "")
    shown, pixels = ran.json, read_png(out)
    truth = labels_of_shards(built, "train")
    assert [len(each["records"]) for each in shown["classes"]] == [5, 5, 5]
    for each in shown["classes"]:
        assert {truth[record["key"]] for record in each["records"]} == {each["label"]}
    last = shown["classes"][2]["records"][4]
    assert cut(pixels, last["box"]).shape == (128, 128, 3)
    assert len(np.unique(cut(pixels, last["box"]))) > 20
    alone = make_preview(open_dataset(built), settings_of(DEFAULT_PRESET), TrainerSheetOptions())
    for ours, theirs in zip(shown["trainer"]["records"], alone.shown, strict=True):
        assert ours["key"] == theirs.key
        for draw_, view in zip(ours["draws"], theirs.views_ehwc, strict=True):
            np.testing.assert_array_equal(cut(pixels, draw_["box"]), view)
    assert files_of(built) == before


def test_every_encoding_can_be_looked_at(
    other_encoding: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records_preview, "TRAINING_PARTS", ("no_such_package",))
    out = tmp_path / "sheet.png"
    options = records_preview.PreviewOptions(classes=4, records=2)
    shown = records_preview.write_preview(other_encoding, out, options).to_json()
    first = shown["classes"][0]["records"][0]
    tile = cut(read_png(out), first["box"])
    assert tile.shape == (96, 96, 3)
    data = open_dataset(other_encoding)
    reader = RecordReader(data, "train")
    keys = {reader.where(n).rpartition(": ")[2]: n for n in range(len(reader))}
    (stored,) = reader.read([keys[first["key"]]])
    np.testing.assert_array_equal(tile, encoding_of(data.encoding).pixels(stored.content, 96))
    config = InputConfig(crop_px=96, lighting="off", flip=False, mean="none")
    for each in make_preview(data, RunConfig(input=config), TrainerSheetOptions(draws=1)).shown:
        np.testing.assert_array_equal(each.views_ehwc[0], each.stored_hwc)


def test_a_trainer_that_cannot_is_a_line_and_the_records_are_drawn(
    other_encoding: Path, tmp_path: Path
) -> None:
    if open_dataset(other_encoding).encoding == "raw":
        return  # once is enough
    ran = imgprep("preview", other_encoding, "-o", tmp_path / "sheet.png", "--json")
    assert ran.code == 0
    assert "crop_px must be at most 96" in ran.json["trainer_missing"]
    assert ran.json["trainer_missing"] in ran.err
    assert len(ran.err.splitlines()) == 1
    assert read_png(tmp_path / "sheet.png").shape[0] == ran.json["height_px"]


def test_without_the_training_half_the_records_are_drawn(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records_preview, "TRAINING_PARTS", ("torch", "no_such.package"))
    preview = records_preview.write_preview(
        built, tmp_path / "sheet.png", records_preview.PreviewOptions(classes=1, records=1)
    )
    assert preview.trainer is None
    assert preview.trainer_missing == (
        "no_such.package is not installed (pip install 'imgprep[train]')"
    )
    assert read_png(tmp_path / "sheet.png").shape[0] < 300


def test_drawing_records_imports_neither_torch_nor_dali() -> None:
    code = (
        "import sys, imgprep.pages.preview as p; assert p.training_missing() is None;"
        "assert not {'torch', 'nvidia.dali', 'train'} & set(sys.modules), sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)


def test_a_sheet_goes_anywhere_but_into_the_dataset(built: Path, tmp_path: Path) -> None:
    options = records_preview.PreviewOptions(classes=1, records=1)
    for out in (built / "sheet.png", built / ".imgprep" / "a" / "sheet.png", tmp_path / "a.jpg"):
        with pytest.raises(UsageError):
            records_preview.write_preview(built, out, options)
        with pytest.raises(UsageError):
            write_preview(built, RunConfig(), out, TrainerSheetOptions())
        assert not out.exists()
    config = RunConfig(input=InputConfig(crop_px=CROP))
    with pytest.raises(DestinationError, match="cannot write the sheet"):
        write_preview(built, config, tmp_path / "no" / "sheet.png", TrainerSheetOptions(images=1))


def test_a_link_into_the_dataset_is_found_out(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "data")
    with pytest.raises(UsageError, match="is inside the dataset"):
        check_target(tmp_path / "link" / "a.png", tmp_path / "data")


def test_a_damaged_record_is_a_sentence(built: Path, tmp_path: Path) -> None:
    dest = tmp_path / "copy"
    shutil.copytree(built, dest)
    for idx in dest.glob("train-*.idx"):
        shard = idx.with_suffix(".tar")
        content = bytearray(shard.read_bytes())
        for line in idx.read_text().splitlines()[1:]:
            offset = int(line.split()[1])
            content[offset : offset + 64] = bytes(64)
        shard.write_bytes(content)
    ran = imgprep("preview", dest, "-o", tmp_path / "sheet.png")
    assert ran.code == 1
    assert "run imgprep verify" in ran.err
    assert "Traceback" not in ran.err
    assert not (tmp_path / "sheet.png").exists()


def test_captions_that_do_not_fit_or_print_are_cut_and_replaced() -> None:
    tile = Tile(np.full((20, 30, 3), 200, np.uint8), ("x" * 500, "café Ω\n\x07"))
    drawn = draw(Sheet(title="t", rows=[Row("é" * 400, [tile, tile]), Row("", [tile])]))
    assert drawn.pixels_hwc.shape[1] < 500
    for row in drawn.boxes:
        for left, top, width, height in row:
            assert (drawn.pixels_hwc[top : top + height, left : left + width] == 200).all()
    buffer = io.BytesIO()
    Image.fromarray(drawn.pixels_hwc).save(buffer, "PNG")


def test_subtracted_mean_has_a_row_for_each_image(data: TrainingSet) -> None:
    config = InputConfig(crop_px=CROP, mean="aligned")
    draws = epoch_draws(config, data.pca, data.size_px, 6, seed=1, epoch=0)
    mean = subtracted_mean(config, data, draws)
    assert mean.shape == (6, CROP, CROP, 3)
    row, column = draws.crop_yx[4]
    expected = data.mean_image_hwc[row : row + CROP, column : column + CROP]
    np.testing.assert_array_equal(mean[4], expected[:, ::-1] if draws.flip[4] else expected)
