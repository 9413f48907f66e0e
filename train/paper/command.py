"""``imgprep-train paper`` from beginning to end: datasets, runs, analyses, page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from imgprep import __version__
from imgprep.errors import ImgprepError
from imgprep.pages.page import write_page
from imgprep.storage.local import LocalStore
from imgprep.wording import counted
from train.errors import ConfigError, TrainError
from train.feed.dataset import TrainingSet
from train.paper.files import write_new
from train.paper.item import DataName, Finished, FinishedRun, Item, ItemResult, ScaleName, Verdict
from train.paper.items import ITEMS
from train.paper.machine import Machine, find_machine
from train.paper.page import paper_page, summary_line, write_markdown
from train.paper.plan import Plan, Planner
from train.paper.prepare import Preparation, Sources
from train.paper.results import SCHEMA, Command, Dataset, MadeItem, Results, write_results
from train.paper.runner import Failure, Runner
from train.paper.scales import scale_of

PAGE, MARKDOWN, RESULTS = "paper.html", "paper.md", "results.json"
LOCK = ".lock"
Line = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperRequest:
    """What the command line asks for."""

    sources: Sources
    out: Path
    scale: ScaleName = "small"
    only: tuple[str, ...] = ()
    """Ids of items, or the beginning of several; empty: all."""
    seeds: int | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Dotted settings of every run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """Everything that is known before the first run."""

    request: PaperRequest
    data: TrainingSet
    items: Sequence[Item]
    seeds: int
    planner: Planner
    plan: Plan
    builds: Sequence[str]
    machine: Machine


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperOutcome:
    """What was made."""

    results: Results
    failures: Sequence[Failure]
    page: Path

    def render(self) -> str:
        """For people."""
        return f"{summary_line(self.results)}\npage: {self.page}"

    def check(self) -> None:
        """Raise TrainError if a command failed; the page shows the others."""
        if self.failures:
            first = self.failures[0]
            raise TrainError(
                f"{len(self.failures)} of {counted(len(self.results.commands), 'command')} failed; "
                f"the first, {first.job.name}: {first.reason}. The same command tries them again"
            )


def choose_items(only: Sequence[str], items: Sequence[Item] = ITEMS) -> list[Item]:
    """Return the items whose id is named, or begins with a name and a hyphen; all, if none is.

    Raises:
        ConfigError: a name fits no item.
    """
    for name in only:
        if not any(_named(item, name) for item in items):
            ids = ", ".join(item.id for item in items)
            raise ConfigError(f"unknown item {name!r:.80}: --only takes some of {ids}")
    return [item for item in items if not only or any(_named(item, name) for name in only)]


def prepare(request: PaperRequest, line: Line) -> Prepared:
    """Make the datasets and the plan; trains nothing.

    Raises:
        ConfigError: an item is unknown, or the folder holds the runs of another dataset.
        DataError, FormatError: the dataset cannot be used.
        TrainError: a dataset could not be made.
    """
    items = choose_items(request.only)
    preparation = Preparation(request.out, request.sources, line)
    data = preparation.check()
    size = partial(scale_of, request.scale, overrides=request.overrides)
    scale = size(train_images=data.records("train"))
    seeds = request.seeds or scale.seeds
    names: set[DataName] = set()
    for item in items:
        names |= {spec.data for spec in item.runs(scale, seeds)}
        names |= {s.data for each in item.evaluations(scale, seeds) for s in each.runs}
    made = preparation.make(data, scale, names)
    scale = size(train_images=made["photos"].train_images)
    planner = Planner(request.out, scale, made)
    for path, content in planner.settings_files().items():
        write_new(path, content)
    return Prepared(
        request=request,
        data=data,
        items=items,
        seeds=seeds,
        planner=planner,
        plan=planner.plan(items, seeds),
        builds=preparation.commands,
        machine=find_machine(scale),
    )


def make_paper(prepared: Prepared, line: Line) -> PaperOutcome:
    """Run everything that has not been run, and write the page.

    Raises:
        RunStoppedError: SIGTERM or Ctrl-C; the same command resumes.
        BusyError: another process works in the folder.
        DestinationError: the folder cannot be written.
    """
    out = prepared.request.out
    with LocalStore(out).hold(LOCK, "another process makes the paper in this folder"):
        runner = Runner(out, prepared.machine, line)
        runner.run(prepared.plan.jobs)
        results = _results(prepared, runner.failures, line)
        page = out / PAGE
        write_page(page, paper_page(results))
        write_markdown(results, out / MARKDOWN)
        write_results(results, out / RESULTS)
    failures = [each for each in runner.failures.values() if not each.job.optional]
    return PaperOutcome(results=results, failures=failures, page=page)


def _results(prepared: Prepared, failures: Mapping[str, Failure], line: Line) -> Results:
    finished = _finished(prepared)
    made = [_make(item, prepared, finished, failures, line) for item in prepared.items]
    commands = [Command(name="dataset", command=each, seconds=None) for each in prepared.builds]
    for job in prepared.plan.jobs:
        failure = failures.get(job.name)
        seconds = None if failure is not None else float(job.read()["seconds"])
        reason = None if failure is None else failure.reason
        commands.append(
            Command(name=job.name, command=job.command, seconds=seconds, failure=reason)
        )
    data, cifar = prepared.data, prepared.request.sources.cifar
    return Results(
        schema=SCHEMA,
        version=__version__,
        scale=prepared.request.scale,
        seeds=prepared.seeds,
        dataset=Dataset(
            location=data.location,
            fingerprint=data.fingerprint,
            classes=data.classes,
            train_images=data.records("train"),
            val_images=data.records("val"),
            used=asdict(prepared.planner.data("photos")),
        ),
        cifar=None if cifar is None else str(cifar),
        machine=prepared.machine.description,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=sum(each.seconds or 0.0 for each in commands),
        side_by_side=prepared.machine.side_by_side,
        items=made,
        commands=commands,
    )


def _finished(prepared: Prepared) -> Finished:
    runs: dict[str, list[FinishedRun]] = {}
    for spec, job in prepared.plan.runs.values():
        if job.done:
            runs.setdefault(spec.name, []).append(prepared.planner.finished_run(spec, job))
    evaluations = {
        (spec.name, spec.views): job.read()["output"]
        for spec, job in prepared.plan.evaluations.values()
        if job.done
    }
    return Finished(
        scale=prepared.planner.scale,
        seeds=prepared.seeds,
        dataset=prepared.planner.data("photos").location,
        runs={name: sorted(group, key=lambda run: run.spec.seed) for name, group in runs.items()},
        evaluations=evaluations,
    )


def _make(
    item: Item,
    prepared: Prepared,
    finished: Finished,
    failures: Mapping[str, Failure],
    line: Line,
) -> MadeItem:
    """Analyse an item, unless a group of its runs is missing altogether."""
    scale, seeds = prepared.planner.scale, prepared.seeds
    wanted = list(item.evaluations(scale, seeds))
    specs = [*item.runs(scale, seeds), *(spec for each in wanted for spec in each.runs)]
    jobs = [prepared.planner.run_job(spec) for spec in specs]
    jobs += [prepared.planner.evaluation_job(each) for each in wanted]
    names = list(dict.fromkeys(job.name for job in jobs))
    needed = {spec.name: None for spec in specs if not spec.optional}
    missing = [name for name in needed if not finished.of(name)]
    lost = [
        failures[name] for name in names if name in failures and not failures[name].job.optional
    ]
    if missing or any(failure.job.arguments[0] == "evaluate" for failure in lost):
        reason = lost[0].reason if lost else f"no run called {missing[0]}"
        result = _not_made(f"{lost[0].job.name if lost else missing[0]} failed: {reason}")
    else:
        line(f"analysing {item.id}")
        try:
            result = item.analyse(finished)
        except ImgprepError as exc:
            result = _not_made(str(exc))
    return MadeItem(item=item, result=result, runs=names)


def _not_made(reason: str) -> ItemResult:
    return ItemResult(verdict=Verdict(decision="not made", text=reason))


def _named(item: Item, name: str) -> bool:
    return item.id == name or item.id.startswith(f"{name}-")
