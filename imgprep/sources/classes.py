"""Decide the classes of a source, and tell where they may be wrong.

A label is the place of a class in the sorted list of classes, so one class more or less moves the
label of every class after it. A folder that is not evidently a class, and a class that may be
lost, are therefore doubts, which a build resolves only with the user.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import chain

from imgprep.dataset.labels import LabelMap
from imgprep.errors import SourceError, UsageError
from imgprep.sources.containers import ContainerImages, Findings
from imgprep.sources.layout import ClassImages
from imgprep.sources.listing import is_image_name
from imgprep.sources.manifest import SourceScan
from imgprep.sources.truth import Truth
from imgprep.wording import counted, printable

LISTED_SHARE = 0.9
"""A list of classes applies if the source has this share of it; else the source is a subset."""
WORDNET_ID = re.compile(r"n\d{8}")
LABEL_ORDER_DIGITS = 12
"""Digits of the hash of the classes that a scan prints, and that are enough to confirm them."""
DOUBTS_SHOWN = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassesFound:
    """The images of a source by class, before they have labels."""

    train: Sequence[ClassImages] | None
    val: Sequence[ClassImages] | None
    flat: Collection[str]
    """The classes of validation and test images that the truth assigns to classes."""


def decide_classes(found: ClassesFound, truth: Truth, findings: Findings) -> LabelMap:
    """The classes of train, plus those of the official list if it applies; of val without train.

    Missing and doubtful classes go to ``findings``.

    Raises:
        SourceError: val has classes that train does not have.
    """
    in_train = {name for name, _ in found.train or ()}
    in_val = {name for name, _ in found.val or ()}
    if found.flat:
        in_val = set(found.flat)
    listed = set(truth.classes)
    here = in_train or in_val
    applies = bool(listed) and (
        bool(found.flat) or len(here & listed) >= LISTED_SHARE * len(listed)
    )
    if applies and here and not here & listed:
        raise SourceError(
            f"no class of the source is in {truth.classes_from}, which lists "
            f"{counted(len(listed), 'class', 'classes')} such as {min(listed)!r}: it belongs to "
            "another set; replace it, or move it elsewhere"
        )
    if applies:
        findings.class_doubts.clear()  # The list tells which classes there are.
    classes = here | (listed if applies else set())
    if found.train is not None:
        for name in sorted(classes - in_train):
            cause = f"listed in {truth.classes_from} but absent from train; keeps its label"
            findings.report("missing-class", name, cause)
    unknown = sorted(in_val - classes)
    if unknown:
        raise SourceError(_unknown_in_val(unknown, classes))
    labels = LabelMap.from_names(classes, truth.devkit_ids, truth.words)
    _doubt_classes(found, truth, labels, findings)
    note_numeric_names(labels, findings)
    unlisted = sorted(here - listed) if applies else []
    if unlisted:
        are = "is" if len(unlisted) == 1 else "are"
        findings.notes.append(
            f"{counted(len(unlisted), 'class', 'classes')} {are} not in {truth.classes_from}, such "
            f"as {unlisted[0]!r}: the labels after it differ from those of ILSVRC2012"
        )
    return labels


def _unknown_in_val(names: Sequence[str], classes: Collection[str]) -> str:
    one = len(names) == 1
    same = {unicodedata.normalize("NFC", name).casefold() for name in classes}
    if all(unicodedata.normalize("NFC", name).casefold() in same for name in names):
        return (
            f"{counted(len(names), 'class', 'classes')} of val, such as {names[0]!a}, "
            f"{'has' if one else 'have'} the name of a class of train in another Unicode form or "
            "in other letter case: rename the folders of one split"
        )
    return (
        f"{counted(len(names), 'class', 'classes')} of val {'is' if one else 'are'} not in train, "
        f"such as {names[0]!r}: labels would differ between the splits. Complete train, remove "
        f"{'it' if one else 'them'} from val, or build train alone with --split train"
    )


def _doubt_classes(found: ClassesFound, truth: Truth, labels: LabelMap, findings: Findings) -> None:
    """Doubt folders and tars that neither their content nor their name shows to be classes."""
    first, second = (found.train, found.val) if found.train else (found.val, None)
    seen = {name: _has_image_names(images) for name, images in first or ()}
    elsewhere = {name for name, images in second or () if _has_image_names(images)}
    usual = any(seen.values())  # else the images of this source have names without an ending
    index = labels.index_by_name()
    for name, images in first or ():
        evident = seen[name] or name in elsewhere or (len(images) > 0 and not usual)
        known = name in truth.classes or name in truth.words or WORDNET_ID.fullmatch(name)
        if not evident and not known:
            cause = (
                f"contains no file that is named like an image; as a class it takes label "
                f"{index[name]} and moves the labels after it by one"
            )
            findings.doubt("doubtful-class", images.container, cause)


def _has_image_names(images: ContainerImages) -> bool:
    """Whether a file of the container, usable or not, is named like an image."""
    names = chain(images.rejected, map(images.name_at, range(len(images))))
    return any(is_image_name(os.fsdecode(name)) for name in names)


def note_numeric_names(labels: LabelMap, findings: Findings) -> None:
    """Note where names are numbers whose order as text is another."""
    names = labels.names
    if not names or not all(name.isascii() and name.isdigit() for name in names):
        return
    for label, (name, by_value) in enumerate(zip(names, sorted(names, key=int), strict=True)):
        if name != by_value:
            findings.notes.append(
                f"class names are numbers, but labels follow their order as text: label {label} is "
                f"class {name}, not {by_value}; pad the names with zeros to change this"
            )
            return


def check_classes(scan: SourceScan, label_order: str | None) -> None:
    """Accept classes that are certain, or that the user confirms by the hash of their order.

    Raises:
        UsageError: ``label_order`` is not the hash of these classes.
        SourceError: the classes are not certain, and not confirmed.
    """
    order = scan.labels.order_sha256
    classes = counted(len(scan.labels), "class", "classes")
    if label_order is not None:
        if len(label_order) < LABEL_ORDER_DIGITS or not order.startswith(label_order.lower()):
            raise UsageError(
                f"--label-order is {label_order}, but the {classes} of {scan.root} have the order "
                f"{order[:LABEL_ORDER_DIGITS]}; imgprep scan shows what they are"
            )
    elif scan.class_doubts:
        doubts = [f"  {printable(one.where)}: {one.cause}" for one in scan.class_doubts]
        if len(doubts) > DOUBTS_SHOWN:
            doubts[DOUBTS_SHOWN:] = [f"  and {len(doubts) - DOUBTS_SHOWN} more"]
        raise SourceError(
            f"{scan.root}: the labels are not certain, because the classes are not:\n"
            + "\n".join(doubts)
            + "\nRemove or complete what is named here (a name with a leading dot is ignored), or "
            f"put the official list (devkit) beside it. If the {classes} are right as they are, "
            f"confirm them with --label-order {order[:LABEL_ORDER_DIGITS]}; --on-error skip does "
            "not decide this"
        )
