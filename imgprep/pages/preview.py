"""A contact sheet of a dataset: records by class, and below them what the trainer makes of some.

``python -m train preview`` draws the trainer's part in its own process, and only where the training
half is installed: imgprep imports neither torch nor DALI.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgprep.dataset.dali_index import read_dali_index
from imgprep.dataset.encodings import encoding_of
from imgprep.dataset.format import LABEL_DIGITS_MAX, sources_name
from imgprep.dataset.index import DatasetIndex, ShardInfo, load_index, load_labels
from imgprep.dataset.labels import LabelMap
from imgprep.errors import FormatError
from imgprep.order import shuffled
from imgprep.pages import sheet
from imgprep.pages.sheet import Drawn, Picture, Row, Sheet, Tile
from imgprep.storage import Location, absolute, open_store
from imgprep.storage.atomic import open_regular
from imgprep.storage.reading import on_disk
from imgprep.verify.dataset import read_source_labels

TILE_PX = 128
TRAINING_PARTS = ("torch", "nvidia.dali", "train")
ROOT = Path(__file__).resolve().parents[2]
"""The folder that holds ``imgprep`` and, beside it, the training half."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PreviewOptions:
    """Which records to show, and how many."""

    seed: int = 0
    classes: int = 8
    records: int = 8
    """At most, per class."""
    shards_max: int | None = None
    """Shards to read at most; None: as many as it takes."""


@dataclass(frozen=True, slots=True, eq=False)
class SheetRecord:
    """One record on the sheet."""

    key: str
    label: int
    pixels_hwc: Picture


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RecordSheet:
    """A drawn sheet and what it shows."""

    index: DatasetIndex
    split: str
    labels: LabelMap
    rows: Mapping[int, Sequence[SheetRecord]]
    """Records by label."""
    drawn: Drawn
    trainer: Mapping[str, Any] | None
    """What ``train preview --json`` printed, its boxes moved to their place on this sheet."""
    trainer_missing: str | None
    """Why the trainer's part is missing; None if it was drawn."""

    def to_json(self) -> dict[str, Any]:
        """The place of each picture, for scripts; a box is (left, top, width, height) in pixels."""
        height, width = self.drawn.pixels_hwc.shape[:2]
        return {
            "dataset": self.index.location,
            "fingerprint": self.index.fingerprint,
            "split": self.split,
            "width_px": width,
            "height_px": height,
            "classes": [
                {
                    "label": label,
                    "class": self.labels.classes[label].name,
                    "words": self.labels.classes[label].words,
                    "records": [
                        {"key": each.key, "box": list(box)}
                        for each, box in zip(shown, boxes, strict=True)
                    ],
                }
                for (label, shown), boxes in zip(self.rows.items(), self.drawn.boxes, strict=False)
            ],
            "trainer": self.trainer,
            "trainer_missing": self.trainer_missing,
        }


def write_preview(dest: Location, out: Path, options: PreviewOptions) -> RecordSheet:
    """Draw the sheet into ``out``, a PNG.

    Raises:
        FormatError: there is no finished dataset, or it is damaged.
        StoreError: an object store does not answer, or refuses.
        UsageError: ``out`` does not end in .png, or is inside the dataset.
        DestinationError: ``out`` cannot be written.
    """
    store = open_store(dest)
    sheet.check_target(out, store.folder)
    index = load_index(store)
    if not index.splits:
        raise FormatError(f"{store}: the dataset has no split")
    split = "train" if index.splits.get("train") else next(iter(index.splits))
    labels = load_labels(index)
    label_of_row = read_source_labels(store, sources_name(split), classes=index.classes)
    rows = choose_records(index, split, label_of_row, options)
    drawn = sheet.draw(_sheet(index, split, labels, rows))
    trainer, missing = None, training_missing()
    if missing is None:
        trainer, missing = _trainer_view(absolute(store), options.seed)
    value = None
    if trainer is not None:
        top_px = len(drawn.pixels_hwc)
        drawn = sheet.stacked([drawn, trainer.drawn])
        value = _moved(trainer.value, top_px)
    sheet.write_png(out, drawn.pixels_hwc)
    return RecordSheet(
        index=index,
        split=split,
        labels=labels,
        rows=rows,
        drawn=drawn,
        trainer=value,
        trainer_missing=missing,
    )


def choose_records(
    index: DatasetIndex, split: str, label_of_row: NDArray[np.int64], options: PreviewOptions
) -> dict[int, list[SheetRecord]]:
    """Choose a seeded sample: some classes in label order, and some records of each.

    The records of a shard are a random sample already, so shards are opened one by one in a seeded
    order until there are enough records. That takes few shards, even of a large dataset.

    Args:
        index: the dataset.
        split: the name of one of its splits.
        label_of_row: label of each source image of the split, by ``read_source_labels``.
        options: how many records and classes, and the seed.

    Raises:
        FormatError: a shard is damaged or missing.
        StoreError: an object store does not answer, or refuses.
    """
    store = index.store
    have = np.unique(label_of_row)
    some = shuffled(len(have), seed=options.seed, name="preview-classes")[: options.classes]
    rows: dict[int, list[SheetRecord]] = {int(label): [] for label in np.sort(have[some])}
    shards = index.splits[split].shards
    try:
        order = shuffled(len(shards), seed=options.seed, name="preview-shards")
        for number in order[: options.shards_max].tolist():
            if all(len(row) >= options.records for row in rows.values()):
                break
            for shown in _of_shard(index, shards[number], label_of_row, rows, options):
                rows[shown.label].append(shown)
    except OSError as exc:
        raise FormatError(f"{store}: cannot read the dataset: {exc.strerror or exc}") from exc
    return rows


