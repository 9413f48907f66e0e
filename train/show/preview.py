"""A contact sheet of what the trainer sees: each record as stored, and as each epoch shows it.

Every picture comes from the loader that trains, with the random draws of its position in the
epoch's order: the same seed and settings show exactly the pixels of a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from imgprep.pages import sheet
from imgprep.pages.sheet import Drawn, Picture, Row, Sheet, Tile
from imgprep.storage import Location, open_store
from train.config import RunConfig
from train.feed.augment import EpochDraws, lighting_alphas, lighting_on
from train.feed.dataset import TrainingSet, open_dataset
from train.feed.loader import Share, TrainLoader
from train.feed.mean import viewable
from train.feed.records import RecordReader
from train.show.choose import choose_records
from train.show.stored import stored_pixels


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainerSheetOptions:
    """Which epochs and how many records to show."""

    first_epoch: int = 0
    images: int = 6
    draws: int = 4
    """How many epochs to show, from ``first_epoch``; one column each."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class AugmentedRecord:
    """One record as stored, and as each epoch shows it to the network."""

    record: int
    key: str
    label: int
    stored_hwc: Picture
    views_ehwc: NDArray[np.uint8]
    """(epochs, crop, crop, 3)."""
    draws: EpochDraws
    """The random draws of each epoch."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TrainerSheet:
    """A drawn sheet and what it shows."""

    data: TrainingSet
    config: RunConfig
    epochs: Sequence[int]
    shown: Sequence[AugmentedRecord]
    drawn: Drawn

    def to_json(self) -> dict[str, Any]:
        """The place of each picture and its random draws, for scripts."""
        height, width = self.drawn.pixels_hwc.shape[:2]
        return {
            "dataset": self.data.location,
            "fingerprint": self.data.fingerprint,
            "preset": self.config.preset,
            "seed": self.config.seed,
            "epochs": list(self.epochs),
            "width_px": width,
            "height_px": height,
            "records": [
                self._record(each, boxes)
                for each, boxes in zip(self.shown, self.drawn.boxes, strict=True)
            ],
        }

    def _record(self, each: AugmentedRecord, boxes: Sequence[sheet.Box]) -> dict[str, Any]:
        entry = self.data.labels.classes[each.label]
        alphas = lighting_alphas(self.config.input, self.data.pca, each.draws.lighting_rgb)
        return {
            "record": each.record,
            "key": each.key,
            "label": each.label,
            "class": entry.name,
            "words": entry.words,
            "box": list(boxes[0]),
            "draws": [
                {
                    "epoch": epoch,
                    "crop_row": int(each.draws.crop_yx[k, 0]),
                    "crop_column": int(each.draws.crop_yx[k, 1]),
                    "mirrored": bool(each.draws.flip[k]),
                    "upside_down": bool(each.draws.flip_vertical[k]),
                    "scale": float(each.draws.scale[k]),
                    "noise_rgb": [round(float(v), 3) for v in each.draws.lighting_rgb[k]],
                    "alphas": [round(float(v), 4) for v in alphas[k]],
                    "box": list(boxes[1 + k]),
                }
                for k, epoch in enumerate(self.epochs)
            ],
        }


def write_preview(
    dataset: Location, config: RunConfig, out: Path, options: TrainerSheetOptions
) -> TrainerSheet:
    """Draw the sheet into ``out``, a PNG.

    Raises:
        DataError, FormatError: the dataset cannot be read.
        ConfigError: its records are smaller than the crops.
        UsageError: ``out`` does not end in .png, or is inside the dataset.
        DestinationError: ``out`` cannot be written.
    """
    sheet.check_target(out, open_store(dataset).folder)
    preview = make_preview(open_dataset(dataset), config, options)
    sheet.write_png(out, preview.drawn.pixels_hwc)
    return preview


def make_preview(
    data: TrainingSet, config: RunConfig, options: TrainerSheetOptions
) -> TrainerSheet:
    """Choose records by the run's seed and draw them as its epochs show them."""
    epochs = range(options.first_epoch, options.first_epoch + options.draws)
    reader = RecordReader(data, "train", config.input)
    try:
        chosen = choose_records(reader, options.images, seed=config.seed, name="preview")
        shown = _shown(data, config, epochs, reader, chosen)
    finally:
        reader.close()
    drawn = sheet.draw(_sheet(data, config, epochs, shown))
    return TrainerSheet(data=data, config=config, epochs=epochs, shown=shown, drawn=drawn)


