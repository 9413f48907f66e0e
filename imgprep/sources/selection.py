"""Which classes of a source are used: by id, from a file, or by the name of a published list."""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal, get_args

from imgprep.dataset.labels import order_digest
from imgprep.errors import UsageError
from imgprep.wording import counted, printable

ListName = Literal["imagenet-100", "imagenette", "imagewoof"]
LIST_NAMES: tuple[ListName, ...] = get_args(ListName)
"""Published lists, in the folder ``lists``; each file names its source."""
MAX_FILE_BYTES = 16 * 1024 * 1024
MAX_NAME_BYTES = 255
"""What file systems allow; a class has the name of a folder or of a tar."""
NAMES_SHOWN = 8
_FILE_ENDINGS = (".txt", ".csv", ".tsv", ".lst", ".list")


@dataclass(frozen=True, slots=True)
class ClassList:
    """Classes that the user named."""

    name: str
    """The name of a published list; ``file`` or ``ids`` where the user gave one of these."""
    classes: frozenset[str]

    @property
    def sha256(self) -> str:
        """SHA-256 (hex) of the class names in lexicographic order, joined by newlines."""
        return order_digest(sorted(self.classes, key=os.fsencode))

    def __str__(self) -> str:
        classes = counted(len(self.classes), "class", "classes")
        if self.name in LIST_NAMES:
            return f"{self.name} ({classes})"
        return f"{classes} {'of a file' if self.name == 'file' else 'by id'}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """The classes to use; all of the source where neither list is given."""

    only: ClassList | None = None
    without: ClassList | None = None

    def __bool__(self) -> bool:
        return self.only is not None or self.without is not None

    def __str__(self) -> str:
        if not self:
            return "all classes"
        taken = str(self.only) if self.only else "all classes"
        return taken if self.without is None else f"{taken}, without {self.without}"

    def takes(self, name: str) -> bool:
        """Whether a class is used."""
        if self.only is not None and name not in self.only.classes:
            return False
        return self.without is None or name not in self.without.classes

    def check(self, present: Collection[str]) -> None:
        """Compare the lists with the classes of a source.

        Raises:
            UsageError: the source lacks a class that is named, or nothing is left.
        """
        for option, named in (("--classes", self.only), ("--exclude", self.without)):
            missing = sorted(named.classes - set(present)) if named else []
            if named and missing:
                raise UsageError(_lacks(present, missing, f"{option} {named}"))
        if self and not any(map(self.takes, present)):
            raise UsageError("no class is left: --exclude names all of them")

    def identity(self) -> dict[str, str]:
        """Flat values for the identity of a source; empty where all classes are used."""
        found: dict[str, str] = {}
        for option, named in (("classes", self.only), ("exclude", self.without)):
            if named is not None:
                found[f"selection.{option}"] = named.name
                found[f"selection.{option}_sha256"] = named.sha256
        return found


ALL_CLASSES = Selection()


def _lacks(present: Collection[str], missing: Sequence[str], option: str) -> str:
    """Name the missing classes, each with the class of the source that is most like it."""
    shown = []
    by_fold = {name.casefold(): name for name in present}
    for name in missing[:NAMES_SHOWN]:
        close = by_fold.get(name.strip().casefold()) or next(
            iter(difflib.get_close_matches(name, present, 1, 0.8)), None
        )
        shown.append(f"{name!r}" + (f" (did you mean {close!r}?)" if close else ""))
    more = f" and {len(missing) - NAMES_SHOWN:,} more" if len(missing) > NAMES_SHOWN else ""
    return (
        f"{option}: the source has {counted(len(present), 'class', 'classes')}, but not "
        f"{', '.join(shown)}{more}: correct the list, or complete the source"
    )


def read_class_list(given: str) -> ClassList:
    """The classes that a user names: a published list, a file with one a line, or ids and commas.

    Raises:
        UsageError: the file cannot be read, or it or the list is malformed.
    """
    if given in LIST_NAMES:
        text = resources.files("imgprep.sources").joinpath("lists", f"{given}.txt").read_bytes()
        return ClassList(given, frozenset(_parse(text, given)))
    path = Path(given)
    try:
        is_file = path.is_file()
    except (OSError, ValueError):  # too long, or with a null byte
        is_file = False
    if is_file or "/" in given or given.lower().endswith(_FILE_ENDINGS):
        return ClassList("file", frozenset(_parse(_content(path), given)))
    names = [name.strip() for name in given.split(",")]
    repeated = next((name for at, name in enumerate(names) if name in names[:at]), None)
    if "" in names or repeated:
        what = f"{repeated!r} is listed twice" if repeated else "an id between commas is empty"
        raise UsageError(f"the list of classes {given:.80}: {what}")
    for name in names:
        _check_name(name, f"the list of classes {given:.80}")
    return ClassList("ids", frozenset(names))


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as exc:
        cause = exc.strerror if isinstance(exc, OSError) else exc
        raise UsageError(
            f"{printable(str(path))}: the list of classes cannot be read: {cause}; published "
            f"lists are {', '.join(LIST_NAMES)}"
        ) from exc
    if len(data) > MAX_FILE_BYTES:
        raise UsageError(
            f"{path} is larger than {MAX_FILE_BYTES >> 20} MiB; is it a list of classes?"
        )
    return data


def _parse(data: bytes, where: str) -> list[str]:
    """The class of each line; blank lines and lines that begin with ``#`` are left out."""
    lines: dict[str, int] = {}
    for number, raw in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        place = f"{where}, line {number}"
        line = raw.strip()
        if not line or line.startswith(b"#"):
            continue
        try:
            name = line.decode()
        except UnicodeDecodeError as exc:
            raise UsageError(f"{place}: not UTF-8 text: save the list as UTF-8") from exc
        _check_name(name, place)
        if name in lines:
            raise UsageError(
                f"{place}: class {name!r} is listed twice, first in line {lines[name]}"
            )
        lines[name] = number
    if not lines:
        raise UsageError(f"{where} lists no classes: write one a line")
    return list(lines)


def _check_name(name: str, place: str) -> None:
    """Refuse what no folder can be named."""
    if len(os.fsencode(name)) > MAX_NAME_BYTES:
        raise UsageError(f"{place}: a name of more than {MAX_NAME_BYTES} bytes: write one a line")
    if "\0" in name:
        raise UsageError(f"{place}: {name!r:.80} contains a null byte")
    if "/" in name or name in (".", ".."):
        raise UsageError(f"{place}: {name!r:.80} is a path, not the name of a class")
