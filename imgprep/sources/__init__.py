"""Scan a source: recognise its layout, list its images, give each a label.

Reading is in place: archives are walked by offset, folders listed; no image is opened.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from imgprep.dataset.labels import LabelMap
from imgprep.errors import SourceError
from imgprep.sources import archives, folders
from imgprep.sources.collect import Block, Findings, Pace, Progress, assemble
from imgprep.sources.detect import DETECTORS, Candidate, choose
from imgprep.sources.manifest import SourceScan, SplitManifest
from imgprep.sources.open_tree import open_tree
from imgprep.sources.spread import scan_spread
from imgprep.sources.tree import Tree
from imgprep.sources.truth import Truth, label_flat_val, read_truth, why_not_val

__all__ = ["LAYOUTS", "scan_source"]

LAYOUTS: tuple[str, ...] = tuple(DETECTORS)
# A list of classes is taken as what the source should hold if this part of it is there;
# otherwise the source is a subset, which may have its own labels.
LISTED_SHARE = 0.9

Labelled = list[tuple[str, Block]]


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
        layout: one of :data:`LAYOUTS`, or None to recognise it.
        progress: called now and then with the number of images found so far in a split.
        threads: threads that list containers; None decides by how slow the disk answers, or
            takes many for a URL. The result does not depend on it.

    Raises:
        UsageError: the layout is not recognised, or more than one fits.
        SourceError: the source cannot be labelled, or an archive cannot be opened.
        UnreachableError: the store refuses, or does not answer.
    """
    tree = open_tree(location)
    candidate = choose(tree, layout)
    findings = Findings()
    truth = read_truth(candidate.near)
    pace = Pace(threads or tree.threads, progress, tree.stop)
    train = _scan_train(tree, candidate, findings, pace)
    val_by_class, val_flat = _scan_val(tree, candidate, findings, pace)
    if val_flat is not None and not truth.val_classes:
        raise SourceError(
            f"{val_flat.container} cannot be labelled: it is flat, and neither the devkit "
            "(ILSVRC2012_devkit_t12.tar.gz) nor Kaggle's LOC_val_solution.csv lies beside it. "
            "Put one there, or take the val split away to build train alone"
        )
    labels = _labels(train, val_by_class, val_flat, truth, findings)
    splits: dict[str, SplitManifest] = {}
    index = labels.index_by_name()
    if train is not None:
        _report_empty(train, findings)
        splits["train"] = assemble("train", [(block, index[name]) for name, block in train])
    if val_by_class is not None:
        _report_empty(val_by_class, findings)
        splits["val"] = assemble("val", [(block, index[name]) for name, block in val_by_class])
    if val_flat is not None:
        splits["val"] = assemble("val", [(val_flat, label_flat_val(val_flat, truth, labels))])
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


def _scan_train(
    tree: Tree, candidate: Candidate, findings: Findings, pace: Pace
) -> Labelled | None:
    if candidate.train_tar is not None:
        parts = archives.class_tars_in(tree, candidate.train_tar, findings)
        found = scan_spread(tree, parts, pace)
    elif candidate.class_tars:
        parts = archives.class_tars_beside(candidate.class_tars)
        found = scan_spread(tree, parts, pace)
    elif candidate.train_folder is not None:
        inside = folders.class_folders_in(tree, candidate.train_folder, findings)
        found = folders.scan_class_folders(tree, inside, pace)
    else:
        return None
    return _gather(found, findings)


def _scan_val(
    tree: Tree, candidate: Candidate, findings: Findings, pace: Pace
) -> tuple[Labelled | None, Block | None]:
    """(val by class, None) or (None, flat val) or (None, None)."""
    if candidate.val_tar is not None:
        flat = archives.scan_tar(tree, archives.whole(candidate.val_tar), why_not_val)
    elif candidate.val_folder is not None:
        inside_findings = Findings()
        inside = folders.class_folders_in(tree, candidate.val_folder, inside_findings)
        if inside:
            findings.merge(inside_findings)
            return _gather(folders.scan_class_folders(tree, inside, pace), findings), None
        flat = folders.scan_folder(tree, candidate.val_folder, why_not_val)
    else:
        return None, None
    findings.merge(flat.findings)
    if pace.progress:
        pace.progress(len(flat))
    return None, flat


def _gather(found: Iterable[tuple[str, Block]], findings: Findings) -> Labelled:
    blocks: Labelled = []
    for name, block in found:
        findings.merge(block.findings)
        blocks.append((name, block))
    return blocks


def _labels(
    train: Labelled | None,
    val_by_class: Labelled | None,
    val_flat: Block | None,
    truth: Truth,
    findings: Findings,
) -> LabelMap:
    """The classes: train's, those of the official list where it applies, val's without train."""
    in_train = {name for name, _ in train or ()}
    in_val = {name for name, _ in val_by_class or ()}
    if val_flat is not None:
        in_val = set(truth.val_classes.values())
    listed = set(truth.classes)
    here = in_train or in_val
    applies = bool(listed) and (
        val_flat is not None or len(here & listed) >= LISTED_SHARE * len(listed)
    )
    classes = here | (listed if applies else set())
    if train is not None:
        for name in sorted(classes - in_train):
            cause = f"listed in {truth.classes_from} but absent from train; keeps its label"
            findings.report("missing-class", name, cause)
    unknown = sorted(in_val - classes)
    if unknown:
        raise SourceError(
            f"{len(unknown)} classes of val are not in train, such as {unknown[0]!r}: labels would "
            "mean different things. Complete train, or take these classes out of val"
        )
    return LabelMap.from_names(classes, truth.devkit_ids, truth.words)


def _report_empty(blocks: Labelled, findings: Findings) -> None:
    for _, block in blocks:
        if len(block) == 0:
            cause = "the class has no usable image; it keeps its label"
            findings.report("empty-class", block.container, cause)
