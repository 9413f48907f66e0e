"""The datasets of the runs, made once from the user's by ``imgprep build-shards``.

The runs at a small scale read smaller records; networks that are fine-tuned read some of the
classes; figure 1 reads CIFAR-10, or the photographs at 32 px where its archive was not given.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imgprep.dataset.format import DATASET_INFO
from imgprep.storage.atomic import json_bytes, read_json
from train.errors import ConfigError, DataError, TrainError
from train.feed.dataset import TrainingSet, open_dataset
from train.paper.files import write_new
from train.paper.item import DataName
from train.paper.plan import PreparedData
from train.paper.runner import Line

NOTE = "paper.json"
NOTE_SCHEMA = 1
DATA = "data"
CLASSES_MIN = 4
CIFAR_PX = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Sources:
    """What the user gave."""

    dataset: str
    cifar: Path | None = None
    """The official archive of CIFAR-10, binary or python."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataPlan:
    """Which datasets to make."""

    record_px: int | None
    names: frozenset[DataName]
    cifar_limit: int | None = None
    """Images of each split for figure 1; None: all."""
    jobs: int | None = None
    """Worker processes of a build; None: the default of ``build-shards``."""


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

    def make(self, data: TrainingSet, plan: DataPlan) -> dict[DataName, PreparedData]:
        """Make the datasets that ``plan`` names, as far as they are not there.

        Raises:
            TrainError: a build failed.
        """
        made: dict[DataName, PreparedData] = {}
        photos = self.sources.dataset
        if plan.record_px is not None and plan.record_px != data.size_px:
            folder = self.out / DATA / f"photos-{plan.record_px}"
            size = ("--size", str(plan.record_px))
            photos = self._build(photos, folder, ("--layout", "shards", *size), plan)
        made["photos"] = prepared(photos)
        if "some-classes" in plan.names:
            ids = some_classes(data)
            folder = self.out / DATA / f"classes-{len(ids)}-{plan.record_px or data.size_px}"
            choice = ("--layout", "shards", "--classes", ",".join(ids))
            same = ("--size", str(plan.record_px or data.size_px))
            made["some-classes"] = prepared(self._build(photos, folder, (*choice, *same), plan))
        if "cifar" in plan.names:
            made["cifar"] = prepared(self._cifar(photos, plan))
        return made

    def _cifar(self, photos: str, plan: DataPlan) -> str:
        size: tuple[str, ...] = ("--size", str(CIFAR_PX), "--encoding", "png")
        if plan.cifar_limit is not None:
            size = (*size, "--limit", str(plan.cifar_limit))
        if self.sources.cifar is None:
            folder = self.out / DATA / f"photos-{CIFAR_PX}"
            return self._build(photos, folder, ("--layout", "shards", *size), plan)
        words = ("--layout", "cifar", *size)
        return self._build(str(self.sources.cifar), self.out / DATA / "cifar-10", words, plan)

    def _build(self, source: str, folder: Path, options: Iterable[str], plan: DataPlan) -> str:
        jobs = () if plan.jobs is None else ("--jobs", str(plan.jobs))
        words = ("build-shards", source, str(folder), *options)
        self.commands.append(shlex.join(("imgprep", *words)))
        if not _is_whole(folder):
            self.line(f"making {folder}")
            done = subprocess.run(
                [sys.executable, "-m", "imgprep", *words, *jobs, "--quiet"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                check=False,
            )
            if done.returncode:
                said = done.stderr.decode("utf-8", "replace").strip().splitlines()
                why = said[-1] if said else f"exit code {done.returncode}"
                raise TrainError(why.removeprefix("imgprep: "))
        return str(folder)


def prepared(location: str) -> PreparedData:
    """Read what runs must know of a dataset."""
    data = open_dataset(location)
    return PreparedData(
        location=location, fingerprint=data.fingerprint, train_images=data.records("train")
    )


def some_classes(data: TrainingSet) -> list[str]:
    """Return the ids of the first half of the classes: every other one, so that neighbours in a
    list by topic are divided."""
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
