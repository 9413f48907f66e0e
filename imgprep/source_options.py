"""The options that say how a source is read, and which part of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from imgprep.console import options
from imgprep.sources.layouts import LAYOUT_NAMES
from imgprep.sources.selection import LIST_NAMES
from imgprep.spec import SPLIT_CHOICES

if TYPE_CHECKING:
    from imgprep.sources.take import Take

source_options = options(
    click.option("--layout", type=click.Choice(LAYOUT_NAMES),
                 help="Read SOURCE as this layout instead of recognising it."),
    click.option("--split", type=click.Choice(SPLIT_CHOICES), default="all", show_default=True,
                 help="Use only this split."),
    click.option("--classes", metavar="LIST",
                 help="Use only these classes: ids and commas, a file with one id a line, or "
                      f"{', '.join(LIST_NAMES)}."),
    click.option("--exclude", metavar="LIST", help="Leave these classes out; as --classes."),
    click.option("--val-per-class", type=click.IntRange(min=1), metavar="N",
                 help="Move N images of each class from train to val, in a source without val."),
)  # fmt: skip


def take_of(given: dict[str, Any], seed: int = 0) -> Take:
    """The part of the source that the options name; these are removed from ``given``.

    Args:
        given: the values of the options.
        seed: decides which images become val.

    Raises:
        UsageError: a list of classes cannot be read, or is malformed.
    """
    from imgprep.sources.selection import Selection, read_class_list
    from imgprep.sources.take import Take

    only, without = given.pop("classes"), given.pop("exclude")
    return Take(
        val_per_class=given.pop("val_per_class") or 0,
        seed=seed,
        selection=Selection(
            only=read_class_list(only) if only else None,
            without=read_class_list(without) if without else None,
        ),
    )
