"""The official archives: a tar of class tars (or these unpacked), a flat val tar, the devkit."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial

from imgprep.errors import UsageError
from imgprep.sources.challenges import ILSVRC2012, Challenge
from imgprep.sources.containers import Findings
from imgprep.sources.layout import Candidate, ClassImages, Layout, ScanClasses, ScanFlat
from imgprep.sources.listing import exists, file_names
from imgprep.sources.scan_processes import scan_in_processes
from imgprep.sources.scan_threads import ScanOptions
from imgprep.sources.tars import TarPart, class_tars_beside, class_tars_in, scan_flat_tar
from imgprep.sources.tree import Tree, child_path
from imgprep.wording import counted, readable_bytes

CLASS_TAR = re.compile(r"^n\d{8}\.tar$")


def detect(tree: Tree) -> Candidate | None:
    """Recognise the archives of ILSVRC2012 by their official names, or class tars alone.

    Raises:
        UsageError: an archive is not a file, or a broken link.
    """
    return detect_archives(tree, ILSVRC2012, "archives")


def detect_archives(tree: Tree, challenge: Challenge, layout: str) -> Candidate | None:
    """Recognise the archives of a challenge by their official names, or class tars alone.

    Raises:
        UsageError: an archive is not a file, or a broken link.
    """
    present = [name for name in challenge.image_tars if tree.is_file(name)]
    for name in challenge.image_tars:
        if name not in present and exists(tree, "", name):
            raise UsageError(
                f"{tree.where(name)} is not a file, or a link whose target does not exist (is its "
                "disk mounted?): restore it, or remove it to build without it"
            )
    evidence = [f"found {name} ({readable_bytes(tree.size_bytes(name))})" for name in present]
    train: ScanClasses | None = None
    if challenge.train_tar in present:
        train = partial(scan_train_tar, tree, challenge.train_tar)
    else:
        for folder in ("", "train", challenge.train_tar.removesuffix(".tar")):
            names = [name for name in file_names(tree, folder) if CLASS_TAR.match(name)]
            if names:
                tars = counted(len(names), "class tar")
                evidence.append(f"found {tars} such as {names[0]}")
                train = partial(_scan_class_tars, tree, folder)
                break
    if not evidence:
        return None

    def flat(name: str) -> ScanFlat | None:
        return partial(scan_flat_tar, tree, name) if name in present else None

    return Candidate(
        layout=layout,
        evidence=tuple(evidence),
        train=train,
        flat_val=flat(challenge.val_tar),
        flat_test=flat(challenge.test_tar),
        challenges=(challenge,),
        table_folders=(tree,),
    )


def scan_train_tar(
    tree: Tree, name: str, options: ScanOptions, findings: Findings
) -> Iterator[ClassImages]:
    """Scan the chosen class tars in a tar of class tars."""
    return _scan_chosen(tree, class_tars_in(tree, name, findings), options, findings)


def _scan_chosen(
    tree: Tree, parts: dict[str, TarPart], options: ScanOptions, findings: Findings
) -> Iterator[ClassImages]:
    chosen = {name: parts[name] for name in options.chosen(parts, findings)}
    return scan_in_processes(tree, chosen, options)


def _scan_class_tars(
    tree: Tree, folder: str, options: ScanOptions, findings: Findings
) -> Iterator[ClassImages]:
    paths = []
    for name, kind in sorted(tree.entries(folder)):
        path = child_path(folder, name)
        if not CLASS_TAR.match(name) or kind == "folder":
            continue
        if kind == "file":
            paths.append(path)
            continue
        if not options.selection.takes(name.removesuffix(".tar")):
            continue
        cause = "the target of the link does not exist" if kind == "broken-link" else "not a file"
        slug = "broken-link" if kind == "broken-link" else "not-a-file"
        findings.report(slug, path, cause)
        findings.doubt(slug, path, f"{cause}; a class may be lost")
    return _scan_chosen(tree, class_tars_beside(paths), options, findings)


LAYOUT = Layout(
    expected=f"{ILSVRC2012.train_tar} (or its class tars unpacked) and {ILSVRC2012.val_tar} with "
    "the devkit",
    detect=detect,
)
