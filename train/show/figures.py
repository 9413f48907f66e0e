"""Pictures of a run: first-layer filters, as in the paper's figure 3, and learning curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from imgprep.errors import DestinationError
from imgprep.storage.atomic import partial_file, write_bytes
from train.errors import CheckpointError, ConfigError
from train.run.error_text import has_top5
from train.run.logs import EPOCH_FIELDS, EPOCHS_CSV, STEP_FIELDS, STEPS_CSV, read_rows

if TYPE_CHECKING:
    from torch import Tensor

FILTERS_PNG = "filters.png"
CURVES = "curves"
COLUMNS_OF_FILTERS = 16
ZOOM = 4
GAP_PX = 4
SEAM_PX = 16
"""Gap between the filters of column a and those of column b."""
MAX_POINTS = 1500
"""Points per curve; the rows of longer runs are averaged down to this number."""
PANEL_PX = (640, 200)
PER_CENT = {"format": ".0%"}
"""Axis of an error: the values are fractions, the labels per cent."""
DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3])
"""Dash patterns of a chart's curves, in order."""
PNG_SCALE = 1.5

Picture = NDArray[np.uint8]
Points = list[dict[str, Any]]


def draw_run(folder: Path) -> list[Path]:
    """Draw what a run has: the filters of ``last.pt`` and the curves of its CSV files.

    Raises:
        ConfigError: the package that draws curves is not installed.
        CheckpointError: the folder holds no run.
        DestinationError: the folder cannot be written.
    """
    from train.saved import checkpoint as checkpoints

    last = folder / checkpoints.LAST
    drawn, classes = [], None
    if last.exists():
        saved = checkpoints.load(last)
        classes = saved.classes
        filters_png(saved.model, folder / FILTERS_PNG)
        drawn.append(folder / FILTERS_PNG)
    if (folder / STEPS_CSV).exists():
        drawn += draw_curves(folder, folder / CURVES, classes)
    if not drawn:
        raise CheckpointError(f"{folder} holds no run: it has neither {checkpoints.LAST} nor logs")
    return drawn


def filters_png(state: Mapping[str, Tensor], path: Path) -> None:
    """Write ``filters_picture`` as a PNG."""
    from PIL import Image

    try:
        with partial_file(path) as file:
            Image.fromarray(filters_picture(state)).save(file, format="PNG", optimize=True)
    except OSError as exc:
        raise DestinationError(f"{path}: cannot write the picture: {exc.strerror}") from exc


def filters_picture(state: Mapping[str, Tensor]) -> Picture:
    """Draw the filters of ``conv1.weight`` (filters, 3, side, side) in canonical order.

    If they fill an even number of rows of 16 in a net of two columns, the upper half is column a
    (the first GPU of 2012) and the lower half column b, with a gap between them. A net of one
    column has one block.
    """
    return _stacked(filter_blocks(state), SEAM_PX)


def filter_blocks(state: Mapping[str, Tensor]) -> list[Picture]:
    """Return the two halves of ``filters_picture``, or its one block.

    Raises:
        CheckpointError: the state has no such filters.
    """
    if "conv1.weight" not in state or not _are_filters(state["conv1.weight"].shape):
        raise CheckpointError("the checkpoint has no filters conv1.weight (n, 3, side, side)")
    weight = np.nan_to_num(state["conv1.weight"].detach().float().cpu().numpy())
    halves = len(weight) % (2 * COLUMNS_OF_FILTERS) == 0 and not _is_one_column(state)
    blocks = np.split(weight, 2) if halves else [weight]
    return [filter_block(block) for block in blocks]


def _is_one_column(state: Mapping[str, Tensor]) -> bool:
    """Whether each filter of conv2 reads all of conv1; without conv2 nothing tells."""
    second = state.get("conv2.weight")
    return second is not None and second.shape[1:2] == state["conv1.weight"].shape[:1]


def _are_filters(shape: Sequence[int]) -> bool:
    return len(shape) == 4 and shape[1] == 3 and min(shape) > 0


def filter_block(weight: NDArray[np.float32]) -> Picture:
    """Draw filters (n, 3, side, side) in rows of up to 16, as uint8 (height, width, 3).

    Each filter is scaled separately: grey is weight 0, and its largest weight is black or white.
    """
    rows = []
    columns = min(COLUMNS_OF_FILTERS, len(weight))
    for first in range(0, len(weight), columns):
        tiles = [_tile(each) for each in weight[first : first + columns]]
        blank = np.full_like(tiles[0], 255)
        tiles += [blank] * (columns - len(tiles))
        rows.append(_stacked([tile.swapaxes(0, 1) for tile in tiles], GAP_PX).swapaxes(0, 1))
    return _stacked(rows, GAP_PX)


def _tile(filter_chw: NDArray[np.float32]) -> Picture:
    largest = float(np.abs(filter_chw).max()) or 1.0
    levels: Picture = np.rint(127.5 + 127.5 * filter_chw / largest).astype(np.uint8)
    return levels.transpose(1, 2, 0).repeat(ZOOM, 0).repeat(ZOOM, 1)


def _stacked(pictures: Sequence[Picture], gap_px: int) -> Picture:
    """Stack pictures, with white gaps between them."""
    white = np.full((gap_px, *pictures[0].shape[1:]), 255, np.uint8)
    parts = [part for picture in pictures for part in (picture, white)][:-1]
    return np.concatenate(parts)