def _of_shard(
    index: DatasetIndex,
    shard: ShardInfo,
    label_of_row: NDArray[np.int64],
    rows: Mapping[int, Sequence[SheetRecord]],
    options: PreviewOptions,
) -> Iterator[SheetRecord]:
    """Yield the records of a shard whose classes need more."""
    store = index.store
    wanted = {label: options.records - len(row) for label, row in rows.items()}
    spans = []
    found = read_dali_index(store, shard, index.encoding)
    for name, (offset, size) in zip(found.names, found.spans[:, :2].tolist(), strict=True):
        key = name.decode("ascii", "replace").partition(".")[0]
        try:
            row = _row_of(key)
        except ValueError as exc:
            raise FormatError(f"{store.where(shard.idx_name)}: {exc}; run imgprep verify") from exc
        label = int(label_of_row[row]) if row < len(label_of_row) else -1
        if wanted.get(label, 0) > 0:
            wanted[label] -= 1
            spans.append((key, label, offset, size))
    if not spans:
        return
    with on_disk(store, shard.name, limit_bytes=shard.bytes) as path, open_regular(path) as tar:
        tar_bytes = os.fstat(tar.fileno()).st_size
        for key, label, offset, size in spans:
            if offset + size > tar_bytes:  # checked before memory is allocated for it
                raise FormatError(
                    f"{store.where(shard.name)}: ends before {key:.80}; run imgprep verify"
                )
            tar.seek(offset)
            try:
                encoding = encoding_of(index.encoding)
                pixels = encoding.pixels(tar.read(size), index.size_px, index.shape)
            except FormatError as exc:
                where = f"{store.where(shard.name)}: {key}"
                raise FormatError(f"{where}: {exc}; run imgprep verify --decode") from exc
            yield SheetRecord(key, label, pixels)


def _row_of(key: str) -> int:
    """Return the manifest row of a key like ``train-00000042``; ValueError for any other text."""
    digits = key.rpartition("-")[2]
    if not digits.isdigit() or len(digits) > LABEL_DIGITS_MAX:
        raise ValueError(f"{key:.80} is not the key of a record")
    return int(digits)


def _sheet(
    index: DatasetIndex, split: str, labels: LabelMap, rows: Mapping[int, Sequence[SheetRecord]]
) -> Sheet:
    drawn = []
    for label, shown in rows.items():
        entry = labels.classes[label]
        words = f": {entry.words}" if entry.words else ""
        drawn.append(
            Row(f"{entry.name}{words} (label {label})", [Tile(_small(s.pixels_hwc)) for s in shown])
        )
    info = index.splits[split]
    return Sheet(
        title="Records",
        note=(
            f"{split}: {info.records:,} records {index.sides}, "
            f"{index.encoding}, {index.classes:,} classes, dataset {index.fingerprint[:12]}",
        ),
        rows=drawn,
    )


def _small(pixels_hwc: Picture) -> Picture:
    from PIL import Image

    picture = Image.fromarray(pixels_hwc)
    longest = max(picture.size)
    if longest > TILE_PX:
        width, height = (max(1, side * TILE_PX // longest) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BOX)
    return np.asarray(picture)


def training_missing() -> str | None:
    """Name what the trainer's part needs and is not installed; None if nothing is missing."""
    for name in TRAINING_PARTS:
        try:
            found = importlib.util.find_spec(name)
        except ModuleNotFoundError:  # of its parent
            found = None
        if found is None:
            return f"{name} is not installed (pip install 'imgprep[train]')"
    return None


@dataclass(frozen=True, slots=True, eq=False)
class _TrainerView:
    drawn: Drawn
    value: dict[str, Any]


def _trainer_view(dest: str, seed: int) -> tuple[_TrainerView | None, str | None]:
    """Run ``train preview``; returns its sheet and its JSON, or None and the reason."""
    from PIL import Image

    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    with tempfile.TemporaryDirectory(prefix="imgprep-") as folder:
        picture = Path(folder) / "trainer.png"
        # -P: a train.py in the working folder must not be run in place of ours
        command = [sys.executable, "-P", "-m", "train", "preview", dest, "-o", str(picture)]
        ran = subprocess.run(
            [*command, "--seed", str(seed), "--json"],
            capture_output=True,
            text=True,
            check=False,
            env={
                "IMGPREP_CACHE": folder,  # for shards at a URL; a folder that the user set wins
                **os.environ,
                "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            },
        )
        if ran.returncode != 0:
            said = ran.stderr.strip().splitlines() or ["it printed no error"]
            return None, f"train preview failed: {said[-1]}"
        with Image.open(picture, formats=["PNG"]) as image:
            pixels_hwc = np.asarray(image.convert("RGB"))
        value = json.loads(ran.stdout)
    return _TrainerView(Drawn(pixels_hwc, []), value), None


def _moved(value: dict[str, Any], down_px: int) -> dict[str, Any]:
    """Move the boxes of the trainer's records down by ``down_px``, to their place on the sheet."""
    for record in value["records"]:
        for each in (record, *record["draws"]):
            left, top, width, height = each["box"]
            each["box"] = [left, top + down_px, width, height]
    return value
