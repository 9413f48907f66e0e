"""Scan a source: recognise its layout, list its images, give each image its label.

Archives are walked by offset and folders are listed; nothing is unpacked and no image is opened.
"""

from __future__ import annotations

from collections.abc import Collection
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from imgprep.dataset.labels import LabelMap
from imgprep.errors import SourceError, UnreachableError, UsageError
from imgprep.sources.carve import carve_val
from imgprep.sources.challenges import ILSVRC2012
from imgprep.sources.classes import ClassesFound, decide_classes
from imgprep.sources.containers import ContainerImages, Findings, assemble
from imgprep.sources.detect import choose_layout
from imgprep.sources.labelled import read_labelled
from imgprep.sources.layout import Candidate, ClassImages, ScanClasses, ScanFlat
from imgprep.sources.manifest import SourceScan, SplitManifest
from imgprep.sources.open_tree import open_tree
from imgprep.sources.scan_threads import Progress, ScanOptions
from imgprep.sources.selection import Selection
from imgprep.sources.table_scan import table_candidate
from imgprep.sources.take import EVERYTHING, Take
from imgprep.sources.truth import KAGGLE_SOLUTION_NAME, Truth, label_flat, read_truth
from imgprep.spec import SplitChoice
from imgprep.wording import counted

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
            class that ``take`` names, or has the val split that it would make.
        SourceError: the source cannot be labelled, or an archive cannot be opened.
        UnreachableError: the store refuses, or does not answer.
    """
    tree = open_tree(location)
    options = ScanOptions(threads or tree.threads, progress, tree.stop, take.selection)
    candidate = (
        choose_layout(tree, layout)
        if take.table is None
        else table_candidate(tree, take.table, options)
    )
    truth = read_truth(candidate.table_folders, candidate.challenges)
    if candidate.labelled is None:
        labels, splits, findings = _read(candidate, truth, options, split)
    else:
        asked: SplitChoice = "all" if take.val_per_class else split
        labels, splits, findings = read_labelled(candidate.labelled, options, asked)
    _check_splits(tree.where(), candidate, take, split, splits)
    _make_val(splits, labels, take, findings)
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
        challenge=truth.challenge.name if candidate.challenges else "",
        val_per_class=take.val_per_class,
    )


def _check_splits(
    where: str, candidate: Candidate, take: Take, split: SplitChoice, found: Collection[str]
) -> None:
    """Refuse a val split that would be made beside one, and a test split that is not there."""
    has_val = "val" in found or candidate.val is not None or candidate.flat_val is not None
    if take.val_per_class and has_val:
        raise UsageError(
            f"--val-per-class makes a val split, but {where} has one: leave the option out"
        )
    if split == "test" and "test" not in found:
        raise UsageError(f"{where} has no test split whose labels are known")


def _make_val(
    splits: dict[str, SplitManifest], labels: LabelMap, take: Take, findings: Findings
) -> None:
    """Move images from train to val, if ``take`` says so."""
    if take.val_per_class and "train" in splits:
        splits["train"], splits["val"], fewer = carve_val(
            splits["train"], labels, take.val_per_class, take.seed
        )
        findings.notes.append(_carved(len(splits["val"]), take, fewer))


def _carved(images: int, take: Take, fewer: int) -> str:
    """The note about a val split that was made."""
    note = f"{counted(images, 'image')} of train became val: {take.val_per_class} of each class"
    if not fewer:
        return note
    has, gave = ("has", "gave") if fewer == 1 else ("have", "gave")
    return (
        f"{note}; {counted(fewer, 'class', 'classes')} {has} fewer than {2 * take.val_per_class} "
        f"and {gave} half"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Found:
    """The images of the splits, sorted by class or in one container, and all findings."""

    by_class: dict[str, list[ClassImages]] = field(default_factory=dict)
    flat: dict[str, ContainerImages] = field(default_factory=dict)
    findings: Findings = field(default_factory=Findings)


def _read(
    candidate: Candidate, truth: Truth, options: ScanOptions, split: SplitChoice
) -> tuple[LabelMap, dict[str, SplitManifest], Findings]:
    """Scan the splits of a candidate and label their images."""
    findings = Findings()
    train = _scan_classes("train", candidate.train, options, findings)
    before = deepcopy(findings)
    try:
        others = _scan_others(candidate, truth, options, split)
        if split != "train":
            findings.merge(others.findings)
        found = _Found(by_class=train | others.by_class, flat=others.flat, findings=findings)
        return *_label(found, truth, options.selection), findings
    except UnreachableError:
        raise
    except SourceError as exc:
        if split != "train" or not train:
            raise
        before.notes.append(f"val is left out: {exc}")
        labelled = candidate.flat_val is not None and "val" in truth.labels
        found = _Found(by_class=train, findings=before)
        return *_label(found, truth, options.selection, flat_val=labelled), before


def _scan_classes(
    split: str, scan: ScanClasses | None, options: ScanOptions, findings: Findings
) -> dict[str, list[ClassImages]]:
    """The images of a split that is sorted by class; empty where it is absent or is not sorted."""
    if scan is None:
        return {}
    by_class: list[ClassImages] = []
    for name, images in scan(options, findings):
        findings.merge(images.findings)
        if len(images) == 0:
            cause = "the class has no usable image; it keeps its label"
            findings.report("empty-class", images.container, cause)
        by_class.append((name, images))
    return {split: by_class}


def _scan_others(
    candidate: Candidate, truth: Truth, options: ScanOptions, split: SplitChoice
) -> _Found:
    """Scan val, and a test split whose labels are known."""
    findings = Findings()
    by_class: dict[str, list[ClassImages]] = {}
    flat: dict[str, ContainerImages] = {}
    if split != "test":
        by_class = _scan_classes("val", candidate.val, options, findings)
        if candidate.flat_val is not None:
            flat["val"] = _scan_flat("val", candidate.flat_val, truth, options)
    if split in ("all", "test") and candidate.flat_test is not None:
        if "test" in truth.labels:
            flat["test"] = _scan_flat("test", candidate.flat_test, truth, options)
        elif split == "test":
            raise SourceError(
                "the test images cannot be labelled: put "
                f"{truth.challenge.ground_truth('test')} beside them"
            )
        elif truth.challenge.test_tar:
            where = truth.challenge.ground_truth("test")
            findings.notes.append(f"test is left out: its labels are not known without {where}")
    for images in flat.values():
        findings.merge(images.findings)
    return _Found(by_class=by_class, flat=flat, findings=findings)


def _scan_flat(split: str, scan: ScanFlat, truth: Truth, options: ScanOptions) -> ContainerImages:
    def unused(name: bytes) -> bool:
        known = truth.class_of(split, name)
        return known is not None and not options.selection.takes(known)

    images = scan(partial(truth.name_fault, split), unused if options.selection else None)
    if options.progress:
        options.progress(len(images))
    if split not in truth.labels:
        lists = (
            f"; {truth.classes_from} has no labels of validation images" if truth.classes else ""
        )
        kaggle = f" nor Kaggle's {KAGGLE_SOLUTION_NAME}" if truth.challenge == ILSVRC2012 else ""
        neither = "neither" if kaggle else "no"
        raise SourceError(
            f"{images.container} cannot be labelled: its images are not sorted by class, and "
            f"{neither} a complete devkit ({truth.challenge.devkit_archives[0]}){kaggle} "
            f"is beside it{lists}. Put one there, or build train alone with --split train"
        )
    return images


def _label(
    found: _Found, truth: Truth, selection: Selection, *, flat_val: bool = False
) -> tuple[LabelMap, dict[str, SplitManifest]]:
    """Decide the classes and put the images of each split into a manifest, with their labels.

    With ``flat_val`` the classes of a val count whose images are left out.
    """
    labelled = {"val": truth.labels["val"]} if flat_val else {}
    labelled |= {split: truth.labels[split] for split in found.flat}
    of_flat = {name for classes in labelled.values() for name in classes.values()}
    if "train" not in found.by_class:
        found.findings.class_names.update(of_flat)
    selection.check(found.findings.class_names)
    if selection.only is not None:
        found.findings.class_doubts.clear()  # The user says which classes there are.
    of_flat = set(filter(selection.takes, of_flat))
    if found.flat and not of_flat:
        raise SourceError(
            f"{truth.labels_from} labels no image of the classes that are used: it belongs to "
            "another set; replace it, or build train alone with --split train"
        )
    labels = decide_classes(
        ClassesFound(
            train=found.by_class.get("train"), val=found.by_class.get("val"), flat=of_flat
        ),
        truth.only(selection.takes),
        found.findings,
    )
    index = labels.index_by_name()
    splits = {
        split: assemble(split, [(images, index[name]) for name, images in by_class])
        for split, by_class in found.by_class.items()
    }
    for split, images in found.flat.items():
        splits[split] = assemble(split, [label_flat(split, images, truth, labels)])
    return labels, splits
