"""The clusters of photographs as a chart, tables and contact sheets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgprep.pages.charts import SERIES, svg
from imgprep.pages.images import Picture, jpeg
from imgprep.pages.page import Chart, Grid, Table
from imgprep.wording import counted
from train.paper.clusters import NEAREST, Cluster, Clustering
from train.run.error_text import per_cent

TILE_PX = 72
MEASURES = ("purity", "mutual information")


def clusters_sheets(
    found: Sequence[Clustering],
    photographs: Sequence[NDArray[np.uint8]],
    names: Sequence[str],
    labels_n: NDArray[np.int64],
) -> list[Grid]:
    """Show the clusters of ``photographs`` (rows, columns, 3); ``names`` are those of classes."""
    return [_sheet(each, photographs, names, labels_n) for each in found]


def clusters_chart(found: Sequence[Clustering]) -> Chart:
    """Draw how well each clustering agrees with the classes, beside chance."""
    rows: list[dict[str, Any]] = [
        {"what": each.description, "measure": measure, "value": value, "chance": chance}
        for each in found
        for measure, value, chance in zip(
            MEASURES,
            (each.purity, each.information),
            (each.chance_purity, each.chance_information),
            strict=True,
        )
    ]
    order = [each.description for each in found]
    x = {"type": "quantitative", "title": None, "scale": {"domain": [0, 1]}}
    spec = {
        "data": {"values": rows},
        "facet": {
            "row": {
                "field": "measure",
                "sort": list(MEASURES),
                "title": None,
                "header": {"orient": "top"},
            }
        },
        "spec": {
            "width": 180,
            "height": {"step": 22},
            "encoding": {"y": {"field": "what", "sort": order, "title": None}},
            "layer": [
                {
                    "mark": {"type": "bar", "color": SERIES[0]},
                    "encoding": {"x": {**x, "field": "value"}},
                },
                {
                    "mark": {"type": "tick", "color": "currentColor", "thickness": 3},
                    "encoding": {"x": {**x, "field": "chance"}},
                },
                {
                    "mark": {"type": "text", "align": "left", "dx": 6, "fontSize": 11},
                    "encoding": {
                        "x": {**x, "field": "value"},
                        "text": {"field": "value", "format": ".2f"},
                    },
                },
            ],
        },
    }
    said = "; ".join(
        f"{each.description}: purity {each.purity:.2f} (chance {each.chance_purity:.2f}), "
        f"mutual information {each.information:.2f} (chance {each.chance_information:.2f})"
        for each in found
    )
    label = "Bar chart: agreement of clusters and classes"
    return Chart(
        svg=svg(spec, name="appendix-unsupervised", label=label, description=f"{said}."),
        caption="Bars: the clusters of k-means. Marks: clusters of the same sizes, filled at "
        "random.",
    )


def clusters_table(found: Sequence[Clustering]) -> Table:
    """Tabulate purity and mutual information, beside chance."""
    photographs = sum(cluster.photographs for cluster in found[0].clusters)
    rows = [
        [
            each.description,
            f"{each.dimensions:,}",
            per_cent(each.purity),
            per_cent(each.chance_purity),
            f"{each.information:.3f}",
            f"{each.chance_information:.3f}",
        ]
        for each in found
    ]
    return Table(
        head=["", "numbers", "purity", "by chance", "mutual information", "by chance"],
        rows=rows,
        caption=f"Clusters of {counted(photographs, 'photograph')} against their classes; the "
        "mutual information is normalised",
    )


def _sheet(
    found: Clustering,
    photographs: Sequence[NDArray[np.uint8]],
    names: Sequence[str],
    labels_n: NDArray[np.int64],
) -> Grid:
    rows = [
        (_title(each, names), _nearest(each, photographs, names, labels_n))
        for each in found.clusters
    ]
    return Grid(
        columns=[str(place) for place in range(1, NEAREST + 1)],
        rows=rows,
        caption=f"Clusters of {found.description}, those with the largest share of one class "
        "first: the photographs nearest to each centre",
        compact=True,
    )


def _title(cluster: Cluster, names: Sequence[str]) -> str:
    return (
        f"{counted(cluster.photographs, 'photograph')}, {cluster.of_that_class} of "
        f"{names[cluster.most_frequent]}"
    )


def _nearest(
    cluster: Cluster,
    photographs: Sequence[NDArray[np.uint8]],
    names: Sequence[str],
    labels_n: NDArray[np.int64],
) -> list[Picture]:
    """Return the photographs nearest to the centre, small."""
    from PIL import Image

    size = (TILE_PX, TILE_PX)
    return [
        jpeg(
            np.asarray(Image.fromarray(photographs[at]).resize(size, Image.Resampling.LANCZOS)),
            alt=f"Photograph of the class {names[int(labels_n[at])]}",
        )
        for at in cluster.nearest
    ]
