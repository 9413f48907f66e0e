"""The charts of the statistics page, in the Vega-Lite language."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgprep.pages.charts import colours, svg
from imgprep.pages.stats_data import StatsData
from imgprep.pca import RgbPca
from imgprep.published import PUBLISHED_PCAS

COMPONENTS = ("PC1", "PC2", "PC3")
PLANES = ((0, 1), (2, 1), (0, 2))
"""Channels of each picture of the cloud: across, up."""
CHANNELS = ("red", "green", "blue")
AXIS_STDEVS = 2.0
"""Half-length of an axis drawn in the cloud, in its standard deviations."""
NAMED_CLASSES_MAX = 40
"""Up to so many classes each has a bar of its own."""
OURS = "this dataset"


def components_chart(pca: RgbPca, *, squared: bool) -> str:
    """Standard deviations, or eigenvalues, of the three components beside the published ones."""
    power = 2 if squared else 1
    known: list[tuple[str, Sequence[float]]] = [(OURS, pca.stdevs.tolist())]
    known += [(each.key, each.stdevs) for each in PUBLISHED_PCAS]
    names = [name for name, _ in known]
    bars = [
        {"component": component, "whose": name, "value": stdev**power}
        for name, stdevs in known
        for component, stdev in zip(COMPONENTS, stdevs, strict=True)
    ]
    what = "eigenvalue (variance, levels²)" if squared else "standard deviation (levels 0-255)"
    spec = {
        "width": 270,
        "height": 190,
        "data": {"values": bars},
        "encoding": {
            "x": {
                "field": "component",
                "type": "nominal",
                "title": None,
                "axis": {"labelAngle": 0},
            },
            "xOffset": {"field": "whose", "sort": names},
            "y": {"field": "value", "type": "quantitative", "title": what},
            "color": {
                "field": "whose",
                "scale": colours(names),
                "title": None,
                "legend": {"orient": "bottom"},
            },
        },
        "layer": [
            {"mark": "bar"},
            {
                "mark": {"type": "text", "dy": -6, "fontSize": 10, "color": "currentColor"},
                "encoding": {
                    "text": {"field": "value", "format": ".2~s" if squared else ".0f"},
                    "color": {"value": "currentColor"},
                },
            },
        ],
    }
    said = "; ".join(
        f"{name}: " + ", ".join(f"{stdev**power:,.1f}" for stdev in stdevs)
        for name, stdevs in known
    )
    name = "eigenvalues" if squared else "stdevs"
    label = f"Bar chart: {what} of PC1, PC2, PC3"
    return svg(spec, name=name, label=label, description=f"PC1, PC2, PC3 of {said}.")


def cloud_charts(data: StatsData) -> list[str]:
    """The RGB cloud from three sides, with the principal axes."""
    pca = data.report.pca
    return [_plane(data.cloud_rgb, pca, across, up) for across, up in PLANES]


def _plane(rgb: NDArray[np.uint8], pca: RgbPca, across: int, up: int) -> str:
    points = [
        {"x": int(p[across]), "y": int(p[up]), "colour": f"#{p[0]:02x}{p[1]:02x}{p[2]:02x}"}
        for p in rgb
    ]
    x, y = CHANNELS[across], CHANNELS[up]
    scale = {"domain": [-64, 352], "nice": False}
    ticks = {"values": [0, 64, 128, 192, 255], "grid": True}
    spec = {
        "width": 225,
        "height": 225,
        "encoding": {
            "x": {"type": "quantitative", "field": "x", "title": x, "scale": scale, "axis": ticks},
            "y": {"type": "quantitative", "field": "y", "title": y, "scale": scale, "axis": ticks},
        },
        "layer": [
            {
                "data": {"values": points},
                "mark": {"type": "circle", "size": 14, "opacity": 0.75, "clip": True},
                "encoding": {"color": {"field": "colour", "type": "nominal", "scale": None}},
            },
            {
                "data": {"values": _axis_ends(pca, across, up)},
                "mark": {"type": "line", "strokeWidth": 2, "color": "currentColor", "clip": True},
                "encoding": {"detail": {"field": "component"}},
            },
            {
                "data": {"values": _axis_ends(pca, across, up)[1::2]},
                "mark": {"type": "text", "dx": 6, "dy": -8, "fontWeight": "bold", "fontSize": 12},
                "encoding": {"text": {"field": "component"}},
            },
        ],
    }
    ends = ", ".join(
        f"{name} ({pca.eigenvectors[across, k]:+.2f}, {pca.eigenvectors[up, k]:+.2f})"
        for k, name in enumerate(COMPONENTS)
    )
    return svg(
        spec,
        name=f"cloud-{x}-{y}",
        label=f"Scatter chart: pixels by {x} (across) and {y} (up), with the principal axes",
        description=f"{len(points):,} pixels in their own colours. Axes, across and up: {ends}.",
    )


def _axis_ends(pca: RgbPca, across: int, up: int) -> list[dict[str, Any]]:
    ends = []
    for k, component in enumerate(COMPONENTS):
        for sign in (-1, 1):
            point = pca.mean_rgb + sign * AXIS_STDEVS * pca.stdevs[k] * pca.eigenvectors[:, k]
            ends.append({"x": float(point[across]), "y": float(point[up]), "component": component})
    return ends


def classes_chart(data: StatsData) -> str:
    """Images of each class; for many classes, how many classes have how many images."""
    if len(data.labels) <= NAMED_CLASSES_MAX:
        return _by_name(data)
    return _by_count(data)


def _by_name(data: StatsData) -> str:
    names = data.labels.names
    splits = list(data.class_counts)
    bars = [
        {"class": _short(names[label]), "split": split, "images": int(count), "order": label}
        for split, counts in data.class_counts.items()
        for label, count in enumerate(counts)
    ]
    spec = {
        "width": 420,
        "data": {"values": bars},
        "mark": "bar",
        "height": {"step": 12},
        "encoding": {
            "y": {"field": "class", "type": "nominal", "title": None, "sort": {"field": "order"}},
            "yOffset": {"field": "split", "sort": splits},
            "x": {
                "field": "images",
                "type": "quantitative",
                "title": "images",
                "axis": {"tickCount": 6},
            },
            "color": _split_colour(splits),
        },
    }
    said = "; ".join(f"{name}: {_range(counts)}" for name, counts in data.class_counts.items())
    return svg(spec, name="classes", label="Bar chart: images of each class", description=said)


def _by_count(data: StatsData) -> str:
    splits = list(data.class_counts)
    rows = [
        {"split": split, "images": int(count)}
        for split, counts in data.class_counts.items()
        for count in counts
    ]
    spec = {
        "width": 520,
        "height": 110,
        "data": {"values": rows},
        "mark": "bar",
        "encoding": {
            "row": {"field": "split", "title": None, "sort": splits},
            "x": {"field": "images", "bin": {"maxbins": 40}, "title": "images of a class"},
            "y": {"aggregate": "count", "title": "classes"},
            "color": {**_split_colour(splits), "legend": None},
        },
        "resolve": {"scale": {"x": "independent", "y": "independent"}},
    }
    said = "; ".join(f"{name}: {_range(counts)}" for name, counts in data.class_counts.items())
    label = "Histogram: how many classes have how many images"
    return svg(spec, name="classes", label=label, description=said)


def _split_colour(splits: Sequence[str]) -> dict[str, Any]:
    legend = {"orient": "bottom"} if len(splits) > 1 else None
    return {"field": "split", "scale": colours(splits), "title": None, "legend": legend}


def _range(counts: NDArray[np.int64]) -> str:
    return f"{len(counts):,} classes of {counts.min():,} to {counts.max():,} images"


def _short(text: str) -> str:
    return text if len(text) <= 32 else text[:31] + "…"
