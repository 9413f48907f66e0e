"""Figure 3: the filters of the first layer, and whether the columns specialise."""

from __future__ import annotations

from train.net.init import initial_state
from train.net.layout import net_layout
from train.paper.ablation import BASELINE, baseline
from train.paper.filters import RunFilters, Specialisation, run_filters, specialisation
from train.paper.filters_parts import filters_grid, measures_charts, measures_table
from train.paper.item import (
    Decision,
    Figure,
    Finished,
    FinishedRun,
    Item,
    ItemResult,
    RunSpec,
    Scale,
    Verdict,
    seeds_of,
)
from train.settings import from_json

DECISIONS: dict[bool | None, Decision] = {
    True: "reproduced",
    False: "not reproduced",
    None: "not decidable at this scale",
}


def _runs(scale: Scale, seeds: int) -> list[RunSpec]:
    return seeds_of(baseline, seeds)


def filters_of(run: FinishedRun) -> RunFilters:
    """Measure the filters that a run ended with.

    Raises:
        CheckpointError: its checkpoint is missing or damaged.
    """
    saved = run.checkpoint()
    config = from_json(saved.config)
    layout = net_layout(config.net, classes=saved.classes, image_px=config.input.crop_px)
    start = initial_state(layout, config.net, seed=config.seed)
    return run_filters(f"seed {config.seed}", saved.model, start, layout)


def _analyse(finished: Finished) -> ItemResult:
    found = specialisation([filters_of(run) for run in finished.of(BASELINE)])
    return fig3_result(found)


def fig3_result(found: Specialisation) -> ItemResult:
    """Lay out the measured filters."""
    grid, charts = filters_grid(found), measures_charts(found)
    table = measures_table(found.runs)
    return ItemResult(
        verdict=Verdict(decision=DECISIONS[found.appears], text=found.verdict()),
        figures=[
            Figure(part=grid, caption=grid.caption, table=None),
            Figure(part=charts, caption=charts.caption, table=table),
        ],
        remarks=[
            "Colour is the share of a filter's energy that is not the same in R, G and B. "
            "Orientation is the coherence of its structure tensor. Chance decides which column "
            "gets the colours."
        ],
        numbers=found.to_json(),
    )


ITEM = Item(
    id="fig3",
    title="Figure 3: filters of the first layer",
    paper="The filters of one GPU mostly ignore colour, those of the other are mostly about "
    "colour; this happens in every run, whatever the initial weights (6.1).",
    notes="",
    runs=_runs,
    analyse=_analyse,
)
