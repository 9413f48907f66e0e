"""What an item of the paper is: a table or figure, the runs it needs, and what came out.

An item names its runs; ``plan`` makes commands of them. When they are finished, ``Item.analyse``, a
pure function, turns them into an ``ItemResult``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from imgprep.pages.page import Part, Table
from train.errors import DataError
from train.saved import checkpoint as checkpoints
from train.saved.checkpoint import Checkpoint
from train.show.run_state import RunState, read_run

ScaleName = Literal["small", "medium", "full"]
Views = Literal[1, 10]
DataName = Literal["photos", "some-classes", "cifar"]
"""The whole dataset; a part of its classes, for networks that are fine-tuned; CIFAR-10, or the
dataset at 32 px in its place."""
Decision = Literal[
    "reproduced", "not reproduced", "not decidable at this scale", "shown", "not made"
]
"""``shown``: the item makes no claim that a number could refute. ``not made``: a run that it needs
is missing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """The size of all runs."""

    name: ScaleName
    preset: str
    settings: Mapping[str, Any]
    """Dotted settings of every run on photographs, such as ``{"net.width_divisor": 16}``."""
    cifar: Mapping[str, Any]
    """Dotted settings of every run of figure 1."""
    seeds: int
    """Runs of each kind, unless ``--seeds`` says otherwise."""
    record_px: int | None
    """The dataset is made smaller first; None: it is used as it is."""
    cifar_limit: int | None = None
    """Images of each split for figure 1; None: all."""
    photos_limit: int | None = None
    """Photographs of each split, a seeded sample; None: all."""
    classes_limit: int | None = None
    """Classes of the dataset that are used; None: all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSpec:
    """One training run, a plain ``fit``: the scale's settings, and what differs."""

    name: str
    """Lower case letters, digits and hyphens; the beginning of the folder's name."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Dotted settings that override those of the scale."""
    seed: int = 0
    data: DataName = "photos"
    warm_start: RunSpec | None = None
    """A run whose network this one begins with."""
    optional: bool = False
    """The item can be made without it: a learning rate of a search may be too high."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationSpec:
    """One ``evaluate``: several networks, each alone and averaged."""

    name: str
    runs: tuple[RunSpec, ...]
    views: Views = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class FinishedRun:
    """A run that has ended, in its folder."""

    spec: RunSpec
    folder: Path
    command: str
    dataset: str
    """Where its dataset is."""

    def state(self) -> RunState:
        """Settings, logs and best checkpoint."""
        return read_run(self.folder)

    def updates(self) -> list[dict[str, str]]:
        """Return the rows of ``steps.csv``.

        Raises:
            DataError: there are none.
        """
        return self._some(self.state().steps, "update", "log_every_steps")

    def validations(self) -> list[dict[str, str]]:
        """Return the rows of ``epochs.csv``.

        Raises:
            DataError: there are none.
        """
        return self._some(self.state().validations, "validation", "eval_every_epochs")

    def _some(self, rows: list[dict[str, str]], what: str, setting: str) -> list[dict[str, str]]:
        if not rows:
            raise DataError(f"{self.folder}: the run logged no {what}: lower {setting}")
        return rows

    @property
    def last(self) -> Path:
        """The checkpoint at the end of the run."""
        return self.folder / checkpoints.LAST

    def checkpoint(self) -> Checkpoint:
        """Read the checkpoint at the end of the run."""
        return checkpoints.load(self.last)


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """Everything that has finished, for the analysis of an item."""

    scale: Scale
    seeds: int
    dataset: str
    """Where the records are that the runs on photographs used."""
    runs: Mapping[str, Sequence[FinishedRun]]
    """Finished runs of each name, in the order of their seeds."""
    evaluations: Mapping[tuple[str, Views], Mapping[str, Any]] = field(default_factory=dict)
    """What ``evaluate --json`` printed, by name and views."""

    def of(self, name: str) -> Sequence[FinishedRun]:
        """Return the finished runs called ``name``; empty if none is."""
        return self.runs.get(name, ())


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """A chart or pictures, with the same data as a table."""

    part: Part
    """``Chart``, ``Charts``, ``Pictures``, ``Grid`` or ``Cards`` of ``imgprep.pages.page``."""
    caption: str
    """What the figure shows, for Markdown and JSON; the page shows the part's own caption."""
    table: Table | None
    """The data of a chart. None for photographs, whose caption says everything."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What an item shows about the paper's claim."""

    decision: Decision
    text: str
    """A sentence for the summary: what was found, with its numbers and the number of seeds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemResult:
    """What came out of an item."""

    verdict: Verdict
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()
    remarks: Sequence[str] = ()
    """Paragraphs below the claim: how it was measured, what limits it."""
    numbers: Mapping[str, Any] = field(default_factory=dict)
    """For ``results.json``: only what JSON can hold; fractions, not per cent."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """A table, a figure or a claim of the paper."""

    id: str
    """For ``--only`` and for links: lower case letters, digits and hyphens."""
    title: str
    paper: str
    """What the paper says, with its section."""
    notes: str
    """What the author's notes of 2012 say to more digits; empty if nothing."""
    runs: Callable[[Scale, int], Sequence[RunSpec]]
    """The runs that it needs at a scale, for a number of seeds. Runs that are equal are shared."""
    analyse: Callable[[Finished], ItemResult]
    evaluations: Callable[[Scale, int], Sequence[EvaluationSpec]] = lambda scale, seeds: ()


def seeds_of(spec_of: Callable[[int], RunSpec], seeds: int) -> list[RunSpec]:
    """Return one run for each seed, from 0."""
    return [spec_of(seed) for seed in range(seeds)]
