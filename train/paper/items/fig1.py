"""Figure 1: how fast a four-layer net learns with each activation, at its best learning rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from imgprep.pages import charts
from imgprep.pages.page import Chart, Table
from imgprep.wording import counted
from train.errors import DataError
from train.paper.ablation import no_test
from train.paper.curve import span_means, spans_to
from train.paper.item import (
    Figure,
    Finished,
    FinishedRun,
    Item,
    ItemResult,
    RunSpec,
    Scale,
    Verdict,
)
from train.paper.statistics import Comparison, compare
from train.run.error_text import per_cent

LEVEL = 0.25
"""The training error of the paper's figure."""
RATES = (0.0003, 0.001, 0.003, 0.01)
COMPARED = ("relu", "tanh")
BESIDE = ("sigmoid", "leaky-relu")
"""Activations that the paper does not show: one seed."""
CHART_PX = (440, 240)


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """Training error of one run by epoch: the mean over each epoch, with its updates."""

    activation: str
    rate: float
    seed: int
    errors: tuple[float, ...]

    def epochs_to(self, level: float) -> float | None:
        """Return the epochs until the error is at most ``level``, by linear interpolation between
        epochs; None if it never is."""
        return spans_to(self.errors, level)


def training_errors(run: FinishedRun) -> tuple[float, ...]:
    """Return the mean top-1 training error of each epoch, from the log."""
    last = run.validations()[-1]
    steps = int(last["global_step"]) // int(last["epoch"])
    return span_means(
        [(int(row["global_step"]), float(row["top1_error"])) for row in run.updates()], steps
    )


def _name(activation: str, rate: float) -> str:
    return f"cifar-{activation}-{rate:g}".replace(".", "-")


def _spec(activation: str, rate: float, seed: int) -> RunSpec:
    return RunSpec(
        name=_name(activation, rate),
        settings={"net.activation": activation, "optim.lr": rate},
        seed=seed,
        data="cifar",
        optional=True,
    )


def _runs(scale: Scale, seeds: int) -> list[RunSpec]:
    return [
        _spec(activation, rate, seed)
        for activation in (*COMPARED, *BESIDE)
        for rate in RATES
        for seed in range(seeds if activation in COMPARED else 1)
    ]


def _best(curves: Sequence[Curve], level: float) -> list[Curve]:
    """Return, for each seed, the curve of the rate that reaches ``level`` first; if none does, of
    the rate that ends lowest."""
    by_seed: dict[int, list[Curve]] = {}
    for curve in curves:
        by_seed.setdefault(curve.seed, []).append(curve)

    def cost(curve: Curve) -> tuple[float, float]:
        epochs = curve.epochs_to(level)
        return (float("inf") if epochs is None else epochs, min(curve.errors))

    return [min(group, key=cost) for _, group in sorted(by_seed.items())]


def common_level(curves: Sequence[Sequence[Curve]]) -> float:
    """Return 25 %, or the lowest error that every group of curves reaches with every seed."""
    lowest = [
        min(min(curve.errors) for curve in group if curve.seed == seed)
        for group in curves
        for seed in {curve.seed for curve in group}
    ]
    return max([LEVEL, *lowest])


def _analyse(finished: Finished) -> ItemResult:
    curves = {
        activation: [
            Curve(
                activation=activation,
                rate=rate,
                seed=run.spec.seed,
                errors=training_errors(run),
            )
            for rate in RATES
            for run in finished.of(_name(activation, rate))
        ]
        for activation in (*COMPARED, *BESIDE)
    }
    curves = {name: group for name, group in curves.items() if group}
    for name in COMPARED:
        if name not in curves:
            raise DataError(f"every run with {name} failed: {', '.join(map(str, RATES))}")
    level = common_level([curves[activation] for activation in COMPARED])
    best = {activation: _best(group, level) for activation, group in curves.items()}
    epochs = {
        activation: [curve.epochs_to(level) for curve in group]
        for activation, group in best.items()
    }
    relu, tanh = ([each for each in epochs[name] if each is not None] for name in COMPARED)
    found = compare(tanh, relu)
    return ItemResult(
        verdict=_verdict(found, level),
        figures=[_figure(best, level)],
        tables=[_table(best, level)],
        remarks=[
            "Each activation at the best of the rates "
            f"{', '.join(f'{rate:g}' for rate in RATES)}, chosen for each seed; no regularisation. "
            "The training error is the mean over an epoch, while the weights change. A run whose "
            "rate is too high fails and is left out.",
            *_edges(best),
        ],
        numbers={
            "level": level,
            "epochs": epochs,
            "ratio": found.changed.mean / found.baseline.mean,
            "p": found.p,
        },
    )


