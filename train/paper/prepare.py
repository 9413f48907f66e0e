"""The datasets of the runs, made once from the user's by ``imgprep build-shards``.

The runs at a small scale read smaller records; networks that are fine-tuned read some of the
classes; figure 1 reads CIFAR-10, or the photographs at 32 px where its archive was not given.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imgprep.dataset.format import DATASET_INFO
from imgprep.storage.atomic import json_bytes, read_json
from train.errors import ConfigError, DataError, TrainError
from train.feed.dataset import TrainingSet, open_dataset
from train.paper.files import write_new
from train.paper.item import DataName, Scale
from train.paper.plan import PreparedData, digest
from train.paper.runner import Line

NOTE = "paper.json"
NOTE_SCHEMA = 1
DATA = "data"
CLASSES_MIN = 4
CIFAR_PX = 32
SHARDS = ("--layout", "shards")


@dataclass(frozen=True, kw_only=True, slots=True)
class Sources:
    """What the user gave."""

    dataset: str
    cifar: Path | None = None
    """The official archive of CIFAR-10, binary or python."""


@dataclass(slots=True)
class Preparation:
    """Makes the datasets in the folder ``out``; ``line`` gets lines of progress."""

    out: Path
    sources: Sources
    line: Line
    commands: list[str] = field(default_factory=list)
    """The builds as anyone could type them."""

    def check(self) -> TrainingSet:
        """Open the user's dataset, and claim the folder for it.

        Raises:
            DataError: the dataset cannot show anything: no val split, or too few classes.
            ConfigError: the folder holds the runs of another dataset.
            FormatError, StoreError: the dataset cannot be read.
            DestinationError: the folder cannot be written.
        """
        data = open_dataset(self.sources.dataset)
        if "val" not in data.index.splits or not data.records("val"):
            raise DataError(
                f"{data.location}: no records in split 'val', on which the errors are measured: "
                "build the dataset from a source that has validation images"
            )
        if data.classes < CLASSES_MIN:
            raise DataError(
                f"{data.location}: {data.classes} "
                f"{'class' if data.classes == 1 else 'classes'}; the paper's comparisons need at "
                f"least {CLASSES_MIN}"
            )
        _claim(self.out, data)
        return data

    def make(
        self, data: TrainingSet, scale: Scale, names: Collection[DataName]
    ) -> dict[DataName, PreparedData]:
        """Make the datasets called ``names`` and the photographs, as far as they are not there.

        Raises:
            TrainError: a build failed.
        """
        made: dict[DataName, PreparedData] = {}
        px = scale.record_px or data.size_px
        part = self._part(data, scale)
        photos = self.sources.dataset
        if px != data.size_px or part:
            options = (*SHARDS, "--size", str(px), *part)
            photos = self._build(photos, data.fingerprint, f"photos-{px}", options)
        made["photos"] = prepared(photos)
        if "some-classes" in names:
            ids = some_classes(open_dataset(photos))
            choice = (*SHARDS, *self._classes(ids), "--size", str(px))
            key, name = made["photos"].fingerprint, f"classes-{len(ids)}-{px}"
            made["some-classes"] = prepared(self._build(photos, key, name, choice))
        if "cifar" in names:
            made["cifar"] = prepared(self._cifar(made["photos"], scale.cifar_limit))
        return made

    def _cifar(self, photos: PreparedData, limit: int | None) -> str:
        size = ("--size", str(CIFAR_PX), "--encoding", "png")
        most = () if limit is None else ("--limit", str(limit))
        if self.sources.cifar is None:
            options = (*SHARDS, *size, *most)
            return self._build(photos.location, photos.fingerprint, f"photos-{CIFAR_PX}", options)
        archive = str(self.sources.cifar)
        return self._build(archive, archive, "cifar-10", ("--layout", "cifar", *size, *most))

    def _part(self, data: TrainingSet, scale: Scale) -> tuple[str, ...]:
        """Return the options that take a part of a dataset that is larger than the scale needs."""
        part: tuple[str, ...] = ()
        if scale.classes_limit is not None and data.classes > scale.classes_limit:
            step = data.classes / scale.classes_limit
            names = data.labels.names
            part = self._classes([names[int(n * step)] for n in range(scale.classes_limit)])
        largest = max(data.records("train"), data.records("val"))
        if scale.photos_limit is not None and largest > scale.photos_limit:
            part = (*part, "--limit", str(scale.photos_limit))
        return part

    def _classes(self, ids: Sequence[str]) -> tuple[str, str]:
        """Return the option for some classes: in a file, because names may contain commas, and
        thousands of them are too long for a command."""
        content = "".join(f"{each}\n" for each in ids).encode("utf-8", "surrogateescape")
        path = self.out / DATA / f"classes-{len(ids)}-{digest(list(ids))}.txt"
        write_new(path, content)
        return "--classes", str(path)

    def _build(self, source: str, key: str, name: str, options: Sequence[str]) -> str:
        """Build a dataset in a folder whose name ends with a hash of its options, because the
        scales take different parts, and of ``key``: what the source is."""
        folder = self.out / DATA / f"{name}-{digest([key, *options])}"
        words = ("build-shards", source, str(folder), *options)
        self.commands.append(shlex.join(("imgprep", *words)))
        if not _is_whole(folder):
            self.line(f"making {folder}")
            done = subprocess.run(
                [sys.executable, "-m", "imgprep", *words, "--quiet"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                check=False,
            )
            if done.returncode:
                said = done.stderr.decode("utf-8", "replace").strip()
                why = said.rpartition("imgprep: ")[2] or f"exit code {done.returncode}"
                raise TrainError(f"{folder} cannot be made: {why}")
        return str(folder)


def prepared(location: str) -> PreparedData:
    """Read what runs must know of a dataset."""
    data = open_dataset(location)
    return PreparedData(
        location=location,
        fingerprint=data.fingerprint,
        classes=data.classes,
        train_images=data.records("train"),
        val_images=data.records("val"),
    )


def some_classes(data: TrainingSet) -> list[str]:
    """Return the ids of every other class."""
    return [entry.name for entry in data.labels.classes][::2]


def _is_whole(folder: Path) -> bool:
    return (folder / DATASET_INFO).exists()


def _claim(out: Path, data: TrainingSet) -> None:
    """Note in ``out`` whose runs it holds; refuse the folder of another dataset."""
    note = out / NOTE
    mine = {
        "schema": NOTE_SCHEMA,
        "dataset": data.location,
        "fingerprint": data.fingerprint,
    }
    if note.exists():
        found: dict[str, Any] = read_json(note, "the note about the folder's dataset")
        if found.get("fingerprint") != data.fingerprint:
            raise ConfigError(
                f"{out} holds the runs of another dataset ({found.get('dataset')!s:.200}): use "
                "another --out"
            )
        return
    write_new(note, json_bytes(mine))
