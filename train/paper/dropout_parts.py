"""Both kinds of dropout as a chart and tables."""

from __future__ import annotations

from imgprep.pages.charts import SERIES, svg
from imgprep.pages.page import Chart, Table
from imgprep.wording import counted
from train.paper.dropout import DropoutReport
from train.run.error_text import per_cent


def signal_table(report: DropoutReport) -> Table:
    """Tabulate the size of the signal, in training and at test, of both kinds."""
    rows = [
        [
            f"{signal.kind}, {signal.layer}",
            f"{signal.training_mean:.4g}",
            f"{signal.test_mean:.4g}",
            f"{signal.training_rms:.4g}",
            f"{signal.test_rms:.4g}",
        ]
        for signal in report.signals
    ]
    return Table(
        head=["", "mean in training", "mean at test", "RMS in training", "RMS at test"],
        rows=rows,
        caption="What each layer passes on, with the same weights under both kinds; of the last "
        "layer, the logits",
    )


def averages_chart(report: DropoutReport) -> Chart:
    """Draw how the mean of the logits approaches those of the one pass at test."""
    points = [
        {"masks": each.masks, "difference": each.logit_difference} for each in report.averages
    ]
    spec = {
        "width": 250,
        "height": 180,
        "data": {"values": points},
        "mark": {"type": "line", "strokeWidth": 2, "point": {"size": 40}, "color": SERIES[0]},
        "encoding": {
            "x": {
                "field": "masks",
                "type": "quantitative",
                "scale": {"type": "log", "base": 2},
                "title": "masks averaged",
                "axis": {"values": [each.masks for each in report.averages][::2], "format": "d"},
            },
            "y": {
                "field": "difference",
                "type": "quantitative",
                "title": "RMS difference of logits",
                "axis": {"format": "~g", "tickCount": 5},
            },
        },
    }
    said = ", ".join(f"{each.masks}: {each.logit_difference:.3g}" for each in report.averages)
    text = svg(
        spec,
        name="appendix-dropout-averages",
        label="Line chart: difference of the mean over masks from the one pass at test",
        description=f"By number of masks: {said}.",
    )
    return Chart(
        svg=text,
        caption="Root mean square difference between the logits averaged over masks and those of "
        f"the one pass at test, whose own root mean square is {report.test_logit_rms:.3g}",
    )


def averages_table(report: DropoutReport) -> Table:
    """Tabulate the averages over masks against the one pass."""
    rows = [
        [
            f"{each.masks:,}",
            f"{each.logit_difference:.3f}",
            f"{each.probability_difference:.3f}",
            per_cent(each.agreement),
            per_cent(each.top1_error),
        ]
        for each in report.averages
    ]
    rows.append(["one pass", "0", "0", per_cent(1.0), per_cent(report.test_error)])
    return Table(
        head=[
            "masks",
            "logits, RMS difference",
            "probability, largest difference",
            "same best class",
            "top-1 error",
        ],
        rows=rows,
        caption=f"Averages over masks ({report.kind} dropout) on "
        f"{counted(report.photographs, 'photograph')}, against the one pass at test",
    )
