"""Items that change one thing: the changed runs against the baseline, by the error at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from imgprep.pages.page import Table
from imgprep.wording import counted
from train.paper.item import Finished, FinishedRun, Item, ItemResult, RunSpec, Verdict, seeds_of
from train.paper.statistics import Comparison, Summary, compare
from train.run.error_text import per_cent

BASELINE = "baseline"


def baseline(seed: int) -> RunSpec:
    """Return the run with the settings of the scale and nothing else."""
    return RunSpec(name=BASELINE, seed=seed)


def last_error(run: FinishedRun) -> float:
    """Return the top-1 error of the last validation (centre crop), not of the best one, which would
    be chosen on the same photographs."""
    return float(run.validations()[-1]["top1_error"])


def ablation(
    *,
    id: str,
    title: str,
    paper: str,
    notes: str,
    name: str,
    settings: Mapping[str, Any],
    change: str,
    worse: bool = True,
) -> Item:
    """Declare an item that compares runs with ``settings`` with the baseline.

    ``change`` says in words what differs; ``worse``: the paper found a higher error with it.
    """

    def runs(scale: object, seeds: int) -> list[RunSpec]:
        changed = seeds_of(lambda seed: RunSpec(name=name, settings=settings, seed=seed), seeds)
        return [*seeds_of(baseline, seeds), *changed]

    def analyse(finished: Finished) -> ItemResult:
        found = compare(
            [last_error(run) for run in finished.of(name)],
            [last_error(run) for run in finished.of(BASELINE)],
        )
        return ItemResult(
            verdict=verdict_of(found, change=change, worse=worse),
            tables=[comparison_table({"baseline": found.baseline, change: found.changed})],
            numbers=comparison_json(found),
        )

    return Item(id=id, title=title, paper=paper, notes=notes, runs=runs, analyse=analyse)


def verdict_of(found: Comparison, *, change: str, worse: bool) -> Verdict:
    """Decide by the top-1 errors and say why in a sentence."""
    points = f"{100 * found.difference:+.1f} points"
    if found.p is None or found.low is None or found.high is None:
        reason = no_test(found)
    else:
        reason = f"95 % interval {100 * found.low:+.1f} to {100 * found.high:+.1f}, p {found.p:.3f}"
    seeds = counted(len(found.changed.values), "seed")
    return Verdict(
        decision=found.decision(1 if worse else -1),
        text=f"Top-1 error {change}: {points} ({reason}; {seeds}).",
    )


def no_test(found: Comparison) -> str:
    """Say why there is no p."""
    few = min(len(found.changed.values), len(found.baseline.values)) < 2
    return "too few seeds to know their spread" if few else "no spread to compare with"


def comparison_table(groups: Mapping[str, Summary], caption: str = "Top-1 error") -> Table:
    """Tabulate groups of runs: mean, spread over the seeds, and each seed."""
    rows: list[Sequence[str]] = [
        [
            name,
            per_cent(group.mean),
            "-" if group.sd is None else f"{100 * group.sd:.2f}",
            str(len(group.values)),
            ", ".join(per_cent(value, 1) for value in group.values),
        ]
        for name, group in groups.items()
    ]
    head = ["runs", "mean", "sd, points", "seeds", "each seed"]
    return Table(head=head, rows=rows, caption=f"{caption}, last validation, centre crop")


def comparison_json(found: Comparison) -> dict[str, Any]:
    """The comparison for ``results.json``; errors are fractions."""
    return {
        "baseline": list(found.baseline.values),
        "changed": list(found.changed.values),
        "difference": found.difference,
        "low": found.low,
        "high": found.high,
        "p": found.p,
    }
