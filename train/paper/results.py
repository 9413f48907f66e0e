"""``results.json``: everything that the page shows, for scripts, papers and CI.

The schema is these dataclasses: each field is a key of the same name. Readers should refuse a
``schema`` that they do not know, and ignore keys that they do not know. Errors are fractions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgprep.pages.page import Table
from imgprep.storage.atomic import json_bytes
from train.paper.files import write_new
from train.paper.item import Decision, Item, ItemResult, ScaleName

SCHEMA = 1
DECISIONS: tuple[Decision, ...] = (
    "reproduced",
    "not reproduced",
    "not decidable at this scale",
    "shown",
    "not made",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """The user's dataset."""

    location: str
    fingerprint: str
    classes: int
    train_images: int
    val_images: int
    used: Mapping[str, Any]
    """The same of the part of it, at the size, that the runs used."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """A command that was run, or taken from an earlier time."""

    name: str
    command: str
    seconds: float | None
    """Time that it took; None if it did not finish, or if only the dataset was made by it."""
    failure: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class MadeItem:
    """An item and what came out."""

    item: Item
    result: ItemResult
    runs: Sequence[str]
    """Names of the commands that it used."""

    def to_json(self) -> dict[str, Any]:
        """Everything except charts and pictures."""
        return {
            "id": self.item.id,
            "title": self.item.title,
            "paper": self.item.paper,
            "notes": self.item.notes,
            "decision": self.result.verdict.decision,
            "text": self.result.verdict.text,
            "remarks": list(self.result.remarks),
            "numbers": dict(self.result.numbers),
            "tables": [_table_json(table) for table in self.result.tables],
            "figures": [
                {
                    "caption": figure.caption,
                    "table": None if figure.table is None else _table_json(figure.table),
                }
                for figure in self.result.figures
            ],
            "commands": list(self.runs),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Results:
    """A whole ``results.json``."""

    schema: int
    version: str
    """Of imgprep."""
    scale: ScaleName
    seeds: int
    dataset: Dataset
    cifar: str | None
    """Archive of CIFAR-10; None: figure 1 used the dataset at 32 px."""
    machine: str
    date: str
    """When the page was made, ISO 8601, UTC."""
    seconds: float
    """Time of all commands together, one after the other."""
    side_by_side: int
    """Commands that ran at the same time."""
    items: Sequence[MadeItem]
    commands: Sequence[Command]

    def by_decision(self) -> Mapping[Decision, Sequence[MadeItem]]:
        """Group the items by decision, in the order of ``DECISIONS``, without empty groups."""
        groups = {
            decision: [each for each in self.items if each.result.verdict.decision == decision]
            for decision in DECISIONS
        }
        return {decision: items for decision, items in groups.items() if items}

    def to_json(self) -> dict[str, Any]:
        """The file's content; ``summary`` has the ids of the items by decision."""
        plain = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in ("items", "commands", "dataset")
        }
        summary = {
            decision: [each.item.id for each in items]
            for decision, items in self.by_decision().items()
        }
        return {
            **plain,
            "dataset": dataclasses.asdict(self.dataset),
            "summary": summary,
            "items": [each.to_json() for each in self.items],
            "commands": [dataclasses.asdict(each) for each in self.commands],
        }


def write_results(results: Results, path: Path) -> None:
    """Write ``results.json``, whole or not at all.

    Raises:
        DestinationError: the file cannot be written.
    """
    write_new(path, json_bytes(results.to_json()))


def _table_json(table: Table) -> dict[str, Any]:
    return {
        "caption": table.caption,
        "head": list(table.head),
        "rows": [list(row) for row in table.rows],
    }
