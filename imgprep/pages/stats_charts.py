"""Charts of the statistics page, as Vega-Lite specifications."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgprep.colour.pca import RgbPca
from imgprep.colour.published import PUBLISHED_PCAS
from imgprep.pages.charts import colours, svg
from imgprep.pages.stats_data import StatsData
from imgprep.wording import printable

COMPONENTS = ("PC1", "PC2", "PC3")
PLANES = ((0, 1), (2, 1), (0, 2))
"""Channels of each view of the cloud: across, up."""
CHANNELS = ("red", "green", "blue")
AXIS_STDEVS = 2.0
"""Half the length of an axis drawn in the cloud, in standard deviations."""
NAME_LEVELS = 26
"""Distance from the end of an axis to the middle of its name, in levels."""
NAMED_CLASSES_MAX = 40
"""Up to this many classes, each has its own bar."""
OURS = "this dataset"


def components_chart(pca: RgbPca, *, squared: bool) -> str:
    """Draw the standard deviations (or eigenvalues) of the components beside published ones."""
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
    # Room for the numbers beside the longest bars.
    most = 1.25 * max(stdev**power for _, stdevs in known for stdev in stdevs)
    spec = {
        "width": 250,
        "height": {"step": 15},
        "data": {"values": bars},
        "encoding": {
            "y": {"field": "component", "type": "nominal", "title": None},
            "yOffset": {"field": "whose", "sort": names},
            "x": {
                "field": "value",
                "type": "quantitative",
                "title": what,
                "scale": {"domain": [0, most], "nice": False},
                "axis": {"tickCount": 4},
            },
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
                "mark": {"type": "text", "dx": 4, "align": "left", "fontSize": 11},
                "encoding": {
                    "text": {"field": "value", "format": ",.0f" if squared else ",.1f"},
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
        "view": {"fill": "var(--plot)"},
        "layer": [
            {
                "data": {"values": points},
                "mark": {"type": "circle", "size": 14, "opacity": 1, "clip": True},
                "encoding": {"color": {"field": "colour", "type": "nominal", "scale": None}},
            },
            {
                "data": {"values": _axis_ends(pca, across, up)},
                "mark": {"type": "line", "strokeWidth": 2, "color": "currentColor", "clip": True},
                "encoding": {"detail": {"field": "component"}},
            },
            # The axis name on a halo, so that it can be read over the points.
            *(
                {
                    "data": {"values": _axis_names(pca, across, up)},
                    "mark": {"type": "text", "fontWeight": "bold", "fontSize": 12, **halo},
                    "encoding": {"text": {"field": "component"}},
                }
                for halo in ({"stroke": "var(--plot)", "strokeWidth": 4}, {})
            ),
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


def _axis_names(pca: RgbPca, across: int, up: int) -> list[dict[str, Any]]:
    """Place each axis name beyond the axis's positive end.

    Where an axis looks parallel to the first in this view, its name is placed beside the end.
    """
    names = []
    seen = pca.eigenvectors[[across, up]]
    for k, component in enumerate(COMPONENTS):
        end = pca.mean_rgb[[across, up]] + AXIS_STDEVS * pca.stdevs[k] * seen[:, k]
        length = np.hypot(*seen[:, k]) or 1.0
        along = seen[:, k] / length
        parallel = k > 0 and abs(along @ seen[:, 0]) > 0.9 * np.hypot(*seen[:, 0])
        place = end + NAME_LEVELS * (np.array([along[1], -along[0]]) if parallel else along)
        names.append({"x": float(place[0]), "y": float(place[1]), "component": component})
    return names


def classes_chart(data: StatsData) -> str:
    """Draw the images per class; for many classes, a histogram of the class sizes."""
    if len(data.labels) <= NAMED_CLASSES_MAX:
        return _by_name(data)
    return _by_count(data)


def _by_name(data: StatsData) -> str:
    names = _told_apart(data.labels.names)
    splits = list(data.class_counts)
    bars = [
        {"class": names[label], "split": split, "images": int(count), "order": label}
        for split, counts in data.class_counts.items()
        for label, count in enumerate(counts)
    ]
    spec = {
        "width": 420,
        "data": {"values": bars},
        "mark": "bar",
        "height": {"step": 12},
        "encoding": {
            "y": {
                "field": "class",
                "type": "nominal",
                "title": None,
                "sort": {"field": "order"},
                "axis": {"labelLimit": 300},
            },
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


def _told_apart(names: Sequence[str]) -> list[str]:
    """Shorten names to fit an axis and keep them distinct: equal names would share a bar."""
    plain = [printable(name) for name in names]
    short = [text if len(text) <= 32 else text[:31] + "…" for text in plain]
    often = Counter(short)
    return [f"{s} ({k})" if often[s] > 1 else s for k, s in enumerate(short)]
