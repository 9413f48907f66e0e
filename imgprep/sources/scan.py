"""Scan a source: recognise its layout, list its images, give each image its label.

Archives are walked by offset and folders are listed; nothing is unpacked and no image is opened.
"""

from __future__ import annotations

from pathlib import Path

from imgprep.dataset.labels import LabelMap
from imgprep.errors import SourceError
from imgprep.sources.containers import ContainerImages, Findings, assemble
from imgprep.sources.detect import choose_layout
from imgprep.sources.ilsvrc2012 import DEVKIT_ARCHIVES
from imgprep.sources.layout import ClassImages, ScanClasses
from imgprep.sources.manifest import SourceScan, SplitManifest
from imgprep.sources.open_tree import open_tree
from imgprep.sources.scan_threads import Progress, ScanOptions
from imgprep.sources.truth import KAGGLE_SOLUTION_NAME, Truth, label_flat_val, read_truth
from imgprep.wording import counted

__all__ = ["scan_source"]

LISTED_SHARE = 0.9
"""A list of classes applies if the source has this share of it; else the source is a subset."""


def scan_source(
    location: str | Path,
    layout: str | None = None,
    *,
    progress: Progress | None = None,
    threads: int | None = None,
) -> SourceScan:
    """Find every image of a source and its label.

    Args:
        location: the folder (a path or a URL) of the archives, of the class folders, or of
            Kaggle's tree.
        layout: one of ``LAYOUT_NAMES``, or None to recognise it.
        progress: called with the number of images found so far in a split.
        threads: threads that list containers; None measures how fast the disk answers, or uses
            many for a URL. The result does not depend on it.

    Raises:
        UsageError: the layout is not recognised, or more than one fits.
        SourceError: the source cannot be labelled, or an archive cannot be opened.
        UnreachableError: the store refuses, or does not answer.
    """
    tree = open_tree(location)
    candidate = choose_layout(tree, layout)
    findings = Findings()
    truth = read_truth(candidate.table_folders)
    options = ScanOptions(threads or tree.threads, progress, tree.stop)
    train = _scan_classes(candidate.train, options, findings)
    val = _scan_classes(candidate.val, options, findings)
    flat_val = candidate.flat_val() if candidate.flat_val else None
    if flat_val is not None:
        findings.merge(flat_val.findings)
        if progress:
            progress(len(flat_val))
        if not truth.val_classes:
            raise SourceError(_no_val_labels(flat_val))
    labels = _labels(train, val, flat_val, truth, findings)
    splits: dict[str, SplitManifest] = {}
    index = labels.index_by_name()
    for split, by_class in (("train", train), ("val", val)):
        if by_class is not None:
            _report_empty(by_class, findings)
            splits[split] = assemble(split, [(images, index[name]) for name, images in by_class])
    if flat_val is not None:
        splits["val"] = assemble("val", [(flat_val, label_flat_val(flat_val, truth, labels))])
    return SourceScan(
        layout=candidate.layout,
        evidence=(*candidate.evidence, *truth.evidence),
        root=tree.location,
        labels=labels,
        splits=splits,
        problems=tuple(findings.problems),
        problem_counts=dict(sorted(findings.problem_counts.items())),
        oddities=dict(sorted(findings.oddities.items())),
    )


def _scan_classes(
    scan: ScanClasses | None, options: ScanOptions, findings: Findings
) -> list[ClassImages] | None:
    if scan is None:
        return None
    by_class: list[ClassImages] = []
    for name, images in scan(options, findings):
        findings.merge(images.findings)
        by_class.append((name, images))
    return by_class


def _no_val_labels(flat_val: ContainerImages) -> str:
    return (
        f"{flat_val.container} cannot be labelled: its images are not sorted by class, and neither "
        f"the devkit ({DEVKIT_ARCHIVES[0]}) nor Kaggle's {KAGGLE_SOLUTION_NAME} is beside it. "
        "Put one there, or move the val split elsewhere to build train alone"
    )


def _labels(
    train: list[ClassImages] | None,
    val: list[ClassImages] | None,
    flat_val: ContainerImages | None,
    truth: Truth,
    findings: Findings,
) -> LabelMap:
    """The classes of train, plus those of the official list if it applies; of val without train."""
    in_train = {name for name, _ in train or ()}
    in_val = {name for name, _ in val or ()}
    if flat_val is not None:
        in_val = set(truth.val_classes.values())
    listed = set(truth.classes)
    here = in_train or in_val
    applies = bool(listed) and (
        flat_val is not None or len(here & listed) >= LISTED_SHARE * len(listed)
    )
    classes = here | (listed if applies else set())
    if train is not None:
        for name in sorted(classes - in_train):
            cause = f"listed in {truth.classes_from} but absent from train; keeps its label"
            findings.report("missing-class", name, cause)
    unknown = sorted(in_val - classes)
    if unknown:
        are = "is" if len(unknown) == 1 else "are"
        raise SourceError(
            f"{counted(len(unknown), 'class', 'classes')} of val {are} not in train, such as "
            f"{unknown[0]!r}: labels would differ between the splits. Complete train, or remove "
            f"{'it' if len(unknown) == 1 else 'them'} from val"
        )
    return LabelMap.from_names(classes, truth.devkit_ids, truth.words)


def _report_empty(by_class: list[ClassImages], findings: Findings) -> None:
    for _, images in by_class:
        if len(images) == 0:
            cause = "the class has no usable image; it keeps its label"
            findings.report("empty-class", images.container, cause)
