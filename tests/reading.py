"""Helpers that read a finished dataset without the code under test."""

from __future__ import annotations

import gzip
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Record:
    """One record as a reader gave it."""

    image_hwc: NDArray[Any]
    label: int


def source_of(dest: Path, split: str) -> dict[str, str]:
    """Key of each record -> ``<class>/<file name>`` of its source."""
    sources = {}
    with gzip.open(dest / f"{split}-sources.tsv.gz", "rt") as file:
        for line in file:
            row, _, where = line.rstrip("\n").split("\t")
            sources[f"{split}-{int(row):08d}"] = "/".join(where.split("/")[-2:])
    return sources


def labels_of_shards(dest: Path, split: str) -> dict[str, int]:
    """Key -> label of every record of a split, by the standard library alone."""
    labels = {}
    for path in sorted(dest.glob(f"{split}-*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, extension = member.name.partition(".")
                file = tar.extractfile(member)
                assert file is not None
                if extension == "cls":
                    labels[key] = int(file.read())
    return labels
