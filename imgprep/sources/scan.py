"""Scan a source: recognise its layout, list its images, give each image its label.

Archives are walked by offset and folders are listed; nothing is unpacked and no image is opened.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from imgprep.dataset.labels import LabelMap
from imgprep.errors import SourceError, UnreachableError
from imgprep.sources.classes import ClassesFound, decide_classes
from imgprep.sources.containers import ContainerImages, Findings, assemble
from imgprep.sources.detect import choose_layout
from imgprep.sources.ilsvrc2012 import DEVKIT_ARCHIVES
from imgprep.sources.layout import Candidate, ClassImages, ScanClasses
from imgprep.sources.manifest import SourceScan, SplitManifest
from imgprep.sources.open_tree import open_tree
from imgprep.sources.scan_threads import Progress, ScanOptions
from imgprep.sources.selection import Selection
from imgprep.sources.take import EVERYTHING, Take
from imgprep.sources.truth import KAGGLE_SOLUTION_NAME, Truth, label_flat_val, read_truth
from imgprep.sources.truth_files import val_number
from imgprep.spec import SplitChoice

__all__ = ["scan_source"]


def scan_source(
    location: str | Path,
    layout: str | None = None,
    *,
    split: SplitChoice = "all",
    take: Take = EVERYTHING,
    progress: Progress | None = None,
    threads: int | None = None,
) -> SourceScan:
    """Find every image of a source and its label.

    Args:
        location: the folder (a path or a URL) of the archives, of the class folders, of Kaggle's
            tree, or of a dataset that imgprep built; or the file of a CIFAR archive.
        layout: one of ``LAYOUT_NAMES``, or None to recognise it.
        split: with ``train``, a val split that cannot be used is left out instead of raising, and
            its problems are not reported.
        take: which part of the source is taken.
        progress: called with the number of images found so far in a split.
        threads: threads that list containers; None measures how fast the disk answers, or uses
            many for a URL. The result does not depend on it.

    Raises:
        UsageError: the layout is not recognised, or more than one fits; or the source lacks a
            class that ``take`` names.
        SourceError: the source cannot be labelled, or an archive cannot be opened.
        UnreachableError: the store refuses, or does not answer.
    """
    tree = open_tree(location)
    candidate = choose_layout(tree, layout)
    truth = read_truth(candidate.table_folders)
    options = ScanOptions(threads or tree.threads, progress, tree.stop, take.selection)
    read = _read if candidate.labelled is None else _read_labelled
    labels, splits, findings = read(candidate, truth, options, split)
    return SourceScan(
        layout=candidate.layout,
        evidence=(*candidate.evidence, *truth.evidence),
        root=tree.location,
        labels=labels,
        splits=splits,
        problems=tuple(findings.problems),
        problem_counts=dict(sorted(findings.problem_counts.items())),
        class_doubts=tuple(findings.class_doubts),
        notes=tuple(findings.notes),
        oddities=dict(sorted(findings.oddities.items())),
        selection=take.selection,
        source_classes=len(findings.class_names),
    )


def _read_labelled(
    candidate: Candidate, truth: Truth, options: ScanOptions, split: SplitChoice
) -> tuple[LabelMap, dict[str, SplitManifest], Findings]:
    """Scan a source that says itself which label each image has; keep the classes in use."""
    assert candidate.labelled is not None
    findings, selection = Findings(), options.selection
    found = candidate.labelled(split, findings)
    findings.class_names.update(found.labels.names)
    selection.check(findings.class_names)
    labels = found.labels.only(selection.takes)
    index = labels.index_by_name()
    label_of = np.array([index.get(name, -1) for name in found.labels.names], np.int32)
    splits: dict[str, SplitManifest] = {}
    for name, parts in found.splits.items():
        kept = []
        for images, numbers in parts:
            rows = np.flatnonzero(label_of[numbers] >= 0)
            kept.append((images.pick(rows), label_of[numbers[rows]]))
            findings.merge(images.findings)
        splits[name] = replace(assemble(name, kept), form=found.form)
        if options.progress:
            options.progress(len(splits[name]))
    return labels, splits, findings


def _read(
    candidate: Candidate, truth: Truth, options: ScanOptions, split: SplitChoice
) -> tuple[LabelMap, dict[str, SplitManifest], Findings]:
    """Scan the splits of a candidate and label their images."""
    selection = options.selection
    findings = Findings()
    train = _scan_classes(candidate.train, options, findings)
    before_val = deepcopy(findings)
    try:
        val = _scan_val(candidate, truth, options)
        if split != "train":
            findings.merge(val.findings)
        labels, splits = _label(train, val, truth, findings, selection)
    except UnreachableError:
        raise
    except SourceError as exc:
        if split != "train" or train is None:
            raise
        findings = before_val
        findings.notes.append(f"val is left out: {exc}")
        flat = candidate.flat_val is not None and bool(truth.val_classes)
        labels, splits = _label(train, _Val(flat=flat), truth, findings, selection)
    return labels, splits, findings


@dataclass(frozen=True, kw_only=True, slots=True)
class _Val:
    """The images of the validation split, sorted by class or in one container."""

    by_class: list[ClassImages] | None = None
    images: ContainerImages | None = None
    flat: bool = False
    findings: Findings = field(default_factory=Findings)


def _scan_classes(
    scan: ScanClasses | None, options: ScanOptions, findings: Findings
) -> list[ClassImages] | None:
    if scan is None:
        return None
    by_class: list[ClassImages] = []
    for name, images in scan(options, findings):
        findings.merge(images.findings)
        if len(images) == 0:
            cause = "the class has no usable image; it keeps its label"
            findings.report("empty-class", images.container, cause)
        by_class.append((name, images))
    return by_class


def _scan_val(candidate: Candidate, truth: Truth, options: ScanOptions) -> _Val:
    findings = Findings()
    by_class = _scan_classes(candidate.val, options, findings)
    if candidate.flat_val is None:
        return _Val(by_class=by_class, findings=findings)

    def unused(name: bytes) -> bool:
        number = val_number(name)
        known = truth.val_classes.get(number) if number is not None else None
        return known is not None and not options.selection.takes(known)

    images = candidate.flat_val(unused if options.selection else None)
    if options.progress:
        options.progress(len(images))
    if not truth.val_classes:
        lists = (
            f"; {truth.classes_from} has no labels of validation images" if truth.classes else ""
        )
        raise SourceError(
            f"{images.container} cannot be labelled: its images are not sorted by class, and "
            f"neither a complete devkit ({DEVKIT_ARCHIVES[0]}) nor Kaggle's {KAGGLE_SOLUTION_NAME} "
            f"is beside it{lists}. Put one there, or build train alone with --split train"
        )
    return _Val(images=images, flat=True, findings=images.findings)


def _label(
    train: list[ClassImages] | None,
    val: _Val,
    truth: Truth,
    findings: Findings,
    selection: Selection,
) -> tuple[LabelMap, dict[str, SplitManifest]]:
    """Decide the classes and put the images of each split into a manifest, with their labels."""
    if train is None and val.flat:
        findings.class_names.update(truth.val_classes.values())
    selection.check(findings.class_names)
    if selection.only is not None:
        findings.class_doubts.clear()  # The user says which classes there are.
    chosen = truth.only(selection.takes)
    if val.images is not None and not chosen.val_classes:
        raise SourceError(
            f"{truth.val_from} labels no validation image of the classes that are used: it belongs "
            "to another set; replace it, or build train alone with --split train"
        )
    labels = decide_classes(
        ClassesFound(train=train, val=val.by_class, flat_val=val.flat), chosen, findings
    )
    index = labels.index_by_name()
    splits: dict[str, SplitManifest] = {}
    for split, by_class in (("train", train), ("val", val.by_class)):
        if by_class is not None:
            splits[split] = assemble(split, [(images, index[name]) for name, images in by_class])
    if val.images is not None:
        splits["val"] = assemble("val", [label_flat_val(val.images, truth, labels)])
    return labels, splits
