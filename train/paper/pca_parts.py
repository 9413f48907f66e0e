"""The steps of the colour PCA as charts and tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgprep.pages.charts import SERIES, svg
from imgprep.pages.page import Charts, Table
from train.paper.pca_steps import Climb, PcaSteps

CHANNELS = ("red", "green", "blue")
NTH = ("first", "second", "third")
SIDE_PX = 225
AXIS_STDEVS = 2.0
"""Half the length of a drawn axis, in standard deviations of the remaining colours."""
SHOWN_STEPS = 8
"""Rows of each climb in the table, besides the last."""

Array = NDArray[np.float64]


def pca_charts(steps: PcaSteps) -> Charts:
    """Draw the steps on a cloud of pixels: five small charts, fewer for grey photographs."""
    first = _plane(steps.climbs[0].axis)
    panels = [
        _panel(["as they are"], "raw", steps.cloud_rgb, steps.cloud_rgb, first, []),
        _panel(["centred"], "centred", steps.after(0), steps.cloud_rgb, first, []),
    ]
    for k, climb in enumerate(steps.climbs):
        left = steps.after(k)
        colours = np.clip(np.rint(left + steps.mean_rgb), 0, 255).astype(np.uint8)
        plane = _plane(climb.axis)
        panels.append(_panel(_title(k), f"climb-{k + 1}", left, colours, plane, _lines(climb)))
    return Charts(
        items=panels,
        caption=f"A sample of {len(steps.cloud_rgb):,} pixels. Thin lines: the axis while it "
        "climbs, from one channel alone; thick line: where it ends, two standard deviations to "
        "each side. After each climb the part along its axis is removed. The scale of each chart "
        "fits what is left.",
    )


def _title(axis: int) -> list[str]:
    """Return the lines of a chart's title."""
    before = [f"{NTH[axis - 1]} axis removed,"] if axis else []
    return [*before, f"climb to the {NTH[axis]} axis"]


def _plane(axis: Array) -> tuple[int, int]:
    """Return the two channels, across and up, in which the axis is seen longest."""
    longest = sorted(np.argsort(-np.abs(np.round(axis, 9)), kind="stable")[:2].tolist())
    return longest[0], longest[1]


def _lines(climb: Climb) -> list[dict[str, Any]]:
    """Return the ends of the axis after each step, the last one marked."""
    last = climb.steps
    stdev = np.sqrt(max(climb.eigenvalue, 0.0))
    return [
        {"step": k, "end": end, "is_last": k == last, "rgb": AXIS_STDEVS * stdev * end * vector}
        for k, vector in enumerate(climb.path)
        if k < SHOWN_STEPS or k == last
        for end in (-1, 1)
    ]


def _panel(
    title: Sequence[str],
    name: str,
    points: Array | NDArray[np.uint8],
    colours_rgb: NDArray[np.uint8],
    plane: tuple[int, int],
    lines: Sequence[dict[str, Any]],
) -> str:
    across, up = plane
    ends = [
        {"x": float(line["rgb"][across]), "y": float(line["rgb"][up]), **_plain(line)}
        for line in lines
    ]
    dots = [
        {"x": float(p[across]), "y": float(p[up]), "colour": "#{:02x}{:02x}{:02x}".format(*rgb)}
        for p, rgb in zip(points, colours_rgb, strict=True)
    ]
    scale = {"domain": _domain(points, ends), "nice": False}
    axis = {"tickCount": 5, "grid": True, "format": "d"}
    x, y = (
        {"field": field, "type": "quantitative", "title": CHANNELS[k], "scale": scale, "axis": axis}
        for field, k in (("x", across), ("y", up))
    )
    line = {"type": "line", "color": "currentColor", "clip": True}
    spec = {
        "title": [*title],
        "width": SIDE_PX,
        "height": SIDE_PX,
        "view": {"fill": "var(--plot)"},
        "encoding": {"x": x, "y": y},
        "layer": [
            {
                "data": {"values": dots},
                "mark": {"type": "circle", "size": 14, "opacity": 1, "clip": True},
                "encoding": {"color": {"field": "colour", "type": "nominal", "scale": None}},
            },
            {
                "data": {"values": [end for end in ends if not end["is_last"]]},
                "mark": {**line, "strokeWidth": 1, "opacity": 0.7},
                "encoding": {"detail": {"field": "step"}},
            },
            {
                "data": {"values": [end for end in ends if end["is_last"]]},
                "mark": {**line, "strokeWidth": 3, "color": SERIES[0]},
            },
        ],
    }
    return svg(
        spec,
        name=f"appendix-pca-{name}",
        label=f"Scatter chart: colours, {' '.join(title)}",
        description=_said(lines),
    )


def _plain(line: dict[str, Any]) -> dict[str, Any]:
    return {"step": line["step"], "is_last": line["is_last"]}


def _said(lines: Sequence[dict[str, Any]]) -> str:
    if not lines:
        return "A cloud of pixels in their own colours."
    last = lines[-1]
    direction = last["rgb"] / np.linalg.norm(last["rgb"])
    words = ", ".join(f"{c} {x:+.2f}" for c, x in zip(CHANNELS, direction, strict=True))
    return f"The axis ends, after {last['step']} steps, at {words}."


def _domain(
    points: Array | NDArray[np.uint8], ends: Sequence[dict[str, Any]]
) -> tuple[float, float]:
    """Return one domain for both axes, so that angles are true: 0-255, or symmetric about 0."""
    if points.dtype == np.uint8:
        return 0.0, 255.0
    drawn = [abs(end[field]) for end in ends for field in ("x", "y")]
    most = max(float(np.abs(points).max(initial=0.0)), *drawn, 1.0)
    return -1.05 * most, 1.05 * most


def pca_table(steps: PcaSteps) -> Table:
    """Tabulate the axes found, beside those of scikit-learn."""
    rows = []
    for k, climb in enumerate(steps.climbs):
        theirs = float(steps.reference.eigenvalues[k])
        rows.append(
            [
                NTH[k],
                f"{climb.steps:,}",
                f"{climb.eigenvalue:,.4f}",
                f"{theirs:,.4f}",
                f"{climb.angle_to_reference:.1e}" if climb.is_unique else "not unique",
                *(f"{x:+.4f}" for x in climb.axis),
            ]
        )
    return Table(
        head=[
            "axis",
            "steps",
            "eigenvalue",
            "scikit-learn's",
            "angle to scikit-learn's",
            "R",
            "G",
            "B",
        ],
        rows=rows,
        caption=f"From the exact covariance of all {steps.pixels:,} pixels; eigenvalues in levels "
        "squared (0-255), angles in degrees",
    )


def climbs_table(steps: PcaSteps) -> Table:
    """Tabulate the steps of each climb."""
    rows = [
        [
            NTH[k],
            str(step),
            *(f"{x:+.4f}" for x in climb.path[step]),
            f"{climb.variances[step]:,.2f}",
            f"{100 * climb.variances[step] / climb.eigenvalue:.3f} %",
        ]
        for k, climb in enumerate(steps.climbs)
        for step in sorted({*range(min(SHOWN_STEPS, climb.steps + 1)), climb.steps})
    ]
    return Table(
        head=["climb to", "step", "R", "G", "B", "variance", "of the summit"],
        rows=rows,
        caption=f"The climbs: the first {SHOWN_STEPS} positions of each, and its last",
    )
