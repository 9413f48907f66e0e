"""The plan: each run as a plain command, in a folder named by its settings.

The folder's name ends with a hash of what decides the run: settings, seed, dataset, and the run
whose network it begins with. So a run that is already there is the same run, and equal runs that
several items need are trained once.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgprep.storage.atomic import read_json
from train import program
from train.paper.item import (
    DataName,
    EvaluationSpec,
    FinishedRun,
    Item,
    RunSpec,
    Scale,
)
from train.saved import checkpoint as checkpoints
from train.settings import merge

RUNS = "runs"
SETTINGS = "settings"
EVALUATIONS = "evaluations"
HASH_DIGITS = 8
Arguments = tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedData:
    """A dataset that runs use."""

    location: str
    fingerprint: str
    classes: int
    train_images: int
    val_images: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A command of this program, and where its result is kept."""

    name: str
    """Unique; the name of its result and its log."""
    arguments: Arguments
    """After ``imgprep-train``."""
    result: Path
    """What the command printed as JSON, and how long it took; there once it has finished."""
    proof: tuple[Path, ...]
    """Files without which the result does not count."""
    needs: tuple[str, ...] = ()
    """Names of the jobs that must finish first."""
    optional: bool = False
    """Whether the plan succeeds without it."""

    @property
    def command(self) -> str:
        """The command as anyone could type it."""
        return f"{program.command()} {shlex.join(self.arguments)}"

    @property
    def done(self) -> bool:
        """Whether it has finished."""
        return self.result.exists() and all(path.exists() for path in self.proof)

    def read(self) -> dict[str, Any]:
        """Read the result: ``seconds`` and ``output``.

        Raises:
            FormatError: the file is damaged.
        """
        return read_json(self.result, "the result of a command")


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """All jobs of the chosen items, runs before the evaluations that need them."""

    runs: Mapping[str, tuple[RunSpec, Job]]
    """By the job's name."""
    evaluations: Mapping[str, tuple[EvaluationSpec, Job]]

    @property
    def jobs(self) -> list[Job]:
        """All jobs, each after those it needs."""
        return [job for _, job in (*self.runs.values(), *self.evaluations.values())]


class Planner:
    """Makes jobs of specifications, in the folder ``out``."""

    def __init__(self, out: Path, scale: Scale, data: Mapping[DataName, PreparedData]) -> None:
        self._out = out
        self.scale = scale
        self._data = data

    def plan(self, items: Iterable[Item], seeds: int) -> Plan:
        """Plan the runs and evaluations of ``items``; equal ones once."""
        runs: dict[str, tuple[RunSpec, Job]] = {}
        evaluations: dict[str, tuple[EvaluationSpec, Job]] = {}
        for item in items:
            wanted = item.evaluations(self.scale, seeds)
            for spec in (*item.runs(self.scale, seeds), *(s for e in wanted for s in e.runs)):
                for each in _with_ancestors(spec):
                    job = self.run_job(each)
                    runs.setdefault(job.name, (each, job))
            for evaluation in wanted:
                job = self.evaluation_job(evaluation)
                evaluations.setdefault(job.name, (evaluation, job))
        return Plan(runs=runs, evaluations=evaluations)

    def data(self, name: DataName) -> PreparedData:
        """Return a dataset."""
        return self._data[name]

    def settings_files(self) -> dict[Path, bytes]:
        """Return the files that the runs name as ``--config``, with their content."""
        import tomli_w

        return {
            self._settings_file(each): tomli_w.dumps(
                {"preset": self.scale.preset, **_nested(each)}
            ).encode()
            for each in (self.scale.settings, self.scale.cifar)
        }

    def _settings_file(self, settings: Mapping[str, Any]) -> Path:
        kind = "cifar" if settings is self.scale.cifar else "photos"
        name = f"{self.scale.name}-{kind}-{digest([self.scale.preset, dict(settings)])}.toml"
        return self._out / SETTINGS / name

    def _base(self, spec: RunSpec) -> Mapping[str, Any]:
        return self.scale.cifar if spec.data == "cifar" else self.scale.settings

    def run_job(self, spec: RunSpec) -> Job:
        """Return the ``fit`` of a run."""
        name = f"{spec.name}-s{spec.seed}-{self._digest(spec)}"
        folder = self._out / RUNS / name
        words = ["fit", self._data[spec.data].location, "--out", str(folder)]
        words += ["--config", str(self._settings_file(self._base(spec)))]
        words += ["--seed", str(spec.seed)]
        needs: tuple[str, ...] = ()
        if spec.warm_start is not None:
            before = self.run_job(spec.warm_start)
            needs = (before.name,)
            words += ["--warm-start", str(before.proof[0])]
        for setting, value in spec.settings.items():
            words += ["--set", f"{setting}={_toml(value)}"]
        return Job(
            name=name,
            arguments=tuple(words),
            result=self._out / RUNS / f"{name}.json",
            proof=(folder / checkpoints.LAST,),
            needs=needs,
            optional=spec.optional,
        )

    def evaluation_job(self, spec: EvaluationSpec) -> Job:
        """Return the ``evaluate`` of several networks."""
        before = [self.run_job(run) for run in spec.runs]
        data = self._data[spec.runs[0].data].location
        words = ["evaluate", *(str(job.proof[0]) for job in before), data]
        words += ["--views", str(spec.views)]
        if (device := self._base(spec.runs[0]).get("device", "auto")) != "auto":
            words += ["--device", str(device)]
        name = f"{spec.name}-{spec.views}-{digest([job.name for job in before])}"
        return Job(
            name=name,
            arguments=tuple(words),
            result=self._out / EVALUATIONS / f"{name}.json",
            proof=(),
            needs=tuple(job.name for job in before),
        )

    def finished_run(self, spec: RunSpec, job: Job) -> FinishedRun:
        """Return a run that has finished."""
        return FinishedRun(
            spec=spec,
            folder=job.proof[0].parent,
            command=job.command,
            dataset=self._data[spec.data].location,
        )

    def _digest(self, spec: RunSpec) -> str:
        before = None if spec.warm_start is None else self._digest(spec.warm_start)
        value = {
            "dataset": self._data[spec.data].fingerprint,
            "preset": self.scale.preset,
            "settings": {**self._base(spec), **spec.settings},
            "seed": spec.seed,
            "warm_start": before,
        }
        return digest(value)


def dotted(nested: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Return nested settings with dotted names."""
    found: dict[str, Any] = {}
    for name, value in nested.items():
        if isinstance(value, Mapping):
            found.update(dotted(value, f"{above}{name}."))
        else:
            found[f"{above}{name}"] = value
    return found


def _with_ancestors(spec: RunSpec) -> Sequence[RunSpec]:
    """Return the run after those that it needs."""
    before = () if spec.warm_start is None else _with_ancestors(spec.warm_start)
    return (*before, spec)


def digest(value: object) -> str:
    """Return the beginning of the SHA-256 of a JSON value, for the name of a folder or file."""
    text = json.dumps(value, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_DIGITS]


def _toml(value: object) -> str:
    """Write a setting as ``--set`` reads it."""
    if value is None:
        return "none"
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple):
        return json.dumps(list(value))
    return json.dumps(value)


def _nested(dotted: Mapping[str, Any]) -> dict[str, Any]:
    """Return dotted settings as the sections of a TOML file, which has no null."""
    nested: dict[str, Any] = {}
    for name, value in dotted.items():
        for part in reversed(name.split(".")):
            value = {part: "none" if value is None else value}
        nested = merge(nested, value)
    return nested
