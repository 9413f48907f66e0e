"""Parse the small files that list the classes and label the validation images.

All of them are untrusted: a wrong one must end in an error message, never in wrong labels.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass

from imgprep.errors import SourceError
from imgprep.sources.challenges import ILSVRC2012
from imgprep.sources.matfile import Value, read_structures


@dataclass(frozen=True, slots=True)
class Synset:
    """One entry of the devkit's ``meta.mat``."""

    devkit_id: int
    name: str
    words: str
    num_children: int
    """0 for the classes of the challenge; the others are their ancestors."""


def parse_devkit_meta(
    data: bytes, where: str, id_field: str = ILSVRC2012.id_field
) -> tuple[Synset, ...]:
    """The synsets of ``meta.mat``, by devkit id.

    Args:
        data: the content of the file.
        where: its name, for messages.
        id_field: the field with the id of a class.

    Raises:
        SourceError: it is not a MAT file of the devkit's shape, or contradicts itself.
    """
    try:
        synsets = [_synset(entry, id_field) for entry in read_structures(data, "synsets")]
    except ValueError as exc:  # among them UnicodeDecodeError
        raise SourceError(f"{where} is not the devkit's table of synsets: {exc}") from exc
    ids = {entry.devkit_id for entry in synsets}
    names = {entry.name for entry in synsets}
    if not synsets or len(ids) != len(synsets) or len(names) != len(synsets):
        raise SourceError(f"{where} lists no synsets, or lists an id or a WNID twice")
    return tuple(sorted(synsets, key=lambda entry: entry.devkit_id))


def _synset(entry: dict[str, Value], id_field: str) -> Synset:
    devkit_id, children = entry.get(id_field), entry.get("num_children")
    name, words = entry.get("WNID"), entry.get("words")
    if not isinstance(name, str) or not name or {"/", "\0"} & set(name) or name in (".", ".."):
        raise ValueError(f"the WNID {name!r:.80}")
    if not isinstance(devkit_id, float) or not devkit_id.is_integer() or devkit_id < 1:
        raise ValueError(f"the {id_field} {devkit_id!r:.80} of {name!r:.80}")
    if not isinstance(children, float) or not children.is_integer() or children < 0:
        raise ValueError(f"{name!r:.80} with {children!r:.80} children")
    return Synset(int(devkit_id), name, words if isinstance(words, str) else "", int(children))


def parse_ground_truth(data: bytes, where: str) -> tuple[int, ...]:
    """The devkit id of each image of a split, one a line, in the order of their numbers.

    Raises:
        SourceError: a line is not a number.
    """
    ids: list[int] = []
    for number, line in enumerate(data.rstrip().split(b"\n"), 1):
        text = line.strip()
        if not text.isdigit() or len(text) > 6:
            shown = text[:40].decode("ascii", "backslashreplace")
            raise SourceError(f"{where}, line {number}: {shown!r} is not a devkit id")
        ids.append(int(text))
    return tuple(ids)


def parse_kaggle_solution(data: bytes, where: str) -> dict[int, str]:
    """Class of each validation image by its number, from Kaggle's ``LOC_val_solution.csv``.

    Raises:
        SourceError: the columns or an entry are not Kaggle's, or an image is listed twice.
    """
    reader = csv.reader(io.StringIO(_text(data, where)))
    try:
        header = [cell.strip() for cell in next(reader, [])]
        if header[:2] != ["ImageId", "PredictionString"]:
            raise SourceError(f"{where} does not start with the columns ImageId,PredictionString")
        classes: dict[int, str] = {}
        for row in reader:
            if not row:
                continue
            image = row[0].strip()
            number = ILSVRC2012.number("val", image.encode())
            found = set(row[1].split()[::5]) if len(row) > 1 else set()
            if number is None or len(found) != 1:
                raise SourceError(
                    f"{where}, line {reader.line_num}: expected a validation image and boxes of "
                    f"one class, found {','.join(row)[:80]!r}"
                )
            if number in classes:
                raise SourceError(f"{where}, line {reader.line_num}: {image:.80} is listed twice")
            classes[number] = found.pop()
    except csv.Error as exc:
        raise SourceError(f"{where}, line {reader.line_num}: {exc}") from exc
    return classes


def parse_synset_words(data: bytes, where: str) -> dict[str, str]:
    """Words by class, from lines such as ``n01440764 tench, Tinca tinca``.

    This is the format of ``synset_words.txt`` and of Kaggle's ``LOC_synset_mapping.txt``.

    Raises:
        SourceError: the text is not UTF-8, or a class is listed twice.
    """
    words: dict[str, str] = {}
    for number, line in enumerate(_text(data, where).splitlines(), 1):
        name, _, rest = line.strip().partition(" ")
        if not name:
            continue
        if name in words:
            raise SourceError(f"{where}, line {number}: class {name:.80} is listed twice")
        words[name] = rest.strip()
    return words


def _text(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise SourceError(f"{where} is not UTF-8 text ({exc}): save it as UTF-8") from exc
