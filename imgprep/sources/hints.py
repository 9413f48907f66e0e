"""Guess what the user meant where a folder is not recognised as a source."""

from __future__ import annotations

import re

from imgprep.errors import SourceError, UsageError
from imgprep.sources.challenges import CHALLENGES, FALL_2011_TAR
from imgprep.sources.layout import Layout
from imgprep.sources.tree import FolderEntry, Tree

FOLDERS_TRIED = 20
SPLIT_NAMES = {
    "train": ("training", "train_images", "trainset", "imagenet_train"),
    "val": ("valid", "vali", "validate", "val_images", "valset", "imagenet_val", "dev"),
}
OTHER_FORMATS = {
    ".parquet": "Parquet files",
    ".arrow": "Arrow files",
    ".tfrecord": "TFRecord files",
    ".rec": "RecordIO files",
    ".lmdb": "an LMDB database",
    ".mdb": "an LMDB database",
    ".h5": "HDF5 files",
    ".hdf5": "HDF5 files",
}
_PACKED = re.compile(r"\.(zip|7z|rar|tar\.gz|tgz|tar\.bz2|tar\.xz|tar\.zst)$", re.IGNORECASE)
_TFRECORD = re.compile(r"-\d{5}-of-\d{5}$")


def hints(tree: Tree, layouts: list[Layout]) -> list[str]:
    """Sentences that say what to change, most likely first; empty where nothing is guessed."""
    entries = sorted(tree.entries())
    names = [entry.name for entry in entries]
    renames = [
        f"rename {name} to {split}"
        for split, others in SPLIT_NAMES.items()
        for name in names
        if name != split and name.lower() in (split, *others)
    ]
    files = [hint for name in names if (hint := _file_hint(name))]
    return [*(renames or _deeper_sources(tree, entries, layouts)), *files]


def _deeper_sources(tree: Tree, entries: list[FolderEntry], layouts: list[Layout]) -> list[str]:
    """Folders that are sources themselves."""
    folders = [entry.name for entry in entries if entry.kind == "folder"][:FOLDERS_TRIED]
    found = []
    for folder in folders:
        try:
            inner = tree.subtree(folder)
            fits = any(layout.detect(inner) is not None for layout in layouts)
        except (UsageError, SourceError, OSError):
            continue
        if fits:
            found.append(f"{tree.where(folder)} is a source: use it as SOURCE")
    return found


def _file_hint(name: str) -> str:
    plain = re.sub(r" ?\(\d+\)(?=\.)|^copy of ", "", name, flags=re.IGNORECASE)
    official = {
        one.lower(): one
        for challenge in CHALLENGES
        for one in (*challenge.image_tars, *challenge.devkit_archives, FALL_2011_TAR)
    }
    if plain.lower() in official:
        return f"rename {name} to {official[plain.lower()]}"
    if _PACKED.search(name):
        return f"unpack {name} first"
    ending = next((end for end in OTHER_FORMATS if name.lower().endswith(end)), "")
    if ending or _TFRECORD.search(name):
        what = OTHER_FORMATS.get(ending, "TFRecord files")
        return f"{name}: imgprep reads images, not {what}"
    return ""
