"""Tell which layout a folder has, from evidence that can be shown."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from imgprep.errors import UsageError
from imgprep.sources.collect import is_clutter
from imgprep.sources.tree import Named, Tree, under
from imgprep.sources.truth import DEVKIT_NAME

TRAIN_TAR = "ILSVRC2012_img_train.tar"
VAL_TAR = "ILSVRC2012_img_val.tar"
CLASS_TAR = re.compile(r"^n\d{8}\.tar$")
IMAGE_SUFFIXES = frozenset(
    {".jpeg", ".jpg", ".jpe", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".jp2", ".ppm"}
)
VAL_FOLDERS = ("val", "validation")
NOT_CLASSES = frozenset({"train", "test", *VAL_FOLDERS})
CLS_LOC = "ILSVRC/Data/CLS-LOC"
CLS_LOC_NAME = "CLS-LOC"
LEVELS_ABOVE = 3
"""The tables lie beside ``ILSVRC/``, three folders above ``CLS-LOC``."""
ENTRIES_LOOKED_AT = 50


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """One way to read a source. Exactly the paths of its layout are set; all are in the tree."""

    layout: str
    evidence: tuple[str, ...]
    train_tar: str | None = None
    class_tars: tuple[str, ...] = ()
    val_tar: str | None = None
    train_folder: str | None = None
    val_folder: str | None = None
    near: tuple[Tree, ...] = ()
    """Where the devkit and other tables may lie."""


def choose(tree: Tree, layout: str | None) -> Candidate:
    """The one way to read a source, or the way that ``layout`` forces.

    Raises:
        UsageError: the root is no folder, or no layout or more than one fits.
    """
    if layout is not None and layout not in DETECTORS:
        raise UsageError(f"layout {layout!r} is none of {', '.join(DETECTORS)}")
    tree.check()
    root = tree.where()
    if layout is not None:
        forced = DETECTORS[layout](tree)
        if forced is None:
            raise UsageError(f"{root} is not of layout {layout}: {EXPECTED[layout]}")
        return forced
    found = [one for detector in DETECTORS.values() if (one := detector(tree)) is not None]
    kinds = {one.layout for one in found}
    if kinds == {"class-folders", "kaggle"} and _is_cls_loc(tree):
        # CLS-LOC is also a folder with train/ and val/; the name says which of the two.
        found = [one for one in found if one.layout == "kaggle"]
    if len(found) == 1:
        return found[0]
    if found:
        lines = [f"  --layout {one.layout}: {'; '.join(one.evidence)}" for one in found]
        raise UsageError(
            f"{root} can be read in more than one way; choose one:\n" + "\n".join(lines)
        )
    names = sorted(entry.name for entry in tree.entries())
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    expected = "\n".join(f"  {name}: {text}" for name, text in EXPECTED.items())
    raise UsageError(
        f"{root} is not recognised as a source. It holds {shown or 'nothing'}. "
        f"Known layouts (--layout forces one):\n{expected}"
    )


def _archives(tree: Tree) -> Candidate | None:
    has_train, has_val = tree.is_file(TRAIN_TAR), tree.is_file(VAL_TAR)
    evidence = [
        f"found {name} ({readable_bytes(tree.size_bytes(name))})"
        for name, there in ((TRAIN_TAR, has_train), (VAL_TAR, has_val))
        if there
    ]
    class_tars: tuple[str, ...] = ()
    if not has_train:
        for folder in ("", "train", TRAIN_TAR.removesuffix(".tar")):
            tars = [name for name in _files(tree, folder) if CLASS_TAR.match(name)]
            if tars:
                class_tars = tuple(under(folder, name) for name in tars)
                evidence.append(f"found {len(tars)} class tars such as {tars[0]}")
                break
    if not evidence:
        return None
    return Candidate(
        layout="archives",
        evidence=tuple(evidence),
        train_tar=TRAIN_TAR if has_train else None,
        class_tars=class_tars,
        val_tar=VAL_TAR if has_val else None,
        near=(tree,),
    )


def _class_folders(tree: Tree) -> Candidate | None:
    return _split_folders(tree, "", "class-folders", (tree,)) or _single_folder(tree)


def _split_folders(tree: Tree, base: str, layout: str, near: Sequence[Tree]) -> Candidate | None:
    """``train/`` with class folders, ``val/`` or ``validation/`` with class folders or images."""
    train = under(base, "train")
    vals = [path for name in VAL_FOLDERS if tree.is_folder(path := under(base, name))]
    if len(vals) > 1:
        where = tree.where(base)
        raise UsageError(f"{where} has both {' and '.join(VAL_FOLDERS)}; rename one of them")
    val = vals[0] if vals and (_folders(tree, vals[0]) or _holds_images(tree, vals[0])) else None
    classes = _folders(tree, train)
    if not classes and not val:
        return None
    evidence = []
    if classes:
        evidence.append(f"found train/ with {len(classes)} class folders")
    if val:
        inside = _folders(tree, val)
        what = f"{len(inside)} class folders" if inside else "images and no class folders"
        evidence.append(f"found {val.rpartition('/')[2]}/ with {what}")
    return Candidate(
        layout=layout,
        evidence=tuple(evidence),
        train_folder=train if classes else None,
        val_folder=val,
        near=tuple(near),
    )


def _single_folder(tree: Tree) -> Candidate | None:
    """A folder of class folders, taken as train."""
    names = _folders(tree, "")
    # A class may be called "train" (the vehicle); a folder beside "val" never is one.
    if set(names) & (NOT_CLASSES - {"train"}) or not set(names) - NOT_CLASSES:
        return None
    with_images = next((name for name in names if _holds_images(tree, name)), None)
    if with_images is None:
        return None
    return Candidate(
        layout="class-folders",
        evidence=(f"found {len(names)} class folders such as {with_images}/",),
        train_folder="",
        near=(tree,),
    )


def _kaggle(tree: Tree) -> Candidate | None:
    for base in (CLS_LOC, "Data/CLS-LOC", CLS_LOC_NAME):
        if tree.is_folder(base):
            near = (tree, *tree.at(base).above(LEVELS_ABOVE))
            found = _split_folders(tree, base, "kaggle", near)
            return _with_prefix(found, f"found {base}/") if found else None
    if _is_cls_loc(tree):
        found = _split_folders(tree, "", "kaggle", (tree, *tree.above(LEVELS_ABOVE)))
        return _with_prefix(found, f"the folder is named {CLS_LOC_NAME}") if found else None
    return None


def _with_prefix(found: Candidate, sentence: str) -> Candidate:
    return replace(found, evidence=(sentence, *found.evidence))


def _is_cls_loc(tree: Tree) -> bool:
    return CLS_LOC_NAME in tree.called


def _entries(tree: Tree, folder: str) -> Iterator[Named]:
    try:
        yield from (one for one in tree.entries(folder) if not is_clutter(os.fsencode(one.name)))
    except OSError:
        return  # what cannot be listed is no evidence; the scan itself reports it


def _folders(tree: Tree, folder: str) -> list[str]:
    """Names of sub-folders that may be classes, sorted."""
    return sorted(
        name
        for name, kind in _entries(tree, folder)
        if kind == "folder" and not name.startswith(DEVKIT_NAME)
    )


def _files(tree: Tree, folder: str) -> list[str]:
    """Names of files, sorted."""
    return sorted(name for name, kind in _entries(tree, folder) if kind == "file")


def _holds_images(tree: Tree, folder: str) -> bool:
    """Whether the first entries of a folder include one that is named as an image."""
    for looked_at, (name, kind) in enumerate(_entries(tree, folder)):
        if PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES and kind != "folder":
            return True
        if looked_at >= ENTRIES_LOOKED_AT:
            break
    return False


def readable_bytes(size_bytes: int) -> str:
    """``size_bytes`` with a binary unit: ``27.9 MiB``."""
    value = float(size_bytes)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} bytes" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


DETECTORS: dict[str, Callable[[Tree], Candidate | None]] = {
    "archives": _archives,
    "class-folders": _class_folders,
    "kaggle": _kaggle,
}
EXPECTED: dict[str, str] = {
    "archives": f"{TRAIN_TAR} (or its class tars unpacked) and {VAL_TAR} with the devkit",
    "class-folders": "train/<class>/<images> and val/<class>/<images>, or <class>/<images>",
    "kaggle": f"{CLS_LOC}/train and val, with LOC_val_solution.csv",
}