def _shown(
    data: TrainingSet,
    config: RunConfig,
    epochs: Sequence[int],
    reader: RecordReader,
    record_n: NDArray[np.int64],
) -> list[AugmentedRecord]:
    loader = TrainLoader(
        data,
        config.input,
        Share(0, 1),
        batch_images=len(
            record_n
        ),  # does not change the images: draws depend on the position in the epoch
        seed=config.seed,
        device=torch.device("cpu"),
    )
    try:
        picked = [loader.pick(epoch, record_n) for epoch in epochs]
    finally:
        loader.close()
    views = np.stack([viewable(each.images, config.input, data, each.draws) for each in picked])
    shown = []
    for n, (number, read) in enumerate(zip(record_n.tolist(), reader.read(record_n), strict=True)):
        shown.append(
            AugmentedRecord(
                record=number,
                key=reader.where(number).rpartition(": ")[2],
                label=read.label,
                stored_hwc=stored_pixels(data, reader, number, read),
                views_ehwc=views[:, n],
                draws=EpochDraws.concatenate([each.draws.rows(n, n + 1) for each in picked]),
            )
        )
    return shown


def _sheet(
    data: TrainingSet, config: RunConfig, epochs: Sequence[int], shown: Sequence[AugmentedRecord]
) -> Sheet:
    rows = []
    for each in shown:
        entry = data.labels.classes[each.label]
        words = f": {entry.words}" if entry.words else ""
        captions = _captions(data, config, epochs, each.draws)
        tiles = [Tile(view, lines) for view, lines in zip(each.views_ehwc, captions, strict=True)]
        rows.append(Row(f"{entry.name}{words} ({each.key})", [Tile(each.stored_hwc), *tiles]))
    return Sheet(
        title="What the trainer sees",
        note=(
            f"preset {config.preset}, seed {config.seed}, dataset {data.fingerprint[:12]}",
            "Row, column: the upper left corner of the crop. Noise: the random factors (alpha) of "
            "the three colour axes.",
            "The mean is added back, and the result is clipped to 0-255."
            + _division_note(config, epochs),
        ),
        columns=("as stored", *(f"epoch {epoch}" for epoch in epochs)),
        rows=rows,
    )


def _division_note(config: RunConfig, epochs: Sequence[int]) -> str:
    divides = config.input.lighting_divide and any(lighting_on(config.input, e) for e in epochs)
    if not divides:
        return ""
    return f" Paler than stored: the preset divides pixels by {1 + config.input.lighting_sd:g}."


def _captions(
    data: TrainingSet, config: RunConfig, epochs: Sequence[int], draws: EpochDraws
) -> list[tuple[str, ...]]:
    """Return two lines for each epoch: the crop, then the noise."""
    alphas = lighting_alphas(config.input, data.pca, draws.lighting_rgb)
    found: list[tuple[str, ...]] = []
    for k, epoch in enumerate(epochs):
        row, column = draws.crop_yx[k].tolist()
        crop = f"row {row}, column {column}"
        crop += ", mirrored" if draws.flip[k] else ""
        crop += ", upside down" if draws.flip_vertical[k] else ""
        crop += f", x {draws.scale[k]:.2f}" if config.input.scale_jitter else ""
        noise = "no lighting noise"
        if lighting_on(config.input, epoch):
            noise = "noise " + " ".join(f"{a:+.2f}" for a in (alphas[k].round(2) + 0.0).tolist())
        found.append((crop, noise))
    return found
