"""Find the devkit, Kaggle's tables and word lists near a source; label a flat val with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from imgprep.dataset.labels import LabelMap
from imgprep.errors import SourceError
from imgprep.sources.challenges import CHALLENGES, ILSVRC2012, Challenge
from imgprep.sources.containers import ContainerImages
from imgprep.sources.devkit import first_file, read_devkit, read_small
from imgprep.sources.tree import Tree
from imgprep.sources.truth_files import parse_kaggle_solution, parse_synset_words
from imgprep.wording import counted

KAGGLE_SOLUTION_NAME = "LOC_val_solution.csv"
WORDS_NAMES = ("LOC_synset_mapping.txt", "synset_words.txt")


@dataclass(frozen=True, kw_only=True, slots=True)
class Truth:
    """What the tables near a source say about classes, validation and test images."""

    challenge: Challenge = ILSVRC2012
    """The challenge that the tables and the names of images are of."""
    evidence: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    """The official classes; empty where neither a devkit nor Kaggle's mapping was found."""
    classes_from: str = ""
    devkit_ids: dict[str, int] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)
    labels: dict[str, Mapping[int, str]] = field(default_factory=dict)
    """Split -> number in the name of an image -> class; a split is absent if unknown."""
    labels_from: str = ""

    def only(self, takes: Callable[[str], bool]) -> Truth:
        """What is said of the classes that ``takes`` accepts."""
        labels: dict[str, Mapping[int, str]] = {
            split: {number: name for number, name in classes.items() if takes(name)}
            for split, classes in self.labels.items()
        }
        return replace(self, classes=tuple(filter(takes, self.classes)), labels=labels)

    def class_of(self, split: str, name: bytes) -> str | None:
        """The class of an image by its name; None if it is not known."""
        number = self.challenge.number(split, name)
        return None if number is None else self.labels.get(split, {}).get(number)

    def name_fault(self, split: str, name: bytes) -> str:
        """Why a file of a flat split has no known label, or an empty text."""
        if self.challenge.number(split, name) is not None:
            return ""
        return f"not named {self.challenge.name}_{split}_NUMBER: no label known"


def read_truth(places: Sequence[Tree], challenges: Sequence[Challenge] = CHALLENGES) -> Truth:
    """Read the first devkit in ``places``, and the first of each other table.

    The devkit and Kaggle's table must agree where both exist.

    Raises:
        SourceError: a file is malformed, or two contradict each other.
    """
    evidence: list[str] = []
    classes: tuple[str, ...] = ()
    classes_from = labels_from = ""
    ids: dict[str, int] = {}
    words: dict[str, str] = {}
    labels: dict[str, Mapping[int, str]] = {}
    challenge = challenges[0] if challenges else ILSVRC2012
    words_at = first_file(places, WORDS_NAMES)
    if words_at:
        tree, name = words_at
        words = parse_synset_words(read_small(tree, name), tree.where(name))
        evidence.append(f"found {name} ({counted(len(words), 'class', 'classes')})")
        if name == WORDS_NAMES[0]:
            classes, classes_from = tuple(words), name
    devkit = read_devkit(places, challenges)
    if devkit:
        challenge, where = devkit.challenge, devkit.where
        ids = {entry.name: entry.devkit_id for entry in devkit.classes}
        words |= {entry.name: entry.words for entry in devkit.classes if entry.words}
        classes, classes_from = tuple(ids), where
        labels = dict(devkit.labels)
        labels_from = where if labels else ""
        listed = [counted(len(ids), "class", "classes")]
        listed.append(counted(len(labels.get("val", ())), "val label"))
        if "test" in labels:
            listed.append(counted(len(labels["test"]), "test label"))
        evidence.append(f"found {where} ({', '.join(listed)})")
    solution_at = first_file(places, (KAGGLE_SOLUTION_NAME,))
    if solution_at and ILSVRC2012 in challenges:
        tree, name = solution_at
        solution = parse_kaggle_solution(read_small(tree, name), tree.where(name))
        evidence.append(f"found {name} ({counted(len(solution), 'val label')})")
        if "val" in labels and labels["val"] != solution:
            raise SourceError(
                f"{labels_from} and {tree.where(name)} label the validation images differently; "
                "remove the wrong one"
            )
        labels["val"], labels_from = solution, labels_from or name
    return Truth(
        challenge=challenge,
        evidence=tuple(evidence),
        classes=classes,
        classes_from=classes_from,
        devkit_ids=ids,
        words=words,
        labels=labels,
        labels_from=labels_from,
    )


def label_flat(
    split: str, images: ContainerImages, truth: Truth, labels: LabelMap
) -> tuple[ContainerImages, NDArray[np.int32]]:
    """The images of a flat split whose class is in ``labels``, and the label of each as int32.

    The number in the name of an image tells its class.

    Raises:
        SourceError: the images and the known labels do not match one to one.
    """
    index, classes = labels.index_by_name(), truth.labels[split]
    numbers = [truth.challenge.number(split, name) for name in images.each_name()]
    rejected = [truth.challenge.number(split, name) for name in images.rejected]
    present = Counter(number for number in [*numbers, *rejected] if number is not None)
    repeated = [number for number, count in sorted(present.items()) if count > 1]
    missing = sorted(classes.keys() - present.keys())
    unknown = sorted(present.keys() - classes.keys())
    if repeated or missing or unknown:
        counts = sum(present.values()), len(classes)
        raise SourceError(_mismatch(split, images, truth, counts, (repeated, missing, unknown)))
    by_row = np.array([index.get(classes[n], -1) for n in numbers if n is not None], np.int32)
    used = np.flatnonzero(by_row >= 0)
    return images.pick(used), by_row[used]


def _mismatch(
    split: str,
    images: ContainerImages,
    truth: Truth,
    counts: tuple[int, int],
    faults: tuple[list[int], list[int], list[int]],
) -> str:
    """What to say of images and labels in ``counts`` that do not match one to one."""
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
    what = "validation" if split == "val" else split
    return (
        f"{images.container} has {counts[0]} {what} images, but {truth.labels_from} has labels for "
        f"{counts[1]}: {'; '.join(parts)}. Labels would shift: complete the images, or build train "
        "alone with --split train"
    )
