"""Classes in their one order: lexicographic by name, counted from 0.

This is the order of torchvision, TensorFlow Datasets and MXNet. It is *not* the order of the
devkit, whose ids (1-1000) are stored with each class.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from imgprep.errors import FormatError


@dataclass(frozen=True, slots=True)
class LabelClass:
    """One class."""

    index: int
    """The label: the position in lexicographic order, from 0."""
    name: str
    """Name of the class's folder or inner tar; in ImageNet a WordNet id (``n01440764``)."""
    devkit_id: int | None = None
    """``ILSVRC2012_ID`` (1-1000), if the devkit was found."""
    words: str | None = None
    """The synonyms, if a devkit or word list was found."""


def order_digest(names: Iterable[str]) -> str:
    """SHA-256 (hex) of the class names in order, joined by newlines (UTF-8)."""
    return hashlib.sha256(b"\n".join(os.fsencode(name) for name in names)).hexdigest()


@dataclass(frozen=True, slots=True)
class LabelMap:
    """The classes of a dataset, ``classes[label].index == label``."""

    classes: tuple[LabelClass, ...]

    @classmethod
    def from_names(
        cls,
        names: Iterable[str],
        devkit_ids: Mapping[str, int] | None = None,
        words: Mapping[str, str] | None = None,
    ) -> LabelMap:
        """Sort ``names`` (in any order, with repeats) and add the ids and synonyms of each."""
        ids, synonyms = devkit_ids or {}, words or {}
        # By bytes, the order of the file system, which includes undecodable names.
        ordered = sorted(set(names), key=os.fsencode)
        return cls(
            tuple(
                LabelClass(index, name, ids.get(name), synonyms.get(name))
                for index, name in enumerate(ordered)
            )
        )

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def names(self) -> tuple[str, ...]:
        """Class names by label."""
        return tuple(entry.name for entry in self.classes)

    @property
    def order_sha256(self) -> str:
        """Identifies the meaning of the labels: see :func:`order_digest`."""
        return order_digest(self.names)

    def only(self, takes: Callable[[str], bool]) -> LabelMap:
        """Return the classes whose names ``takes`` accepts; their labels count from 0 again."""
        kept = [entry for entry in self.classes if takes(entry.name)]
        if len(kept) == len(self.classes):
            return self
        return LabelMap(tuple(replace(entry, index=n) for n, entry in enumerate(kept)))

    def index_by_name(self) -> dict[str, int]:
        """Label of each class name."""
        return {entry.name: entry.index for entry in self.classes}

    def to_json(self) -> dict[str, Any]:
        """The content of ``labels.json``."""
        return {
            "order": "lexicographic by name, from 0",
            "order_sha256": self.order_sha256,
            "classes": [
                {
                    "index": entry.index,
                    "name": entry.name,
                    "devkit_id": entry.devkit_id,
                    "words": entry.words,
                }
                for entry in self.classes
            ],
        }

    @classmethod
    def from_json(cls, value: object) -> LabelMap:
        """Read :meth:`to_json` back.

        Raises:
            FormatError: a field is missing, of another type, out of order, or the hash differs.
        """
        try:
            classes = tuple(_class_from_json(entry) for entry in value["classes"])  # type: ignore[index]
            stored = value["order_sha256"]  # type: ignore[index]
            names = [os.fsencode(entry.name) for entry in classes]
        except (KeyError, TypeError, UnicodeEncodeError) as exc:
            raise FormatError(f"malformed list of labels: {exc!r:.200}") from exc
        labels = cls(classes)
        if [entry.index for entry in classes] != list(range(len(classes))):
            raise FormatError("the labels are not 0, 1, 2, ... in order")
        if any(left >= right for left, right in pairwise(names)):
            raise FormatError("the class names are not in lexicographic order")
        if stored != labels.order_sha256:
            raise FormatError("order_sha256 is not the hash of the class names")
        return labels


def _class_from_json(entry: Any) -> LabelClass:
    index, name = entry["index"], entry["name"]
    devkit_id, words = entry.get("devkit_id"), entry.get("words")
    if not isinstance(index, int) or not isinstance(name, str):
        raise TypeError(f"class {entry!r}")
    if not isinstance(devkit_id, int | None) or not isinstance(words, str | None):
        raise TypeError(f"class {entry!r}")
    return LabelClass(index, name, devkit_id, words)
