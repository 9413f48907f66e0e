"""The result of a scan: one compact row per image, the problems, the identity of the source.

A row takes 40 bytes and a name about 18, so the 1.28 million images of ImageNet take 75 MB, both
on disk and memory-mapped::

    FOLDER/rows.npy    structured array, ROW_DTYPE, in the order of the manifest
    FOLDER/names.bin   all names joined, UTF-8 with surrogateescape
    FOLDER/meta.json   format version, split, containers
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from imgprep.dataset.labels import LabelMap
from imgprep.dataset.npyfile import map_npy
from imgprep.errors import FormatError
from imgprep.sources.pixels import FORMS, Form
from imgprep.sources.selection import ALL_CLASSES, Selection
from imgprep.storage.atomic import json_object, read_regular, save_npy
from imgprep.storage.urls import is_url

ROW_DTYPE = np.dtype(
    [
        ("container", "<i4"),
        ("label", "<i4"),
        ("offset", "<i8"),  # absolute, in the outermost archive; LOOSE_FILE for a file of its own
        ("size_bytes", "<i8"),
        ("mtime_ns", "<i8"),  # of the file that holds the bytes: the archive or the image
        ("name_start", "<i8"),
    ]
)
LOOSE_FILE = -1
MANIFEST_FORMAT = "imgprep-manifest-1"
Rows = NDArray[np.void]


@dataclass(frozen=True, slots=True)
class Problem:
    """An entry of the source that cannot be used."""

    kind: str
    """A short slug, such as ``cut-short``."""
    where: str
    """The file, or the archive, inner archive and member joined by colons."""
    cause: str
    """A sentence."""


@dataclass(frozen=True, slots=True)
class SplitManifest:
    """The usable images of one split, by label and name."""

    split: str
    """``train``, ``val`` or ``test``."""
    containers: tuple[str, ...]
    """The folders or (inner) tars that contain images, for messages: ``a.tar:n01440764.tar``."""
    container_paths: tuple[str, ...]
    """For each container the folder or outermost archive to open, relative to the source."""
    rows: Rows
    """Structured array of :data:`ROW_DTYPE`; do not write to it."""
    names: bytes | mmap.mmap
    """The names of all rows, joined."""
    form: Form = "file"
    """What the bytes of an image are."""

    def __len__(self) -> int:
        return len(self.rows)

    def name_bytes(self, i: int) -> bytes:
        """The name of image ``i`` as stored."""
        starts = self.rows["name_start"]
        end = int(starts[i + 1]) if i + 1 < len(starts) else len(self.names)
        return self.names[int(starts[i]) : end]

    def name(self, i: int) -> str:
        """The name of image ``i`` in its container."""
        return os.fsdecode(self.name_bytes(i))

    def label(self, i: int) -> int:
        """The label of image ``i``."""
        return int(self.rows[i]["label"])

    def where(self, i: int) -> str:
        """Where image ``i`` is, for messages: container and name."""
        row = self.rows[i]
        container = self.containers[int(row["container"])]
        if not container:
            return self.name(i)
        return f"{container}{'/' if row['offset'] == LOOSE_FILE else ':'}{self.name(i)}"

    def sorted_by_name(self) -> SplitManifest:
        """Return the same images, sorted by name."""
        starts = self.rows["name_start"]
        ends = np.append(starts[1:], len(self.names))
        names = [
            self.names[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)
        ]
        order = sorted(range(len(names)), key=names.__getitem__)
        rows = self.rows[order]
        rows["name_start"] = np.cumsum([0, *(len(names[at]) for at in order)])[:-1]
        return replace(self, rows=rows, names=b"".join(names[at] for at in order))

    @property
    def total_bytes(self) -> int:
        """Total size of the images as stored."""
        return int(self.rows["size_bytes"].sum())

    def pick(self, rows: NDArray[np.int64], *, split: str | None = None) -> SplitManifest:
        """Some of the images, by rows in ascending order; ``split`` renames the split."""
        picked, names = pick_rows(self.rows, self.names, rows)
        return replace(self, split=split or self.split, rows=picked, names=names)

    def save(self, folder: Path) -> None:
        """Write the manifest into ``folder``, created if missing; ``meta.json`` is written last."""
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "rows.npy").open("wb") as file:
            save_npy(file, self.rows)
        (folder / "names.bin").write_bytes(self.names)
        meta = {
            "format": MANIFEST_FORMAT,
            "split": self.split,
            "images": len(self.rows),
            "names_bytes": len(self.names),
            "containers": self.containers,
            "container_paths": self.container_paths,
            **({} if self.form == "file" else {"form": self.form}),
        }
        (folder / "meta.json").write_text(json.dumps(meta), encoding="ascii")

    @classmethod
    def load(cls, folder: Path) -> SplitManifest:
        """Map a saved manifest into memory; processes that load the same manifest share its pages.

        Raises:
            FormatError: a file is missing, cut, of another version, or contradicts the others.
        """
        meta = _read_meta(folder / "meta.json")
        try:
            rows = map_npy(folder / "rows.npy")
            with (folder / "names.bin").open("rb") as file:
                size_bytes = os.fstat(file.fileno()).st_size
                # mmap rejects an empty file.
                names = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size_bytes else b""
        except (OSError, ValueError) as exc:
            raise FormatError(f"the manifest in {folder} cannot be read: {exc}") from exc
        manifest = cls(
            split=meta["split"],
            containers=tuple(meta["containers"]),
            container_paths=tuple(meta["container_paths"]),
            rows=rows,
            names=names,
            form=meta.get("form", "file"),
        )
        fault = _fault(manifest, meta)
        if fault:
            raise FormatError(f"the manifest in {folder} is damaged: {fault}; scan again")
        return manifest


def pick_rows(
    rows: Rows, names: bytes | mmap.mmap, picked: NDArray[np.int64]
) -> tuple[Rows, bytes]:
    """Some rows in ascending order, and their names, joined."""
    starts = rows["name_start"]
    ends = np.append(starts[1:], len(names))
    # Rows that follow each other are copied at once.
    breaks = np.flatnonzero(np.diff(picked) != 1) + 1
    spans = [(run[0], run[-1]) for run in np.split(picked, breaks) if len(run)]
    joined = b"".join(names[int(starts[first]) : int(ends[last])] for first, last in spans)
    kept = rows[picked]
    lengths = ends[picked] - starts[picked]
    kept["name_start"] = np.cumsum(lengths) - lengths
    return kept, joined


def _read_meta(path: Path) -> dict[str, Any]:
    try:
        data = read_regular(path)
    except OSError as exc:
        raise FormatError(f"{path} cannot be read: {exc}") from exc
    meta = json_object(data, str(path), "the manifest")
    if meta.get("format") != MANIFEST_FORMAT:
        raise FormatError(f"{path} does not have the format {MANIFEST_FORMAT}; scan again")
    containers, paths = meta.get("containers"), meta.get("container_paths")
    if (
        not _is_path_list(containers)
        or not _is_path_list(paths)
        or len(containers) != len(paths)
        or not isinstance(meta.get("split"), str)
        or meta.get("form", "file") not in FORMS
    ):
        raise FormatError(f"{path} is malformed; scan again")
    return meta


def _is_path_list(value: object) -> TypeGuard[list[str]]:
    """Whether it is a list of texts that can be paths."""
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        return False
    try:
        return not any(b"\0" in os.fsencode(item) for item in value)
    except UnicodeEncodeError:
        return False


def _fault(manifest: SplitManifest, meta: Mapping[str, Any]) -> str:
    """What is inconsistent in a loaded manifest, or an empty text."""
    rows, names = manifest.rows, manifest.names
    if rows.dtype != ROW_DTYPE or rows.ndim != 1:
        return f"its rows have type {rows.dtype}"
    if len(rows) != meta.get("images") or len(names) != meta.get("names_bytes"):
        return "the number of its rows or the length of its names differs from its meta.json"
    if names.find(b"\0") >= 0:
        return "a name contains a null byte"
    if len(rows) == 0:
        return ""
    starts = rows["name_start"]
    if starts[0] != 0 or starts[-1] > len(names) or np.any(starts[1:] < starts[:-1]):
        return "its names overlap or run past the end"
    inside = (rows["container"] >= 0) & (rows["container"] < len(manifest.containers))
    if not inside.all():
        return "an image is in a container that is not listed"
    if rows["label"].min() < 0 or rows["size_bytes"].min() < 0:
        return "a label or a size is negative"
    if rows["offset"].min() < LOOSE_FILE:
        return "an offset is negative"
    return ""


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceScan:
    """The complete result of a scan."""

    layout: str
    """One of ``LAYOUT_NAMES``."""
    evidence: tuple[str, ...]
    """How the layout was recognised, as sentences."""
    root: str
    """The scanned folder, a path or URL as the user gave it."""
    labels: LabelMap
    splits: dict[str, SplitManifest]
    """By name; a split that the source does not have is absent."""
    problems: tuple[Problem, ...] = ()
    """The first thousand; ``problem_counts`` counts all of them."""
    problem_counts: dict[str, int] = field(default_factory=dict)
    """Number of problems of each kind."""
    class_doubts: tuple[Problem, ...] = ()
    """Reasons why the list of classes, and with it the labels, may be wrong."""
    notes: tuple[str, ...] = ()
    """Sentences about the classes that a user should know."""
    oddities: dict[str, int] = field(default_factory=dict)
    """Counts of harmless things that a report mentions (hidden files, name endings)."""
    selection: Selection = ALL_CLASSES
    """The classes that are used, if not all."""
    source_classes: int = 0
    """Classes that the source has, also those that are not used."""
    challenge: str = ""
    """The challenge that the source may be of, ``ILSVRC2012`` or ``ILSVRC2010``; else empty."""
    val_per_class: int = 0
    """Images of each class that were moved from train to val; 0 where val was not made so."""

    @property
    def absolute_root(self) -> str:
        """``root`` as an absolute path or URL."""
        return self.root if is_url(self.root) else os.path.realpath(self.root)

    def identity(self) -> dict[str, int | str]:
        """Flat values that change when the source changes, so that a message can name the change.

        ``SPLIT.names_sha256`` covers names, order and labels; ``SPLIT.sizes_sha256`` sizes and
        offsets; ``SPLIT.modified_sha256`` modification times. The root is left out, because a
        source may be moved.
        """
        found: dict[str, int | str] = {
            "layout": self.layout,
            "classes_sha256": self.labels.order_sha256,
            **self.selection.identity(),
        }
        if self.val_per_class:
            found["val_per_class"] = self.val_per_class
        for split, manifest in self.splits.items():
            rows = manifest.rows
            containers = json.dumps([manifest.containers, manifest.container_paths])
            found[f"{split}.images"] = len(manifest)
            found[f"{split}.bytes"] = manifest.total_bytes
            found[f"{split}.names_sha256"] = _digest(
                containers.encode("ascii"),
                rows["container"],
                rows["label"],
                rows["name_start"],
                manifest.names,
            )
            found[f"{split}.sizes_sha256"] = _digest(rows["size_bytes"], rows["offset"])
            found[f"{split}.modified_sha256"] = _digest(rows["mtime_ns"])
        return found


def _digest(*parts: bytes | mmap.mmap | NDArray[Any]) -> str:
    total = hashlib.sha256()
    for part in parts:
        total.update(np.ascontiguousarray(part).data if isinstance(part, np.ndarray) else part)
    return total.hexdigest()
