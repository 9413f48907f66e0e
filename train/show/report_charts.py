"""The charts of a run's page, in the Vega-Lite language, with the words that describe them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from imgprep.pages import charts
from train.show.confusion import Confusion
from train.show.figures import curve_panels

NAMES = ("loss", "error", "rate")
LABELS = ("Loss over updates", "Error over updates", "Learning rate over updates")
WIDTH_PX = 440
"""Of a learning curve: small enough to be read on a phone."""
CELL_PX = 34
OPACITY_MOST = 0.55
"""A full cell is no stronger than this, so that its number stays readable on it."""
OTHERS = "any other"


def curve_charts(folder: Path) -> list[tuple[str, str]]:
    """Title and SVG of each chart of the learning curves that has data."""
    found = []
    for name, label, panel in zip(NAMES, LABELS, curve_panels(folder), strict=True):
        points = panel["data"]["values"]
        if points:
            narrow = {**panel, "width": WIDTH_PX}
            svg = charts.svg(narrow, name=name, label=label, description=_ends(points))
            found.append((label, svg))
    return found


def _ends(points: Sequence[dict[str, Any]]) -> str:
    """Where each curve begins and ends."""
    curves: dict[str, list[dict[str, Any]]] = {}
    for point in points:
        curves.setdefault(point["curve"], []).append(point)
    return " ".join(
        f"{name}: {each[0]['value']:.4g} at update {each[0]['step']:,.0f}, "
        f"{each[-1]['value']:.4g} at update {each[-1]['step']:,.0f}."
        for name, each in curves.items()
    )


def confusion_chart(confusion: Confusion, labels: Sequence[int], names: Sequence[str]) -> str:
    """The classes in ``labels`` by what they were taken for; all ``names`` must differ."""
    table = confusion.among(labels)
    columns = [names[label] for label in labels]
    if table[:, -1].any():
        columns.append(OTHERS)
    cells = [
        {
            "class": names[label],
            "taken": column,
            "images": int(table[k, m]),
            "share": int(table[k, m]) / max(1, int(table[k].sum())),
            "right": k == m,
        }
        for k, label in enumerate(labels)
        for m, column in enumerate(columns)
    ]
    x = {"field": "taken", "type": "nominal", "sort": columns, "title": "taken for"}
    # Without a title: a browser's letters may be wider than measured, and reach into it.
    y = {"field": "class", "type": "nominal", "sort": columns, "title": None}
    spec = {
        "width": {"step": CELL_PX},
        "height": {"step": CELL_PX},
        "data": {"values": cells},
        "encoding": {
            "x": {**x, "axis": {"orient": "top", "labelAngle": -45, "labelLimit": 120}},
            "y": {**y, "axis": {"labelLimit": 150}},
        },
        "layer": [
            {
                "mark": {"type": "rect", "color": charts.SERIES[0]},
                "encoding": {
                    "opacity": {
                        "field": "share",
                        "type": "quantitative",
                        "scale": {"domain": [0, 1], "range": [0, OPACITY_MOST]},
                        "legend": None,
                    }
                },
            },
            {
                "transform": [{"filter": "datum.right"}],
                "mark": {"type": "rect", "filled": False, "stroke": "currentColor"},
            },
            {
                "transform": [{"filter": "datum.images > 0"}],
                "mark": {"type": "text", "color": "currentColor"},
                "encoding": {"text": {"field": "images", "type": "quantitative"}},
            },
        ],
    }
    return charts.svg(
        spec,
        name="confusion",
        label="What photographs of these classes were taken for",
        description=_mistakes(confusion, names),
    )


def _mistakes(confusion: Confusion, names: Sequence[str]) -> str:
    said = "; ".join(
        f"{names[p.true]} for {names[p.taken_for]}: {p.images} of {p.of}"
        for p in confusion.pairs(3)
    )
    return f"The most frequent mistakes: {said or 'none'}. The table below lists more."
