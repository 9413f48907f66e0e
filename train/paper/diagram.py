"""The network drawn from its own plan, as in the paper's figure 2: columns, sizes, joints, bytes.

``net_diagram`` gathers the numbers from the layout that the trainer builds nets from;
``diagram_svg`` draws them by the template ``net.svg``, from the top (the image) to the bottom (the
classes), narrow enough for a phone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgprep.pages.page import Table, templates
from imgprep.wording import counted
from train.config import NetConfig
from train.net.layout import Layer, NetLayout, net_layout

NORMED = ("conv1", "conv2")
"""Layers that response normalisation follows."""
BOX_PX = (96, 38)
GAP_PX = 46
"""Between two rows of boxes."""
LEFTS_PX = (58, 168)
"""Left edges of the columns' boxes; a net of one column has its boxes in the middle."""
WIDTH_PX = 340


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """A layer with weights, and what follows it up to the next one."""

    name: str
    is_conv: bool
    filters: str
    """``11x11, stride 4``, or ``all`` for a fully connected layer."""
    outputs: int
    """Maps or units of one column."""
    columns: int
    """Columns that hold a part of the layer."""
    side_px: int
    """Side of the maps; 1 for a fully connected layer."""
    parameters: int
    """Weights and biases of all columns."""
    pooled_px: int | None
    """Side after the pooling that follows; None if none does."""
    normed: bool
    """Response normalisation follows."""
    bytes_in: int
    """Bytes that cross between the columns for this layer, for each image, forward; 0: none."""

    @property
    def neurons(self) -> int:
        """Values of all columns for one image."""
        return self.columns * self.outputs * self.side_px**2


@dataclass(frozen=True, kw_only=True, slots=True)
class NetDiagram:
    """A net, layer by layer."""

    name: str
    columns: int
    image_px: int
    pool: str
    """Size and stride of the pooling windows: ``3/2``."""
    stages: tuple[Stage, ...]

    @property
    def parameters(self) -> int:
        """Weights and biases."""
        return sum(stage.parameters for stage in self.stages)

    @property
    def neurons(self) -> int:
        """Values of all layers for one image, those of the image not counted."""
        return sum(stage.neurons for stage in self.stages)

    @property
    def bytes_crossing(self) -> int:
        """Bytes between the columns for each image, forward; training sends as many back."""
        return sum(stage.bytes_in for stage in self.stages)

    def to_json(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "name": self.name,
            "columns": self.columns,
            "image_px": self.image_px,
            "parameters": self.parameters,
            "neurons": self.neurons,
            "bytes_crossing_per_image": self.bytes_crossing,
            "layers": [
                {
                    "name": stage.name,
                    "outputs_per_column": stage.outputs,
                    "columns": stage.columns,
                    "side_px": stage.side_px,
                    "neurons": stage.neurons,
                    "parameters": stage.parameters,
                    "bytes_crossing_per_image": stage.bytes_in,
                }
                for stage in self.stages
            ],
        }


def net_diagram(config: NetConfig, *, classes: int, image_px: int) -> NetDiagram:
    """Gather what the figure shows from the plan of the net.

    Raises:
        ConfigError: the image is too small for the net.
    """
    layout = net_layout(config, classes=classes, image_px=image_px)
    crossing = layout.link_bytes_per_image()
    return NetDiagram(
        name=config.architecture,
        columns=layout.columns,
        image_px=image_px,
        pool=f"{config.pool_size}/{config.pool_stride}",
        stages=tuple(
            _stage(layer, layout, config, crossing.get(name, 0))
            for name, layer in layout.layers.items()
        ),
    )