def draw_curves(folder: Path, path: Path, classes: int | None = None) -> list[Path]:
    """Write loss, errors and learning rate over updates as ``path`` .png and .svg.

    Writes nothing if no row has been logged yet. Top-5 errors of five ``classes`` or fewer are
    left out.

    Raises:
        ConfigError: vl-convert-python is not installed.
        DestinationError: the CSV files are not those of a run, or the folder cannot be written.
    """
    converter = _converter()
    return _draw(converter, curves_chart(folder, classes), path)


def draw_comparison(folders: Sequence[Path], path: Path) -> list[Path]:
    """Write training loss and validation error of several runs in one chart, .png and .svg.

    Each run is named by its folder. Raises as ``draw_curves``.
    """
    converter = _converter()
    runs = [(folder.name, _rows_of(folder)) for folder in folders]
    losses = [p for name, (steps, _) in runs for p in _points(steps, "loss", name)]
    errors = [p for name, (_, found) in runs for p in _points(found, "top1_error", name)]
    panels = [
        _panel("training loss (nats)", losses),
        _panel("top-1 error, validation", errors, axis=PER_CENT),
    ]
    return _draw(converter, _chart(panels), path)


def _converter() -> Any:
    try:
        import vl_convert
    except ImportError as exc:
        raise ConfigError(
            "curves need vl-convert-python: run tools/setup, or pip install 'imgprep[figures]'"
        ) from exc
    return vl_convert


def _draw(converter: Any, chart: dict[str, Any], path: Path) -> list[Path]:
    if not chart["vconcat"]:
        return []
    found = [path.with_suffix(".png"), path.with_suffix(".svg")]
    png: bytes = converter.vegalite_to_png(chart, scale=PNG_SCALE)
    svg: str = converter.vegalite_to_svg(chart)
    try:
        write_bytes(found[0], png)
        write_bytes(found[1], svg.encode())
    except OSError as exc:
        raise DestinationError(f"{path}: cannot write the curves: {exc.strerror}") from exc
    return found


def curves_chart(folder: Path, classes: int | None = None) -> dict[str, Any]:
    """Return the learning curves as one Vega-Lite chart of stacked panels; empty ones left out."""
    return _chart(curve_panels(folder, classes))


def curve_panels(folder: Path, classes: int | None = None) -> list[dict[str, Any]]:
    """Return loss, errors and learning rate as Vega-Lite charts; a chart may have no data."""
    steps, validations = _rows_of(folder)
    errors = [
        point
        for top in (("top1", "top5") if has_top5(classes) else ("top1",))
        for rows, what in ((steps, "training"), (validations, "validation"))
        for point in _points(rows, f"{top}_error", f"{top[:3]}-{top[3]}, {what}")
    ]
    return [
        _panel(
            "loss (nats)",
            _points(steps, "loss", "training") + _points(validations, "loss", "validation"),
        ),
        _panel("error", errors, axis=PER_CENT),
        _panel(
            "learning rate",
            _points(steps, "lr", "weights", above=0.0),
            scale={"type": "log"},
            axis={"format": "~e"},
            line={"interpolate": "step-before"},  # a row holds the rate of the updates up to it
        ),
    ]


def _rows_of(folder: Path) -> tuple[list[dict[str, float]], list[dict[str, str]]]:
    """Return the updates (thinned) and the validations of a run."""
    epochs = folder / EPOCHS_CSV
    updates = folder / STEPS_CSV
    steps = thinned(read_rows(updates, STEP_FIELDS)) if updates.exists() else []
    return steps, read_rows(epochs, EPOCH_FIELDS) if epochs.exists() else []


def _chart(panels: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "background": "white",
        "vconcat": [panel for panel in panels if panel["data"]["values"]],
        "resolve": {"scale": {"x": "shared", "color": "independent", "strokeDash": "independent"}},
    }


def _panel(
    title: str,
    points: Points,
    *,
    scale: Mapping[str, Any] = MappingProxyType({"type": "linear", "zero": False}),
    axis: Mapping[str, Any] = MappingProxyType({}),
    line: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    curve = {
        "field": "curve",
        "type": "nominal",
        "title": None,
        "sort": None,
        "legend": {"orient": "top", "symbolType": "stroke", "symbolSize": 400, "columns": 2},
    }
    return {
        "width": PANEL_PX[0],
        "height": PANEL_PX[1],
        "data": {"values": points},
        "mark": {"type": "line", "strokeWidth": 1.2, "point": {"size": 12}, **line},
        "encoding": {
            "x": {
                "field": "step",
                "type": "quantitative",
                "title": "updates",
                "axis": {"tickMinStep": 1, "format": ",d"},
            },
            "y": {
                "field": "value",
                "type": "quantitative",
                "title": title,
                "scale": {**scale},
                "axis": {**axis},
            },
            # Colour and dash, so that curves differ without colour too; they share one legend.
            "color": curve,
            "strokeDash": {**curve, "scale": {"range": DASHES}},
        },
    }


def thinned(rows: Sequence[Mapping[str, str]]) -> list[dict[str, float]]:
    """Return rows as numbers, averaged in groups of equal length to at most ``MAX_POINTS``."""
    length = max(1, -(-len(rows) // MAX_POINTS))
    found = []
    for first in range(0, len(rows), length):
        part = rows[first : first + length]
        found.append({key: sum(float(row[key]) for row in part) / len(part) for key in part[0]})
    return found


def _points(
    rows: Sequence[Mapping[str, Any]], name: str, curve: str, above: float | None = None
) -> Points:
    """Return the points of a curve; values not finite, or not ``above`` a bound, are left out."""
    values = [(float(row["global_step"]), float(row[name])) for row in rows]
    return [
        {"step": step, "value": value, "curve": curve}
        for step, value in values
        if isfinite(value) and (above is None or value > above)
    ]
