"""Tables 1 and 2, and ten views against one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from imgprep.pages.page import Table
from imgprep.wording import counted
from train.paper.ablation import (
    BASELINE,
    baseline,
    comparison_json,
    comparison_table,
    last_error,
    verdict_of,
)
from train.paper.item import (
    EvaluationSpec,
    Finished,
    Item,
    ItemResult,
    RunSpec,
    Scale,
    Verdict,
    seeds_of,
)
from train.paper.statistics import compare, compare_pairs
from train.run.error_text import has_top5, per_cent

ENSEMBLE = 5
"""Networks that are averaged (table 2)."""
PRETRAINED = 2
"""Networks with a sixth convolution (table 2)."""


def _ensemble(scale: Scale, seeds: int) -> list[RunSpec]:
    return seeds_of(baseline, max(seeds, ENSEMBLE))


def _ten_views(scale: Scale, seeds: int) -> list[EvaluationSpec]:
    return [EvaluationSpec(name="baselines", runs=tuple(_ensemble(scale, seeds)), views=10)]


def _each(finished: Finished, name: str) -> list[Mapping[str, Any]]:
    """Return what ten views of each network of an evaluation gave."""
    return list(finished.evaluations[name, 10]["each"])


def _views(finished: Finished) -> ItemResult:
    one = [last_error(run) for run in finished.of(BASELINE)]
    ten = [float(each["top1_error"]) for each in _each(finished, "baselines")]
    found = compare_pairs(one, ten)
    return ItemResult(
        verdict=verdict_of(found, change="with one view instead of ten", worse=True),
        tables=[comparison_table({"one view": found.changed, "ten views": found.baseline})],
        remarks=["The same networks with one view and with ten, so the test is a paired one."],
        numbers=comparison_json(found),
    )


def _table_1(finished: Finished) -> ItemResult:
    ten = _each(finished, "baselines")
    one = [run.validations()[-1] for run in finished.of(BASELINE)]
    classes = finished.of(BASELINE)[0].checkpoint().classes
    rows = [
        _row("one view, centre", one, classes),
        _row("ten views", ten, classes),
        ["one view, centre: the paper", "39.0 %", "18.3 %"],
        ["ten views: the paper", "37.5 %", "17.0 %"],
    ]
    chance = 1 - 1 / classes
    mean = sum(float(each["top1_error"]) for each in ten) / len(ten)
    return ItemResult(
        verdict=Verdict(
            decision="shown",
            text=f"Top-1 error {per_cent(mean, 1)} with ten views, mean of "
            f"{counted(len(ten), 'seed')}; {per_cent(chance, 1)} by chance. The paper's number is "
            "for 1000 classes of ILSVRC-2010.",
        ),
        tables=[_errors_table(rows, "Errors of one network, mean over the seeds")],
        numbers={
            "ten_views": [float(each["top1_error"]) for each in ten],
            "one_view": [float(each["top1_error"]) for each in one],
            "chance": chance,
        },
    )


def _part(seed: int) -> RunSpec:
    return RunSpec(name="some-classes", seed=seed, data="some-classes")


def _pretrained(seed: int) -> RunSpec:
    return RunSpec(name="conv6-all", settings={"net.architecture": "conv6"}, seed=seed)


def _fine_tuned(seed: int) -> RunSpec:
    return RunSpec(
        name="conv6-tuned",
        settings={"net.architecture": "conv6"},
        seed=seed,
        data="some-classes",
        warm_start=_pretrained(seed),
    )


def _table_2_runs(scale: Scale, seeds: int) -> list[RunSpec]:
    return [*seeds_of(_part, ENSEMBLE), *seeds_of(_fine_tuned, PRETRAINED)]


def _table_2_evaluations(scale: Scale, seeds: int) -> list[EvaluationSpec]:
    five, two = tuple(seeds_of(_part, ENSEMBLE)), tuple(seeds_of(_fine_tuned, PRETRAINED))
    return [
        EvaluationSpec(name="five-nets", runs=five, views=10),
        EvaluationSpec(name="seven-nets", runs=(*five, *two), views=10),
    ]


def _table_2(finished: Finished) -> ItemResult:
    classes = finished.of("some-classes")[0].checkpoint().classes
    each = _each(finished, "seven-nets")
    one, tuned = each[:ENSEMBLE], each[ENSEMBLE:]
    five = finished.evaluations["five-nets", 10]
    seven = finished.evaluations["seven-nets", 10]
    rows = [
        _row("1 CNN", one, classes),
        _row("5 CNNs", [five], classes),
        _row("1 CNN*", tuned, classes),
        _row("7 CNNs*", [seven], classes),
    ]
    single = [float(each["top1_error"]) for each in one]
    found = compare([float(each["top1_error"]) for each in tuned], single)
    best = min(single)
    averaged = float(five["top1_error"])
    below = averaged < best
    verdict = verdict_of(
        found, change="after pre-training on all classes, with a sixth convolution", worse=False
    )
    return ItemResult(
        verdict=Verdict(
            decision=verdict.decision,
            text=f"{verdict.text} Five networks averaged: {per_cent(averaged, 1)}, "
            f"{'below' if below else 'not below'} the best of them ({per_cent(best, 1)}).",
        ),
        tables=[
            _errors_table(rows, "Errors on some of the classes, ten views"),
            Table(
                head=["model", "top-1 (val)", "top-5 (val)", "top-5 (test)"],
                rows=[
                    ["1 CNN", "40.7 %", "18.2 %", "-"],
                    ["5 CNNs", "38.1 %", "16.4 %", "16.4 %"],
                    ["1 CNN*", "39.0 %", "16.6 %", "-"],
                    ["7 CNNs*", "36.7 %", "15.4 %", "15.3 %"],
                ],
                caption="The paper's table 2",
            ),
        ],
        remarks=[
            f"All networks are measured on {counted(classes, 'class', 'classes')}: every other one "
            "of the dataset. A star marks networks that were first trained on all classes, in "
            "place of the Fall 2011 release, and then on these."
        ],
        numbers={
            "one": single,
            "five": averaged,
            "tuned": [float(each["top1_error"]) for each in tuned],
            "seven": float(seven["top1_error"]),
            "classes": classes,
            **{f"tuned_{key}": value for key, value in comparison_json(found).items()},
        },
    )


def _row(name: str, found: Sequence[Mapping[str, Any]], classes: int) -> list[str]:
    keys = ("top1_error", "top5_error") if has_top5(classes) else ("top1_error",)
    means = [per_cent(sum(float(each[key]) for each in found) / len(found)) for key in keys]
    return [f"{name} ({counted(len(found), 'network')})" if len(found) > 1 else name, *means]


def _errors_table(rows: Sequence[Sequence[str]], caption: str) -> Table:
    head = ["network", "top-1 error", "top-5 error"]
    wide = max(map(len, rows))
    filled = [[*row, *["-"] * (wide - len(row))] for row in rows]
    return Table(head=head[:wide], rows=filled, caption=caption)


TABLE_1 = Item(
    id="table1",
    title="Table 1",
    paper="On the ILSVRC-2010 test set the net has 37.5 % top-1 and 17.0 % top-5 error (6).",
    notes="0.374727 and 0.169987 with ten views, 0.390247 and 0.182953 with the centre alone "
    "(145-2010).",
    runs=_ensemble,
    evaluations=_ten_views,
    analyse=_table_1,
)
TABLE_2 = Item(
    id="table2",
    title="Table 2",
    paper="One net has 40.7 and 18.2 % error on the ILSVRC-2012 validation set, five averaged 38.1 "
    "and 16.4 %; one that was pre-trained on the Fall 2011 release with a sixth convolution and "
    "fine-tuned 39.0 and 16.6 %, two of them and the five averaged 36.7 and 15.4 % (6).",
    notes="0.406640 and 0.182100 for one net (145), 0.389900 and 0.166220 for the pre-trained one "
    "(146-2012-2011).",
    runs=_table_2_runs,
    evaluations=_table_2_evaluations,
    analyse=_table_2,
)
VIEWS = Item(
    id="views",
    title="Ten views against one",
    paper="Without the average over ten views the errors are 39.0 and 18.3 % instead of 37.5 and "
    "17.0 % (footnote 5).",
    notes="0.390247 and 0.182953 against 0.374727 and 0.169987 (145-2010).",
    runs=_ensemble,
    evaluations=_ten_views,
    analyse=_views,
)
