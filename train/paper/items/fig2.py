"""Figure 2: the networks, drawn from the plan that they are built from."""

from __future__ import annotations

from typing import get_args

from imgprep.pages.page import Charts
from train.config import Architecture, NetConfig
from train.paper.diagram import NetDiagram, diagram_svg, diagrams_table, net_diagram
from train.paper.item import Figure, Finished, Item, ItemResult, RunSpec, Scale, Verdict

PAPER_PARAMETERS, PAPER_NEURONS = 60e6, 650e3
"""What the paper says of its net (abstract)."""
NEAR = 0.02
"""Relative difference that the paper's round numbers allow."""
CIFAR_PX, CIFAR_CLASSES = 32, 10
PHOTO_PX, PHOTO_CLASSES = 224, 1000


def diagrams() -> list[NetDiagram]:
    """Return the published form of every architecture."""
    return [_diagram(name) for name in get_args(Architecture)]


def _diagram(name: Architecture) -> NetDiagram:
    small = name.startswith("cifar")
    return net_diagram(
        NetConfig(architecture=name),
        classes=CIFAR_CLASSES if small else PHOTO_CLASSES,
        image_px=CIFAR_PX if small else PHOTO_PX,
    )


def _runs(scale: Scale, seeds: int) -> list[RunSpec]:
    return []


def _analyse(finished: Finished) -> ItemResult:
    nets = diagrams()
    paper = nets[0]
    agrees = (
        abs(paper.parameters / PAPER_PARAMETERS - 1) < NEAR
        and abs(paper.neurons / PAPER_NEURONS - 1) < NEAR
    )
    caption = (
        "In each box: the maps (or units) of a column and their size, and below it the weights and "
        "biases. Coloured lines and numbers: what crosses between the columns for one image, in "
        "bytes, forward."
    )
    return ItemResult(
        verdict=Verdict(
            decision="reproduced" if agrees else "not reproduced",
            text=f"The paper's net has {paper.parameters:,} parameters and {paper.neurons:,} "
            f"neurons; {paper.bytes_crossing:,} bytes cross between its columns for each image.",
        ),
        figures=[
            Figure(
                part=Charts(items=[diagram_svg(net) for net in nets], caption=caption),
                caption=caption,
                table=diagrams_table(nets),
            )
        ],
        remarks=[
            "Drawn from the same plan that the trainer builds its networks from, in their "
            "published sizes; the runs on this page may be narrower."
        ],
        numbers={"nets": [net.to_json() for net in nets]},
    )


ITEM = Item(
    id="fig2",
    title="Figure 2: the network",
    paper="60 million parameters and 650,000 neurons; two GPUs that communicate only at certain "
    "layers (abstract, 3.2, 3.5).",
    notes="",
    runs=_runs,
    analyse=_analyse,
)
