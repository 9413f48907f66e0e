"""The table of the two runs in train/README.md is what their logs say."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.documents import marked
from train.run.logs import EPOCH_FIELDS, EPOCHS_CSV, read_rows
from train.show.figures import draw_comparison

EVIDENCE = REPOSITORY / "tools" / "evidence"


def table() -> dict[str, list[str]]:
    """Rows of the table by their first cell."""
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in marked("measured: evidence").splitlines()
    ]
    return {row[0]: row[1:] for row in cells}


@pytest.mark.parametrize("name", ["source-2012", "paper"])
def test_the_table_is_what_the_log_says(name: str) -> None:
    rows = {
        row["global_step"]: f"{float(row['top1_error']):.1%}".replace("%", " %")
        for row in read_rows(EVIDENCE / name / EPOCHS_CSV, EPOCH_FIELDS)
    }
    shown = table()
    updates = shown["updates"]
    assert len(updates) >= 5
    assert shown[f"`{name}`"] == [rows.get(step, "-") for step in updates]
    assert set(rows) <= set(updates)


def test_the_chart_can_be_drawn_again(tmp_path: Path) -> None:
    runs = [EVIDENCE / "source-2012", EVIDENCE / "paper"]
    png, svg = draw_comparison(runs, tmp_path / "compared")
    assert png.read_bytes()[:4] == b"\x89PNG"
    assert svg.read_bytes() == (EVIDENCE / "compared.svg").read_bytes()
