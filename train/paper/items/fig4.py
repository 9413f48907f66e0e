"""Figure 4: predictions, and nearest neighbours in the last hidden layer."""

from __future__ import annotations

from train.errors import DataError
from train.paper.ablation import BASELINE, baseline
from train.paper.item import (
    Figure,
    Finished,
    Item,
    ItemResult,
    RunSpec,
    Scale,
    Verdict,
)
from train.paper.predictions import guesses_table, neighbours_table, prediction_counts
from train.show.report import Measured, ReportRequest, make_report
from train.show.report_page import class_names, neighbours_section, photos_section


def _runs(scale: Scale, seeds: int) -> list[RunSpec]:
    return [baseline(0)]


def _analyse(finished: Finished) -> ItemResult:
    (first, *_) = finished.of(BASELINE)
    device = finished.scale.settings.get("device", "auto")
    report = make_report(ReportRequest(run=first.folder, dataset=finished.dataset, device=device))
    if report.measured is None:
        raise DataError(f"{first.folder}: the run has no checkpoint")
    return fig4_result(report.measured)


def fig4_result(measured: Measured) -> ItemResult:
    """Lay out what the network of a run does with a few photographs."""
    names = class_names(measured.data.labels)
    counts = prediction_counts(measured)
    sections = (photos_section(measured, names), neighbours_section(measured, names))
    tables = (guesses_table(measured, names), neighbours_table(measured, names))
    return ItemResult(
        verdict=Verdict(decision="shown", text=counts.sentence()),
        figures=[
            Figure(part=part, caption=" ".join(section.text), table=table)
            for section, table in zip(sections, tables, strict=True)
            for part in section.parts
        ],
        remarks=[text for section in sections for text in section.text],
        numbers=counts.to_json(),
    )


ITEM = Item(
    id="fig4",
    title="Figure 4: predictions and nearest neighbours",
    paper="Even off-centre objects are recognised, most of the top-5 labels are reasonable, and "
    "photographs with near vectors in the last hidden layer show similar things (6.1).",
    notes="",
    runs=_runs,
    analyse=_analyse,
)
