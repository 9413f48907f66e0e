"""The options that say how a source is read, and which part of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from imgprep.console import options
from imgprep.sources.layouts import LAYOUT_NAMES
from imgprep.sources.selection import LIST_NAMES
from imgprep.spec import SPLIT_CHOICES

if TYPE_CHECKING:
    from imgprep.sources.take import LabelTable, Take

source_options = options(
    click.option("--layout", type=click.Choice(LAYOUT_NAMES),
                 help="Read SOURCE as this layout instead of recognising it."),
    click.option("--split", type=click.Choice(SPLIT_CHOICES), default="all", show_default=True,
                 help="Use only this split."),
    click.option("--classes", metavar="LIST",
                 help="Use only these classes: ids and commas, a file with one id a line, or "
                      f"{', '.join(LIST_NAMES)}."),
    click.option("--exclude", metavar="LIST",
                 help="Leave these classes out; takes what --classes takes."),
    click.option("--labels", metavar="FILE",
                 help="Take the label of each image from this .csv or .tsv file."),
    click.option("--path-column", metavar="NAME",
                 help="Column of paths in the table of --labels [default: path]."),
    click.option("--label-column", metavar="NAME",
                 help="Column of labels in that table [default: label]."),
    click.option("--split-column", metavar="NAME",
                 help="Column of train, val or test in that table [default: split, if there is "
                      "one]."),
    click.option("--val-per-class", type=click.IntRange(min=1), metavar="N",
                 help="Move N images of each class from train to val, in a source without val."),
)  # fmt: skip


def take_of(given: dict[str, Any], seed: int = 0) -> Take:
    """The part of the source that the options name; these are removed from ``given``.

    Args:
        given: the values of the options.
        seed: decides which images become val.

    Raises:
        UsageError: a list of classes cannot be read or is malformed, or options contradict each
            other.
    """
    from imgprep.sources.selection import Selection, read_class_list
    from imgprep.sources.take import Take

    table = _table_of(given)
    only, without = given.pop("classes"), given.pop("exclude")
    return Take(
        val_per_class=given.pop("val_per_class") or 0,
        table=table,
        seed=seed,
        selection=Selection(
            only=read_class_list(only) if only else None,
            without=read_class_list(without) if without else None,
        ),
    )


def _table_of(given: dict[str, Any]) -> LabelTable | None:
    from imgprep.errors import UsageError
    from imgprep.sources.take import LabelTable

    location = given.pop("labels")
    columns = {name: given.pop(name) for name in ("path_column", "label_column", "split_column")}
    columns = {name: value for name, value in columns.items() if value is not None}
    if location is None:
        if columns:
            option = next(iter(columns)).replace("_", "-")
            raise UsageError(f"--{option} names a column of a table: give the table with --labels")
        return None
    if given["layout"] is not None:
        raise UsageError("--labels and --layout exclude each other: the table says what is where")
    return LabelTable(location=location, **columns)
