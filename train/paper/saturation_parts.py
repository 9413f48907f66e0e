"""Saturation and gradients by layer, as charts and a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from imgprep.pages.charts import colours, svg
from imgprep.pages.page import Charts, Table
from imgprep.wording import counted
from train.paper.saturation import NetState
from train.run.error_text import per_cent

WIDTH_PX, HEIGHT_PX = 250, 150
DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3])


def saturation_charts(states: Sequence[NetState]) -> Charts:
    """Draw saturation and gradients by layer, of nets after the same number of updates."""
    return Charts(
        items=[
            _chart(states, "saturated", "share of saturated values", {"domain": [0, 1]}, ".0%"),
            _chart(states, "gradient", "gradient / weights (norms)", {"type": "log"}, ".0e"),
        ],
        caption=f"{_when(states[0].updates).capitalize()}: the share of values whose activation is "
        "nearly flat, and the norm of the gradient of each layer's weights, in units of the norm "
        "of the weights",
    )


def _when(updates: int) -> str:
    return "initial weights" if updates == 0 else f"after {counted(updates, 'update')}"


def _chart(
    states: Sequence[NetState], measure: str, title: str, scale: dict[str, Any], number: str
) -> str:
    points = [
        {"net": state.activation, "layer": layer.layer, "value": value}
        for state in states
        for layer in state.layers
        for value in [layer.saturated if measure == "saturated" else layer.relative_gradient]
        if value is not None and (value > 0 or "type" not in scale)
    ]
    names = [state.activation for state in states]
    layers = [layer.layer for layer in states[0].layers]
    when = _when(states[0].updates)
    series = {"field": "net", "type": "nominal", "sort": names, "title": None}
    legend = {"orient": "bottom", "columns": 2, "symbolType": "stroke", "symbolSize": 300}
    spec = {
        "title": when,
        "width": WIDTH_PX,
        "height": HEIGHT_PX,
        "data": {"values": points},
        "mark": {"type": "line", "strokeWidth": 2, "point": {"size": 30}},
        "encoding": {
            "x": {
                "field": "layer",
                "type": "ordinal",
                "sort": layers,
                "scale": {"domain": layers},
                "title": None,
                "axis": {"labelAngle": -45},
            },
            "y": {
                "field": "value",
                "type": "quantitative",
                "title": title,
                "scale": scale,
                "axis": {"format": number, "tickCount": 5},
            },
            "color": {**series, "scale": colours(names), "legend": legend},
            "strokeDash": {
                **series,
                "scale": {"domain": names, "range": DASHES[: len(names)]},
                "legend": legend,
            },
        },
    }
    said = "; ".join(
        f"{name}: "
        + ", ".join(f"{p['layer']} {p['value']:.2g}" for p in points if p["net"] == name)
        for name in names
    )
    return svg(
        spec,
        name=f"appendix-saturation-{measure}-{states[0].updates}",
        label=f"Line chart: {title} by layer, {when}",
        description=f"{said}.",
    )


def saturation_table(states: Sequence[NetState]) -> Table:
    """Tabulate all measures, of nets after the same number of updates."""

    def share(value: float | None) -> str:
        return "" if value is None else per_cent(value)

    rows = [
        [
            f"{state.activation} {layer.layer}",
            share(layer.saturated),
            share(layer.dead),
            share(layer.slope),
            f"{layer.gradient_norm:.2e}",
            f"{layer.relative_gradient:.2e}",
        ]
        for state in states
        for layer in state.layers
    ]
    head = ["net and layer", "saturated", "dead", "mean slope", "gradient", "gradient / weights"]
    return Table(
        head=head,
        rows=rows,
        caption=f"{_when(states[0].updates).capitalize()}, for "
        f"{counted(states[0].photographs, 'photograph')}. Dead: "
        "channels or units saturated everywhere in every photograph. Mean slope: of the steepest.",
    )
