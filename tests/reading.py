"""Helpers that read a finished dataset without the code under test."""

from __future__ import annotations

import gzip
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
