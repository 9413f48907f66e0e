"""Read a table (.csv or .tsv) that says which label and split each image has.

A table is untrusted: its size, its lines and its fields are bounded, and whatever is wrong with it
is an error with its line.
"""

from __future__ import annotations

import csv
import io
import os
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from imgprep.errors import SourceError, UsageError
from imgprep.sources.faults import unreadable
from imgprep.sources.open_tree import open_tree
from imgprep.sources.take import LabelTable
from imgprep.sources.tree import Tree
from imgprep.wording import counted

MAX_TABLE_BYTES = 1 << 30
"""The 14 million images of all ImageNet take 0.6 GB."""
MAX_LINE_BYTES = 64 * 1024
MAX_LINES_PER_ROW = 16
DELIMITERS = {".csv": ",", ".tsv": "\t"}
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    "test": "test",
}
SPLITS_IS_VALID = {"false": "train", "true": "val"}
"""Values of a column named ``is_valid``, which tables of fastai have."""


@dataclass(slots=True)
class TableRows:
    """The rows of a table, by path."""

    where: str
    """The file, for messages."""
    numbers: dict[str, int] = field(default_factory=dict)
    """Path -> number of its first row; paths are relative, with slashes."""
    labels: array[int] = field(default_factory=lambda: array("i"))
    """For each row a place in ``classes``."""
    splits: array[int] = field(default_factory=lambda: array("b"))
    """For each row a place in ``split_names``."""
    lines: array[int] = field(default_factory=lambda: array("q"))
    classes: tuple[str, ...] = ()
    split_names: tuple[str, ...] = ()
    repeated: list[tuple[str, int, int]] = field(default_factory=list)
    """Path, line and first line of rows whose path was listed before; the first thousand."""
    repeats: int = 0
    outside: list[tuple[str, int]] = field(default_factory=list)
    """Path and line of rows whose path is not inside the source; the first thousand."""
    outsides: int = 0


KEPT = 1000


def read_table(table: LabelTable) -> TableRows:
    """Read a table from a disk or a store.

    Raises:
        UsageError: there is no such file, its name does not end in .csv or .tsv, or it lacks a
            column.
        SourceError: it is malformed or too large, or cannot be read.
    """
    folder, _, name = table.location.rpartition("/")
    at_root = table.location.startswith("/") and not folder
    tree = open_tree("/" if at_root else folder or ".")
    delimiter = DELIMITERS.get(os.path.splitext(name)[1].lower())  # noqa: PTH122
    if delimiter is None:
        raise UsageError(f"{table.location}: a table of labels ends in .csv or .tsv")
    if not tree.is_file(name):
        raise UsageError(f"{table.location}: there is no such file")
    lines = _Lines(tree, name, table.location)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        return _read_rows(reader, lines, table)
    except csv.Error as exc:
        raise SourceError(f"{table.location}, line {lines.number}: {exc}") from exc
    except OSError as exc:
        raise unreadable(table.location, exc) from exc


class _Lines:
    """Iterates over the lines of a table as text; ``number`` is that of the last one."""

    def __init__(self, tree: Tree, name: str, where: str) -> None:
        self.number = 0
        self.in_row = 0
        """Lines since the last row ended; the reader of rows sets it to 0."""
        self._where = where
        self._pieces = self._whole_lines(tree, name)

    def __iter__(self) -> Iterator[str]:
        for piece in self._pieces:
            for line in io.StringIO(self._text(piece), newline="\n"):
                self.number += 1
                self.in_row += 1
                if self.in_row > MAX_LINES_PER_ROW:
                    raise SourceError(
                        f"{self._where}, line {self.number - MAX_LINES_PER_ROW}: a row of more "
                        f"than {MAX_LINES_PER_ROW} lines: is a quotation mark not closed?"
                    )
                yield line

    def _whole_lines(self, tree: Tree, name: str) -> Iterator[bytes]:
        """The content in pieces that end with a line."""
        size_bytes = tree.size_bytes(name)
        rest = b""
        read_bytes = 0
        for chunk in tree.chunks(name):
            read_bytes += len(chunk)
            if max(read_bytes, size_bytes) > MAX_TABLE_BYTES:
                raise SourceError(
                    f"{self._where} is larger than {MAX_TABLE_BYTES >> 30} GiB; is it the right "
                    "file?"
                )
            data = rest + bytes(chunk)
            end = data.rfind(b"\n") + 1
            rest = data[end:]
            if end:
                yield data[:end]
            if len(rest) > MAX_LINE_BYTES:
                break  # _text says which line it is
        if rest:
            yield rest

    def _text(self, piece: bytes) -> str:
        if self.number == 0:
            piece = piece.removeprefix(b"\xef\xbb\xbf")
        self._check_lengths(piece)
        if (at := piece.find(b"\0")) >= 0:
            raise SourceError(f"{self._place(piece, at)}: a null byte")
        try:
            return piece.decode()
        except UnicodeDecodeError as exc:
            place = self._place(piece, exc.start)
            raise SourceError(f"{place}: not UTF-8 text: save the table as UTF-8") from exc

    def _check_lengths(self, piece: bytes) -> None:
        """Refuse a line that is too long, wherever it starts."""
        start = 0
        while start + MAX_LINE_BYTES < len(piece):
            end = piece.rfind(b"\n", start, start + MAX_LINE_BYTES + 1)
            if end < 0:
                raise SourceError(
                    f"{self._place(piece, start)}: a line of more than {MAX_LINE_BYTES >> 10} KiB; "
                    "is it the right file?"
                )
            start = end + 1

    def _place(self, piece: bytes, at: int) -> str:
        line = self.number + piece.count(b"\n", 0, at) + 1
        return f"{self._where}, line {line}"