def _stage(layer: Layer, layout: NetLayout, config: NetConfig, bytes_in: int) -> Stage:
    conv1, pool1, pool2, last = layout.sides
    pooled = {"conv1": pool1, "conv2": pool2, layout.body[-1]: last}
    side = {"conv1": conv1, "conv2": pool1, "conv6": last}.get(layer.name, pool2)
    columns = layout.columns if layer.split else 1
    stride = f", stride {layer.stride}" if layer.stride > 1 else ""
    return Stage(
        name=layer.name,
        is_conv=layer.is_conv,
        filters=f"{layer.kernel}x{layer.kernel}{stride}" if layer.is_conv else "all",
        outputs=layer.outputs // columns,
        columns=columns,
        side_px=side if layer.is_conv else 1,
        parameters=layer.parameters,
        pooled_px=pooled.get(layer.name),
        normed=config.lrn and layer.name in NORMED,
        bytes_in=bytes_in,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Box:
    x: float
    y: float
    lines: tuple[str, str]

    @property
    def middle(self) -> float:
        return self.x + BOX_PX[0] / 2


@dataclass(frozen=True, kw_only=True, slots=True)
class _Row:
    """A row of the drawing: labels at the left, boxes, and the arrows into them."""

    y: float
    name: str
    detail: str
    after: str
    """What follows the layer, written below its row."""
    boxes: tuple[_Box, ...]
    arrows: tuple[tuple[float, float, bool], ...] = ()
    """From x, to x, whether it crosses between the columns."""
    crossing: str = ""


def diagram_svg(diagram: NetDiagram) -> str:
    """Draw a net as inline SVG for ``imgprep.pages.page.Chart``; equal nets give equal text.

    Raises:
        UsageError: Jinja2 is not installed.
    """
    side = diagram.image_px
    lefts = LEFTS_PX if diagram.columns == 2 else (sum(LEFTS_PX) / 2,)
    names = ("column a", "column b") if diagram.columns == 2 else ("R, G, B",)
    image = tuple(
        _Box(x=x, y=0, lines=(f"3 × {side}×{side}", name))
        for x, name in zip(lefts, names, strict=True)
    )
    rows = [_Row(y=0, name="image", detail="", after="", boxes=image)]
    for number, stage in enumerate(diagram.stages, 1):
        y = number * (BOX_PX[1] + GAP_PX)
        boxes = tuple(
            _Box(x=x, y=y, lines=(_size(stage), _parameters(stage))) for x in lefts[: stage.columns]
        )
        arrows = [(a.middle, b.middle, a.x != b.x) for a in rows[-1].boxes for b in boxes]
        rows.append(
            _Row(
                y=y,
                name=stage.name,
                detail=stage.filters.replace("x", "×").replace(", stride ", " /"),
                after=_after(stage, diagram.pool),
                boxes=boxes,
                arrows=tuple(arrow for arrow in arrows if stage.bytes_in or not arrow[2]),
                crossing=f"{stage.bytes_in:,} B" if stage.bytes_in else "",
            )
        )
    text: str = (
        templates(Path(__file__).parent)
        .get_template("net.svg")
        .render(
            name=f"fig2-{diagram.name}",
            title=f"The network {diagram.name}",
            said=_said(diagram),
            rows=rows,
            box=BOX_PX,
            gap_px=GAP_PX,
            width_px=WIDTH_PX,
            height_px=len(rows) * (BOX_PX[1] + GAP_PX) - GAP_PX + 26,
        )
    )
    return text.strip()


def _size(stage: Stage) -> str:
    """Outputs of a column, with the sides of their maps."""
    side = stage.side_px
    return f"{stage.outputs:,} × {side}×{side}" if stage.is_conv else f"{stage.outputs:,}"


def _parameters(stage: Stage) -> str:
    return f"{stage.parameters // stage.columns:,}"


def _after(stage: Stage, pool: str) -> str:
    words = ["LRN"] if stage.normed else []
    words += [f"pool {pool}"] if stage.pooled_px is not None else []
    return ", ".join(words)


def _said(diagram: NetDiagram) -> str:
    layers = "; ".join(
        f"{stage.name} {counted(stage.columns, 'part')} of {_size(stage)}"
        for stage in diagram.stages
    )
    return f"From the image of {diagram.image_px} pixels: {layers}."


def diagrams_table(diagrams: Sequence[NetDiagram]) -> Table:
    """Tabulate the layers of nets, and the sums of each net."""
    rows = []
    for net in diagrams:
        rows += [
            [
                f"{net.name}, {stage.name}",
                stage.filters,
                f"{stage.columns} x {_size(stage).replace('×', 'x')}",
                f"{stage.neurons:,}",
                f"{stage.parameters:,}",
                f"{stage.bytes_in:,}",
            ]
            for stage in net.stages
        ]
        sums = (net.neurons, net.parameters, net.bytes_crossing)
        rows.append([f"{net.name}, all layers", "", "", *(f"{each:,}" for each in sums)])
    return Table(
        head=["net, layer", "filters", "columns x outputs", "neurons", "parameters", "bytes"],
        rows=rows,
        caption="Bytes: what crosses between the columns for each image, forward, as float32 "
        "(training sends as many back)",
    )
