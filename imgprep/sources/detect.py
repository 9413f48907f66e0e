"""Tell which layout a folder has, from evidence that can be shown."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from imgprep.errors import UsageError
from imgprep.sources.collect import is_clutter
from imgprep.sources.truth import DEVKIT_NAME

TRAIN_TAR = "ILSVRC2012_img_train.tar"
VAL_TAR = "ILSVRC2012_img_val.tar"
CLASS_TAR = re.compile(r"^n\d{8}\.tar$")
IMAGE_SUFFIXES = frozenset(
    {".jpeg", ".jpg", ".jpe", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".jp2", ".ppm"}
)
VAL_FOLDERS = ("val", "validation")
NOT_CLASSES = frozenset({"train", "test", *VAL_FOLDERS})
CLS_LOC = Path("ILSVRC/Data/CLS-LOC")
ENTRIES_LOOKED_AT = 50


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """One way to read a source. Exactly the paths of its layout are set."""

    layout: str
    evidence: tuple[str, ...]
    train_tar: Path | None = None
    class_tars: tuple[Path, ...] = ()
    val_tar: Path | None = None
    train_folder: Path | None = None
    val_folder: Path | None = None
    near: tuple[Path, ...] = ()
    """Where the devkit and other tables may lie."""


def choose(root: Path, layout: str | None) -> Candidate:
    """The one way to read ``root``, or the way that ``layout`` forces.

    Raises:
        UsageError: ``root`` is no folder, or no layout or more than one fits.
    """
    if layout is not None and layout not in DETECTORS:
        raise UsageError(f"layout {layout!r} is none of {', '.join(DETECTORS)}")
    _require_folder(root)
    if layout is not None:
        forced = DETECTORS[layout](root)
        if forced is None:
            raise UsageError(f"{root} is not of layout {layout}: {EXPECTED[layout]}")
        return forced
    found = [one for detector in DETECTORS.values() if (one := detector(root)) is not None]
    kinds = {one.layout for one in found}
    if kinds == {"class-folders", "kaggle"} and _is_cls_loc(root):
        # CLS-LOC is also a folder with train/ and val/; the name says which of the two.
        found = [one for one in found if one.layout == "kaggle"]
    if len(found) == 1:
        return found[0]
    if found:
        lines = [f"  --layout {one.layout}: {'; '.join(one.evidence)}" for one in found]
        raise UsageError(
            f"{root} can be read in more than one way; choose one:\n" + "\n".join(lines)
        )
    names = sorted(os.listdir(root))  # noqa: PTH208 (names alone)
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    expected = "\n".join(f"  {name}: {text}" for name, text in EXPECTED.items())
    raise UsageError(
        f"{root} is not recognised as a source. It holds {shown or 'nothing'}. "
        f"Known layouts (--layout forces one):\n{expected}"
    )


def _require_folder(root: Path) -> None:
    if root.is_file():
        raise UsageError(f"{root} is a file; give the folder that it lies in: {root.parent}")
    if not root.is_dir():
        raise UsageError(f"{root} is not a folder")
    try:
        os.listdir(root)  # noqa: PTH208
    except OSError as exc:
        raise UsageError(f"{root} cannot be read: {exc.strerror or exc}") from exc


def _archives(root: Path) -> Candidate | None:
    train_tar, val_tar = root / TRAIN_TAR, root / VAL_TAR
    evidence = [_found_file(path) for path in (train_tar, val_tar) if path.is_file()]
    class_tars: tuple[Path, ...] = ()
    if not train_tar.is_file():
        for folder in (root, root / "train", root / TRAIN_TAR.removesuffix(".tar")):
            tars = [path for path in _files(folder) if CLASS_TAR.match(path.name)]
            if tars:
                class_tars = tuple(sorted(tars))
                evidence.append(f"found {len(tars)} class tars such as {tars[0].name}")
                break
    if not evidence:
        return None
    return Candidate(
        layout="archives",
        evidence=tuple(evidence),
        train_tar=train_tar if train_tar.is_file() else None,
        class_tars=class_tars,
        val_tar=val_tar if val_tar.is_file() else None,
        near=(root,),
    )


def _class_folders(root: Path) -> Candidate | None:
    return _split_folders(root, "class-folders", (root,)) or _single_folder(root)


def _split_folders(root: Path, layout: str, near: tuple[Path, ...]) -> Candidate | None:
    """``train/`` with class folders, ``val/`` or ``validation/`` with class folders or images."""
    train = root / "train"
    vals = [root / name for name in VAL_FOLDERS if (root / name).is_dir()]
    if len(vals) > 1:
        raise UsageError(f"{root} has both {' and '.join(VAL_FOLDERS)}; rename one of them")
    val = vals[0] if vals and (_folders(vals[0]) or _holds_images(vals[0])) else None
    classes = _folders(train)
    if not classes and not val:
        return None
    evidence = []
    if classes:
        evidence.append(f"found {_at(root, train)}/ with {_count(classes)} class folders")
    if val:
        inside = _folders(val)
        what = f"{_count(inside)} class folders" if inside else "images and no class folders"
        evidence.append(f"found {_at(root, val)}/ with {what}")
    return Candidate(
        layout=layout,
        evidence=tuple(evidence),
        train_folder=train if classes else None,
        val_folder=val,
        near=near,
    )


def _single_folder(root: Path) -> Candidate | None:
    """A folder of class folders, taken as train."""
    folders = _folders(root)
    names = {path.name for path in folders}
    # A class may be called "train" (the vehicle); a folder beside "val" never is one.
    if names & (NOT_CLASSES - {"train"}) or not names - NOT_CLASSES:
        return None
    with_images = next((path for path in folders if _holds_images(path)), None)
    if with_images is None:
        return None
    return Candidate(
        layout="class-folders",
        evidence=(f"found {_count(folders)} class folders such as {with_images.name}/",),
        train_folder=root,
        near=(root,),
    )


def _kaggle(root: Path) -> Candidate | None:
    for base in (root / CLS_LOC, root / "Data/CLS-LOC", root / "CLS-LOC"):
        if base.is_dir():
            # The tables lie beside ILSVRC/, three folders above CLS-LOC.
            found = _split_folders(base, "kaggle", (root, *list(base.absolute().parents)[:3]))
            return _with_prefix(found, f"found {base.relative_to(root)}/") if found else None
    if _is_cls_loc(root):
        above = list(root.absolute().parents)[:3]
        found = _split_folders(root, "kaggle", (root, *above))
        return _with_prefix(found, "the folder is named CLS-LOC") if found else None
    return None


def _with_prefix(found: Candidate, sentence: str) -> Candidate:
    return Candidate(
        layout=found.layout,
        evidence=(sentence, *found.evidence),
        train_folder=found.train_folder,
        val_folder=found.val_folder,
        near=found.near,
    )


def _is_cls_loc(root: Path) -> bool:
    return root.absolute().name == CLS_LOC.name or root.resolve().name == CLS_LOC.name


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from (entry for entry in entries if not is_clutter(os.fsencode(entry.name)))
    except OSError:
        return  # what cannot be listed is no evidence; the scan itself reports it


def _folders(folder: Path) -> list[Path]:
    """Sub-folders that may be classes, sorted."""
    return sorted(
        Path(entry.path)
        for entry in _entries(folder)
        if entry.is_dir() and not entry.name.startswith(DEVKIT_NAME)
    )


def _files(folder: Path) -> list[Path]:
    return sorted(Path(entry.path) for entry in _entries(folder) if entry.is_file())


def _holds_images(folder: Path) -> bool:
    """Whether the first entries of a folder include one that is named as an image."""
    for looked_at, entry in enumerate(_entries(folder)):
        if Path(entry.name).suffix.lower() in IMAGE_SUFFIXES and not entry.is_dir():
            return True
        if looked_at >= ENTRIES_LOOKED_AT:
            break
    return False


def _at(root: Path, path: Path) -> str:
    return str(path.relative_to(root))


def _count(found: list[Path]) -> str:
    return str(len(found))


def _found_file(path: Path) -> str:
    return f"found {path.name} ({readable_bytes(path.stat().st_size)})"


def readable_bytes(size_bytes: int) -> str:
    """``size_bytes`` with a binary unit: ``27.9 MiB``."""
    value = float(size_bytes)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} bytes" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


DETECTORS: dict[str, Callable[[Path], Candidate | None]] = {
    "archives": _archives,
    "class-folders": _class_folders,
    "kaggle": _kaggle,
}
EXPECTED: dict[str, str] = {
    "archives": f"{TRAIN_TAR} (or its class tars unpacked) and {VAL_TAR} with the devkit",
    "class-folders": "train/<class>/<images> and val/<class>/<images>, or <class>/<images>",
    "kaggle": f"{CLS_LOC}/train and val, with LOC_val_solution.csv",
}
