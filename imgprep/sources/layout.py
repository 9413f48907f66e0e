"""What a layout is, and what recognising one gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imgprep.dataset.labels import LabelMap
from imgprep.sources.challenges import Challenge
from imgprep.sources.containers import ContainerImages, Findings, NameFault, NameTest
from imgprep.sources.pixels import Form
from imgprep.sources.scan_threads import ScanOptions
from imgprep.sources.tree import Tree
from imgprep.spec import SplitChoice

ClassImages = tuple[str, ContainerImages]
"""A class name and the images of that class."""
ScanClasses = Callable[[ScanOptions, Findings], Iterator[ClassImages]]
"""Scans a split that is sorted by class; faults outside the classes go to the findings.

It scans only ``options.chosen(all classes, findings)``.
"""
ScanFlat = Callable[[NameFault, NameTest | None], ContainerImages]
"""Scans a split whose images are in one container, not sorted by class.

The arguments are those of ``ContainerBuilder``: they know the names of images.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledImages:
    """The classes and images of a source that says itself which label each image has."""

    labels: LabelMap
    splits: Mapping[str, Sequence[tuple[ContainerImages, NDArray[np.int32]]]]
    """For each split its containers, in order, with a label for each row."""
    form: Form = "file"
    sort_by_name: bool = False
    """Sort the rows of a split by name, across its containers."""


ScanLabelled = Callable[[SplitChoice, Findings], LabelledImages]
"""Scans the splits that the choice asks for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A layout that fits a source: the evidence, and how to scan each split."""

    layout: str
    evidence: tuple[str, ...]
    """Sentences for people, such as ``found train/ with 1000 class folders``."""
    train: ScanClasses | None = None
    val: ScanClasses | None = None
    """At most one of ``val`` and ``flat_val`` is set."""
    flat_val: ScanFlat | None = None
    labelled: ScanLabelled | None = None
    """Scans all splits, where the source itself says which label each image has."""
    flat_test: ScanFlat | None = None
    """Scanned only where the labels of a test split are known."""
    challenges: tuple[Challenge, ...] = ()
    """Whose devkit and counts may apply, most likely first."""
    special_case_of: str = ""
    """A layout that fits the same folders and is not meant, such as class-folders for Kaggle's."""
    table_folders: tuple[Tree, ...] = ()
    """Where the devkit and other tables may be."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """One way to arrange a source."""

    expected: str
    """What the source must contain, for messages."""
    detect: Callable[[Tree], Candidate | None]
    """Returns None where the layout does not fit."""