def _edges(best: dict[str, list[Curve]]) -> list[str]:
    """Say where the best rate is the lowest or highest that was tried."""
    ends = {RATES[0], RATES[-1]}
    names = [name for name, group in best.items() if any(curve.rate in ends for curve in group)]
    if not names:
        return []
    return [
        f"At the edge of the search: {', '.join(names)}. A rate beyond it may be better for at "
        "least one seed."
    ]


def _verdict(found: Comparison, level: float) -> Verdict:
    ratio = found.changed.mean / found.baseline.mean
    reason = no_test(found) if found.p is None else f"p {found.p:.3f}"
    lower = "" if level == LEVEL else f", as not every run came down to {per_cent(LEVEL, 0)}"
    return Verdict(
        decision=found.decision(1),
        text=f"ReLU needs {found.baseline.mean:.2f} epochs to {per_cent(level, 0)} training error, "
        f"tanh {found.changed.mean:.2f}: {ratio:.1f} times as many ({reason}; "
        f"{counted(len(found.changed.values), 'seed')}{lower}).",
    )


def _figure(best: dict[str, list[Curve]], level: float) -> Figure:
    points = [
        {"activation": name, "epoch": epoch, "error": error}
        for name, group in best.items()
        for epoch, error in enumerate(_mean(group), 1)
    ]
    names = list(best)
    width, height = CHART_PX
    x = {"field": "epoch", "type": "quantitative", "title": "epochs"}
    error = {"field": "error", "type": "quantitative"}
    y = {**error, "title": "training error", "axis": {"format": "%"}}
    colour = {
        "field": "activation",
        "type": "nominal",
        "scale": charts.colours(names),
        "title": None,
        "legend": {"orient": "bottom"},
    }
    spec = {
        "width": width,
        "height": height,
        "layer": [
            {
                "data": {"values": points},
                "mark": {"type": "line", "point": True},
                "encoding": {"x": x, "y": y, "color": colour},
            },
            {
                "data": {"values": [{"error": level}]},
                "mark": {"type": "rule", "strokeDash": [4, 4], "color": "currentColor"},
                "encoding": {"y": error},
            },
        ],
    }
    caption = (
        "Training error by epoch, mean over the seeds, each activation at its best rate; the "
        f"dashed line is at {per_cent(level, 0)}"
    )
    ends = " ".join(
        f"{name} ends at {per_cent(_mean(group)[-1], 1)}." for name, group in best.items()
    )
    svg = charts.svg(spec, name="fig1", label="Training error by epoch", description=ends)
    longest = max(len(_mean(group)) for group in best.values())
    rows = [
        [
            str(epoch + 1),
            *(
                per_cent(_mean(group)[epoch], 1) if epoch < len(_mean(group)) else "-"
                for group in best.values()
            ),
        ]
        for epoch in range(longest)
    ]
    table = Table(head=["epoch", *names], rows=rows, caption="Training error")
    return Figure(part=Chart(svg=svg, caption=caption), caption=caption, table=table)


def _mean(group: Sequence[Curve]) -> list[float]:
    return [sum(each) / len(group) for each in zip(*(curve.errors for curve in group), strict=True)]


def _table(best: dict[str, list[Curve]], level: float) -> Table:
    rows = []
    for name, group in best.items():
        epochs = [curve.epochs_to(level) for curve in group]
        reached = [each for each in epochs if each is not None]
        rows.append(
            [
                name,
                f"{sum(reached) / len(reached):.2f}" if len(reached) == len(epochs) else "-",
                ", ".join("-" if each is None else f"{each:.2f}" for each in epochs),
                ", ".join(f"{curve.rate:g}" for curve in group),
                per_cent(sum(min(curve.errors) for curve in group) / len(group), 1),
            ]
        )
    head = ["activation", "mean epochs", "each seed", "best rates", "lowest error"]
    return Table(head=head, rows=rows, caption=f"Epochs to {per_cent(level, 1)} training error")


FIG_1 = Item(
    id="fig1",
    title="Figure 1: ReLU against tanh",
    paper="A four-layer net with ReLUs reaches 25 % training error on CIFAR-10 six times as fast "
    "as one with tanh, each at its best rate and without regularisation (3.1).",
    notes="",
    runs=_runs,
    analyse=_analyse,
)
