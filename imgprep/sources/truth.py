"""Find the devkit, Kaggle's tables and word lists near a source; label a flat val with them."""

from __future__ import annotations

import io
import os
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from imgprep.dataset.labels import LabelMap
from imgprep.errors import SourceError
from imgprep.sources.containers import ContainerImages
from imgprep.sources.gzipped import GZIP_MAGIC, in_memory, unpacked
from imgprep.sources.ilsvrc2012 import DEVKIT_ARCHIVES, DEVKIT_NAME
from imgprep.sources.tarwalk import walk
from imgprep.sources.tree import Tree, child_path
from imgprep.sources.truth_files import (
    parse_devkit_meta,
    parse_ground_truth,
    parse_kaggle_solution,
    parse_synset_words,
    val_number,
)
from imgprep.wording import counted

DEVKIT_FOLDERS = (DEVKIT_NAME, f"{DEVKIT_NAME}/{DEVKIT_NAME}", "devkit", "")
META_NAME = "meta.mat"
GROUND_TRUTH_NAME = "ILSVRC2012_validation_ground_truth.txt"
KAGGLE_SOLUTION_NAME = "LOC_val_solution.csv"
WORDS_NAMES = ("LOC_synset_mapping.txt", "synset_words.txt")
MAX_FILE_BYTES = 64 * 1024 * 1024
MAX_DEVKIT_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Truth:
    """What the tables near a source say about classes and validation images."""

    evidence: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    """The official classes; empty where neither a devkit nor Kaggle's mapping was found."""
    classes_from: str = ""
    devkit_ids: dict[str, int] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)
    val_classes: dict[int, str] = field(default_factory=dict)
    """Class of each validation image by the number in its name; empty if unknown."""
    val_from: str = ""

    def only(self, takes: Callable[[str], bool]) -> Truth:
        """What is said of the classes that ``takes`` accepts."""
        return replace(
            self,
            classes=tuple(filter(takes, self.classes)),
            val_classes={number: one for number, one in self.val_classes.items() if takes(one)},
        )


def read_truth(places: Sequence[Tree]) -> Truth:
    """Read the first devkit in ``places``, and the first of each other table.

    The devkit and Kaggle's table must agree where both exist.

    Raises:
        SourceError: a file is malformed, or two contradict each other.
    """
    evidence: list[str] = []
    classes: tuple[str, ...] = ()
    classes_from = val_from = ""
    ids: dict[str, int] = {}
    words: dict[str, str] = {}
    val_classes: dict[int, str] = {}
    words_at = _first(places, WORDS_NAMES)
    if words_at:
        tree, name = words_at
        words = parse_synset_words(_read(tree, name), tree.where(name))
        evidence.append(f"found {name} ({counted(len(words), 'class', 'classes')})")
        if name == WORDS_NAMES[0]:
            classes, classes_from = tuple(words), name
    devkit = _find_devkit(places)
    if devkit:
        where, meta, ground_truth = devkit
        synsets = parse_devkit_meta(meta, f"{where}: {META_NAME}")
        leaves = [entry for entry in synsets if entry.num_children == 0]
        ids = {entry.name: entry.devkit_id for entry in leaves}
        words |= {entry.name: entry.words for entry in leaves if entry.words}
        classes, classes_from = tuple(ids), where
        val_classes = _devkit_val(ids, ground_truth, f"{where}: {GROUND_TRUTH_NAME}")
        val_from = where if val_classes else ""
        listed = counted(len(ids), "class", "classes")
        evidence.append(f"found {where} ({listed}, {counted(len(val_classes), 'val label')})")
    solution_at = _first(places, (KAGGLE_SOLUTION_NAME,))
    if solution_at:
        tree, name = solution_at
        solution = parse_kaggle_solution(_read(tree, name), tree.where(name))
        evidence.append(f"found {name} ({counted(len(solution), 'val label')})")
        if val_classes and val_classes != solution:
            raise SourceError(
                f"{val_from} and {tree.where(name)} label the validation images differently; "
                "remove the wrong one"
            )
        val_classes, val_from = solution, val_from or name
    return Truth(
        evidence=tuple(evidence),
        classes=classes,
        classes_from=classes_from,
        devkit_ids=ids,
        words=words,
        val_classes=val_classes,
        val_from=val_from,
    )


def val_name_fault(name: bytes) -> str:
    """Why a file of a flat val has no known label, or an empty text."""
    return "" if val_number(name) is not None else "not named ILSVRC2012_val_NUMBER: no label known"


