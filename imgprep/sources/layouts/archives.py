"""The official archives: a tar of class tars (or these unpacked), a flat val tar, the devkit."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial

from imgprep.errors import UsageError
from imgprep.sources.containers import Findings
from imgprep.sources.ilsvrc2012 import TRAIN_TAR, VAL_TAR
from imgprep.sources.layout import Candidate, ClassImages, Layout, ScanClasses
from imgprep.sources.listing import exists, file_names
from imgprep.sources.scan_processes import scan_in_processes
from imgprep.sources.scan_threads import ScanOptions
from imgprep.sources.tars import TarPart, class_tars_beside, class_tars_in, scan_flat_tar
from imgprep.sources.tree import Tree, child_path
from imgprep.sources.truth import val_name_fault
from imgprep.wording import counted, readable_bytes

CLASS_TAR = re.compile(r"^n\d{8}\.tar$")
CLASS_TAR_FOLDERS = ("", "train", TRAIN_TAR.removesuffix(".tar"))


def detect(tree: Tree) -> Candidate | None:
    """Recognise the archives by their official names.

    Raises:
        UsageError: an archive is not a file, or a broken link.
    """
    has_train, has_val = tree.is_file(TRAIN_TAR), tree.is_file(VAL_TAR)
    for name, found in ((TRAIN_TAR, has_train), (VAL_TAR, has_val)):
        if not found and exists(tree, "", name):
            raise UsageError(
                f"{tree.where(name)} is not a file, or a link whose target does not exist (is its "
                "disk mounted?): restore it, or remove it to build without it"
            )
    evidence = [
        f"found {name} ({readable_bytes(tree.size_bytes(name))})"
        for name, found in ((TRAIN_TAR, has_train), (VAL_TAR, has_val))
        if found
    ]
    train: ScanClasses | None = partial(_scan_train_tar, tree) if has_train else None
    if not has_train:
        for folder in CLASS_TAR_FOLDERS:
            names = [name for name in file_names(tree, folder) if CLASS_TAR.match(name)]
            if names:
                tars = counted(len(names), "class tar")
                evidence.append(f"found {tars} such as {names[0]}")
                train = partial(_scan_class_tars, tree, folder)
                break
    if not evidence:
        return None
    return Candidate(
        layout="archives",
        evidence=tuple(evidence),
        train=train,
        flat_val=partial(scan_flat_tar, tree, VAL_TAR, val_name_fault) if has_val else None,
        table_folders=(tree,),
    )


def _scan_train_tar(tree: Tree, options: ScanOptions, findings: Findings) -> Iterator[ClassImages]:
    return _scan_chosen(tree, class_tars_in(tree, TRAIN_TAR, findings), options, findings)


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
    expected=f"{TRAIN_TAR} (or its class tars unpacked) and {VAL_TAR} with the devkit",
    detect=detect,
)
