"""Charts of a run's page, as Vega-Lite specifications with accessible descriptions."""

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
"""Width of a learning curve, small enough to read on a phone."""
CELL_PX = 34
OPACITY_MOST = 0.55
"""Opacity of a full cell; low enough to keep the number on it readable."""
OTHERS = "any other"


def curve_charts(folder: Path, classes: int | None) -> list[tuple[str, str]]:
    """Return title and SVG of each learning-curve chart that has data."""
    found = []
    for name, label, panel in zip(NAMES, LABELS, curve_panels(folder, classes), strict=True):
        points = panel["data"]["values"]
        if points:
            narrow = {**panel, "width": WIDTH_PX}
            ends = _ends(points, "{:.1%}" if name == "error" else "{:.4g}")
            svg = charts.svg(narrow, name=name, label=label, description=ends)
            found.append((label, svg))
    return found


def _ends(points: Sequence[dict[str, Any]], number: str) -> str:
    """Describe where each curve begins and ends."""
    curves: dict[str, list[dict[str, Any]]] = {}
    for point in points:
        curves.setdefault(point["curve"], []).append(point)
    return " ".join(
        f"{name}: {number.format(each[0]['value'])} at update {each[0]['step']:,.0f}, "
        f"{number.format(each[-1]['value'])} at update {each[-1]['step']:,.0f}."
        for name, each in curves.items()
    )


def confusion_chart(confusion: Confusion, labels: Sequence[int], names: Sequence[str]) -> str:
    """Draw what the classes in ``labels`` were taken for; all ``names`` must differ."""
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
    # No title: labels wider than the converter measured would overlap it.
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
