"""First-layer filters and their measures as pictures, charts and a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from imgprep.pages.charts import colours, svg
from imgprep.pages.images import Picture, png
from imgprep.pages.page import Charts, Grid, Table
from imgprep.wording import counted
from train.paper.filters import ColumnFilters, RunFilters, Specialisation
from train.show.figures import filter_block

SIDE_PX = 230
SHAPES = ("circle", "triangle-up")


def filters_grid(found: Specialisation) -> Grid:
    """Show the filters of each run, a row for each column."""
    rows = [
        (f"{run.run}, column {column.column}", [_picture(run, column)])
        for run in found.runs
        for column in run.columns
    ]
    return Grid(
        columns=["filters"],
        rows=rows,
        caption="Each filter is scaled separately: grey is weight 0, its largest weight is black "
        "or white",
        compact=True,
    )


def _picture(run: RunFilters, column: ColumnFilters) -> Picture:
    side = column.filters_nchw.shape[-1]
    return png(
        filter_block(column.filters_nchw),
        alt=f"{counted(len(column.filters_nchw), 'filter')} of {side}x{side} pixels of {run.run}, "
        f"column {column.column}",
        pixelated=True,
    )


def measures_charts(found: Specialisation) -> Charts:
    """Draw orientation against colour of every filter, a chart for each run."""
    return Charts(
        items=[_scatter(run, k) for k, run in enumerate(found.runs)],
        caption="One mark for each filter. Across: orientation, 1 for straight bars. Up: colour, 0 "
        "for grey filters; noise has 0.67.",
    )


def _scatter(run: RunFilters, number: int) -> str:
    names = [f"column {column.column}" for column in run.columns]
    points: list[dict[str, Any]] = [
        {"column": name, "orientation": float(orientation), "colour": float(colour)}
        for name, column in zip(names, run.columns, strict=True)
        for orientation, colour in zip(column.orientation, column.colour, strict=True)
    ]
    scale = {"domain": [0, 1]}
    legend = {"orient": "bottom"}
    series = {"field": "column", "type": "nominal", "sort": names, "title": None, "legend": legend}
    axes = {
        axis: {"field": field, "type": "quantitative", "scale": scale, "axis": {"tickCount": 5}}
        for axis, field in (("x", "orientation"), ("y", "colour"))
    }
    spec = {
        "title": run.run,
        "width": SIDE_PX,
        "height": SIDE_PX,
        "data": {"values": points},
        "mark": {"type": "point", "filled": True, "size": 45, "opacity": 0.75},
        "encoding": {
            **axes,
            "color": {**series, "scale": colours(names)},
            "shape": {**series, "scale": {"domain": names, "range": SHAPES[: len(names)]}},
        },
    }
    said = "; ".join(
        f"{name}: mean colour {column.colour.mean():.2f}, mean orientation "
        f"{column.orientation.mean():.2f}"
        for name, column in zip(names, run.columns, strict=True)
    )
    return svg(
        spec,
        name=f"fig3-{number}",
        label=f"Scatter chart: orientation and colour of the filters of {run.run}",
        description=f"{said}.",
    )


def measures_table(runs: Sequence[RunFilters]) -> Table:
    """Tabulate the means of the measures by run and column, and the tests of their difference."""
    rows = [
        [
            f"{run.run}, column {column.column}",
            str(len(column.colour)),
            _spread(column.colour),
            _spread(column.orientation),
            f"{np.median(column.learned):.2f}",
            *("" if k or p is None else f"{p:.2g}" for p in (run.colour_p, run.orientation_p)),
        ]
        for run in runs
        for k, column in enumerate(run.columns)
    ]
    return Table(
        head=["", "filters", "colour", "orientation", "learned", "p of colour", "p of orientation"],
        rows=rows,
        caption="Mean and standard deviation over the filters; learned: median share of a filter "
        "that is not its initial noise; p: how often equal columns would differ as much "
        "(Mann-Whitney)",
    )


def _spread(values: np.ndarray[Any, np.dtype[np.float64]]) -> str:
    return f"{values.mean():.2f} ± {values.std():.2f}"
