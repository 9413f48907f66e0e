"""How fast the first epochs are with initial biases of 1."""

from __future__ import annotations

from collections.abc import Sequence
from math import log

from imgprep.pages.page import Table
from imgprep.wording import counted
from train.paper.ablation import (
    BASELINE,
    baseline,
    comparison_json,
    comparison_table,
    last_error,
    no_test,
)
from train.paper.curve import span_means, spans_to
from train.paper.item import Finished, FinishedRun, Item, ItemResult, RunSpec, Verdict, seeds_of
from train.paper.statistics import Summary, compare

SPANS = 20
"""Spans of a run over each of which the loss is averaged."""
BELOW_CHANCE = 0.1
"""The beginning has ended when the loss is this part below that of equal probabilities."""
NAME = "biases-0"


def _zero_biases(seed: int) -> RunSpec:
    return RunSpec(name=NAME, settings={"net.init_bias": 0}, seed=seed)


def losses_of_spans(run: FinishedRun) -> tuple[tuple[float, ...], int]:
    """Return the mean training loss of each twentieth of the run, and the updates in one."""
    rows = [(int(row["global_step"]), float(row["loss"])) for row in run.updates()]
    updates = max(1, rows[-1][0] // SPANS)
    return span_means(rows, updates), updates


def common_loss(losses: Sequence[Sequence[float]], classes: int) -> float:
    """Return a loss a tenth below chance, or the lowest one that every run reaches."""
    return max([(1 - BELOW_CHANCE) * log(classes), *map(min, losses)])


def _analyse(finished: Finished) -> ItemResult:
    groups = {1: finished.of(BASELINE), 0: finished.of(NAME)}
    curves = {bias: [losses_of_spans(run) for run in runs] for bias, runs in groups.items()}
    classes = groups[1][0].checkpoint().classes
    level = common_loss([means for group in curves.values() for means, _ in group], classes)
    updates = {  # the level is one that every run reaches
        bias: [(spans_to(means, level) or len(means)) * size for means, size in group]
        for bias, group in curves.items()
    }
    found = compare(updates[0], updates[1])
    reason = no_test(found) if found.p is None else f"p {found.p:.3f}"
    groups_of_errors = {
        f"biases of {bias}": Summary(values=tuple(last_error(run) for run in runs))
        for bias, runs in groups.items()
    }
    return ItemResult(
        verdict=Verdict(
            decision=found.decision(1),
            text=f"The training loss is {level:.2f} after {found.baseline.mean:.0f} updates with "
            f"biases of 1, and after {found.changed.mean:.0f} with biases of 0 ({reason}; "
            f"{counted(len(updates[0]), 'seed')}).",
        ),
        tables=[
            _table(level, {1: found.baseline, 0: found.changed}),
            comparison_table(groups_of_errors),
        ],
        remarks=[
            f"Equal probabilities for all {classes} classes have a loss of {log(classes):.2f}. "
            "Nets with biases of 1 begin above it, because their outputs are larger, so the losses "
            "of the first updates cannot be compared; how long they take to come down can."
        ],
        numbers={"level": level, **comparison_json(found)},
    )


def _table(level: float, groups: dict[int, Summary]) -> Table:
    return Table(
        head=["runs", "updates, mean", "sd", "seeds", "each seed"],
        rows=[
            [
                f"biases of {bias}",
                f"{group.mean:.0f}",
                "-" if group.sd is None else f"{group.sd:.0f}",
                str(len(group.values)),
                ", ".join(f"{value:.0f}" for value in group.values),
            ]
            for bias, group in groups.items()
        ],
        caption="Updates until the training loss, averaged over twentieths of a run, is "
        f"{level:.2f}",
    )


BIASES = Item(
    id="biases",
    title="Initial biases of 1",
    paper="Biases of 1 in conv2, 4, 5 and the fully connected layers accelerate the beginning, "
    "because the ReLUs get positive inputs (5).",
    notes="",
    runs=lambda scale, seeds: [*seeds_of(baseline, seeds), *seeds_of(_zero_biases, seeds)],
    analyse=_analyse,
)