def _read_rows(reader: Iterator[Sequence[str]], lines: _Lines, table: LabelTable) -> TableRows:
    rows = TableRows(table.location)
    at_path, at_label, at_split = _columns(next(reader, []), table)
    lines.in_row = 0
    split_of = _split_values(table) if at_split is not None else {}
    rows.split_names = tuple(dict.fromkeys(SPLIT_NAMES.values()))
    numbers, codes, split_code = rows.numbers, dict[str, int](), 0
    split_codes = {value: rows.split_names.index(name) for value, name in split_of.items()}
    for row in reader:
        lines.in_row = 0
        try:
            path, label = row[at_path], row[at_label].strip()
            if at_split is not None:
                split_code = split_codes[row[at_split]]
        except IndexError:
            if not any(row):
                continue
            raise SourceError(
                f"{rows.where}, line {lines.number}: {counted(len(row), 'column')}, fewer than the "
                "header needs"
            ) from None
        except KeyError as exc:
            split_code = _learn_split(exc.args[0], split_of, split_codes, rows, lines)
        if not label:
            raise SourceError(f"{rows.where}, line {lines.number}: the label is empty")
        if not path or path[0] in "./" or "/." in path or "//" in path:
            path = _cleaned(path, rows, lines)
            if not path:
                continue
        number = len(numbers)
        if numbers.setdefault(path, number) != number:
            rows.repeats += 1
            if len(rows.repeated) < KEPT:
                rows.repeated.append((path, lines.number, rows.lines[numbers[path]]))
            continue
        rows.labels.append(codes.setdefault(label, len(codes)))
        rows.splits.append(split_code)
        rows.lines.append(lines.number)
    rows.classes = tuple(codes)
    if not numbers:
        raise SourceError(f"{rows.where} lists no image that can be used")
    return rows


def _columns(header: Sequence[str], table: LabelTable) -> tuple[int, int, int | None]:
    """Places of the columns of path, label and split; the last may be absent by default."""
    names = [name.strip() for name in header]
    found = []
    for option, wanted in (
        ("path", table.path_column),
        ("label", table.label_column),
        ("split", table.split_column or "split"),
    ):
        count = names.count(wanted)
        if count > 1:
            raise UsageError(f"{table.location}, line 1: two columns are named {wanted!r:.80}")
        if count == 0 and (option != "split" or table.split_column):
            has = ", ".join(map(repr, names))
            raise UsageError(
                f"{table.location}, line 1: no column is named {wanted!r}; it has {has:.200}: "
                f"name the right one with --{option}-column"
            )
        found.append(names.index(wanted) if count else None)
    path, label, split = found
    assert path is not None
    assert label is not None
    return path, label, split


def _split_values(table: LabelTable) -> dict[str, str]:
    return SPLITS_IS_VALID if table.split_column == "is_valid" else SPLIT_NAMES


def _learn_split(
    value: str,
    split_of: Mapping[str, str],
    split_codes: dict[str, int],
    rows: TableRows,
    lines: _Lines,
) -> int:
    """The code of a value that was not seen in this spelling before."""
    name = split_of.get(value.strip().lower())
    if name is None:
        allowed = ", ".join(split_of)
        raise SourceError(
            f"{rows.where}, line {lines.number}: the split {value!r:.80} is not one of {allowed}"
        )
    split_codes[value] = rows.split_names.index(name)
    return split_codes[value]


def _cleaned(path: str, rows: TableRows, lines: _Lines) -> str:
    """The path without ``.`` and doubled slashes; empty, and noted, if it leads elsewhere."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if path.startswith("/") or ".." in parts or not parts:
        rows.outsides += 1
        if len(rows.outside) < KEPT:
            rows.outside.append((path, lines.number))
        return ""
    return "/".join(parts)