def label_flat_val(
    images: ContainerImages, truth: Truth, labels: LabelMap
) -> tuple[ContainerImages, NDArray[np.int32]]:
    """The images of a flat val whose class is in ``labels``, and the label of each as int32.

    The number in the name of an image tells its class.

    Raises:
        SourceError: the images and the known labels do not match one to one.
    """
    index = labels.index_by_name()
    numbers = [val_number(name) for name in images.each_name()]
    rejected = [val_number(name) for name in images.rejected]
    present = Counter(number for number in [*numbers, *rejected] if number is not None)
    repeated = [number for number, count in sorted(present.items()) if count > 1]
    missing = sorted(truth.val_classes.keys() - present.keys())
    unknown = sorted(present.keys() - truth.val_classes.keys())
    if repeated or missing or unknown:
        raise SourceError(_mismatch(images, truth, (repeated, missing, unknown)))
    found = [index.get(truth.val_classes[n], -1) for n in numbers if n is not None]
    by_row = np.array(found, np.int32)
    used = np.flatnonzero(by_row >= 0)
    return images.pick(used), by_row[used]


def _mismatch(
    images: ContainerImages, truth: Truth, faults: tuple[list[int], list[int], list[int]]
) -> str:
    names = [*images.each_name(), *images.rejected]
    count = sum(val_number(name) is not None for name in names)
    parts = [
        f"number {numbers[0]:08d} is {what}"
        + (f" (and {len(numbers) - 1} more)" if len(numbers) > 1 else "")
        for numbers, what in zip(
            faults, ("there twice", "missing", "not among the labels"), strict=True
        )
        if numbers
    ]
    cuts = [problem.cause for problem in images.findings.problems if problem.kind == "cut-short"]
    if cuts:
        parts.append(f"the archive is cut short: {cuts[0]}")
    return (
        f"{images.container} has {count} validation images, but {truth.val_from} has labels for "
        f"{len(truth.val_classes)}: {'; '.join(parts)}. Labels would shift: complete the images, "
        "or build train alone with --split train"
    )


def _devkit_val(ids: Mapping[str, int], ground_truth: bytes | None, where: str) -> dict[int, str]:
    if ground_truth is None:
        return {}
    names = {devkit_id: name for name, devkit_id in ids.items()}
    found = parse_ground_truth(ground_truth, where)
    for number, devkit_id in enumerate(found, 1):
        if devkit_id not in names:
            raise SourceError(f"{where}, line {number}: no class has the devkit id {devkit_id}")
    return {number: names[devkit_id] for number, devkit_id in enumerate(found, 1)}


def _first(places: Sequence[Tree], names: Sequence[str]) -> tuple[Tree, str] | None:
    candidates = ((tree, name) for tree in places for name in names)
    return next(((tree, name) for tree, name in candidates if tree.is_file(name)), None)


def _read(tree: Tree, path: str, limit_bytes: int = MAX_FILE_BYTES) -> bytes:
    where = tree.where(path)
    try:
        data = tree.read(path, limit_bytes + 1)
    except OSError as exc:
        raise SourceError(f"{where} cannot be read: {exc.strerror or exc}") from exc
    if len(data) > limit_bytes:
        raise SourceError(f"{where} is larger than {limit_bytes >> 20} MiB; is it the right file?")
    return data


def _find_devkit(places: Sequence[Tree]) -> tuple[str, bytes, bytes | None] | None:
    """Return (where, meta.mat, ground truth) of the first devkit, unpacked or as an archive."""
    archive = _first(places, DEVKIT_ARCHIVES)
    if archive:
        tree, name = archive
        files = _read_devkit_archive(_read(tree, name, MAX_DEVKIT_BYTES), tree.where(name))
        if META_NAME not in files:
            raise SourceError(f"{tree.where(name)} does not contain {META_NAME}; download it again")
        return name, files[META_NAME], files.get(GROUND_TRUTH_NAME)
    for tree in places:
        for folder in DEVKIT_FOLDERS:
            for base in (child_path(folder, "data"), folder):
                meta, ground_truth = (
                    child_path(base, META_NAME),
                    child_path(base, GROUND_TRUTH_NAME),
                )
                if tree.is_file(meta):
                    known = _read(tree, ground_truth) if tree.is_file(ground_truth) else None
                    return base or ".", _read(tree, meta), known
    return None


def _read_devkit_archive(data: bytes, where: str) -> dict[str, bytes]:
    """Return the two files that are needed, by bare name; bounded, because gzip may be a bomb.

    ``tarfile`` is not used: it reads headers of a hostile tar into memory whatever size they
    claim, and may loop forever on negative sizes.
    """
    found: dict[str, bytes] = {}
    try:
        is_packed = data.startswith(GZIP_MAGIC)
        plain = unpacked(io.BytesIO(data), MAX_DEVKIT_BYTES, where) if is_packed else data
    except (EOFError, zlib.error, OSError) as exc:
        raise SourceError(
            f"{where} is not a readable devkit archive: {exc}; download it again"
        ) from exc
    for member in walk(in_memory(plain), 0, len(plain)):
        if member.problem == "not-a-tar":
            raise SourceError(f"{where}: {member.cause}")
        if member.problem in ("cut-short", "bad-header"):
            raise SourceError(
                f"{where} is not a readable devkit archive: {member.cause}; download it again"
            )
        name = os.fsdecode(member.name.rpartition(b"/")[2])
        if not member.problem and name in (META_NAME, GROUND_TRUTH_NAME):
            found.setdefault(name, plain[member.offset : member.offset + member.size_bytes])
    return found
