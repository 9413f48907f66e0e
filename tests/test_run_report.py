"""``train report``: the page says what ``evaluate`` says, of a run at any stage, in a browser."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from imgprep.dataset.labels import LabelMap
from imgprep.errors import FormatError
from imgprep.pages.page import render, write_page
from tests.browser import check_sound, open_page
from tests.conftest import Ran
from tests.training import fit, train
from train.errors import CheckpointError, ConfigError, DataError
from train.saved.run_folder import RunFolder
from train.show.measure import MeasureOptions, measure
from train.show.report import ASKED, PHOTOS, ReportRequest, RunReport, make_report
from train.show.report_page import class_names, report_page
from train.show.run_state import read_run

HOSTILE = "<script>alert(1)</script>\"'&{{7*7}}\u202e\x07"
EPOCHS = 3


@pytest.fixture(scope="module")
def run(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three epochs; read only."""
    out = tmp_path_factory.mktemp("runs") / "first run"
    fit(built, out, "--epochs", EPOCHS)
    return out


@pytest.fixture(scope="module")
def report(run: Path) -> RunReport:
    return make_report(ReportRequest(run=run, device="cpu"))


@pytest.fixture(scope="module")
def printed(run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ran]:
    """The page by the command, and what it said."""
    page = tmp_path_factory.mktemp("page") / "run.html"
    ran = train("report", run, "--html", page, "--device", "cpu", "--json")
    assert ran.code == 0, ran.err
    return page, ran


def test_the_command_measures_what_evaluate_does(
    printed: tuple[Path, Ran], run: Path, built: Path
) -> None:
    found = printed[1].json
    expected = measure((run / "best.pt",), built, MeasureOptions(device="cpu"))
    measured = found["measured"]
    assert {key: measured[key] for key in expected.to_json()} == expected.to_json()
    assert measured["confusion"]["images"] == 24
    assert (found["checkpoint"], found["epochs"], found["updates"]) == ("best.pt", 3, 18)
    assert found["lowest_top1_error"] == expected.top1_error
    assert re.search(r"wrote \S+run\.html: [\d.,]+ [KM]iB", printed[1].err)
    assert len(printed[1].err.splitlines()) == 3


@pytest.mark.parametrize(("width_px", "dark"), [(360, False), (1280, True)])
def test_the_page_is_sound_and_says_what_was_measured(
    browser: Browser, printed: tuple[Path, Ran], width_px: int, dark: bool
) -> None:
    page, measured = printed[0], printed[1].json["measured"]
    with open_page(browser, page, width_px=width_px, dark=dark) as opened:
        check_sound(opened)
        assert opened.texts("h1") == ["Training run: first run"]
        titles = opened.evaluate(
            "[...document.querySelectorAll('svg.chart > title')].map(t => t.textContent)"
        )
        assert titles == [
            "Loss over updates",
            "Error over updates",
            "Learning rate over updates",
            "What photographs of these classes were taken for",
        ]
        text = opened.texts("main")[0]
        top1 = f"{100 * measured['top1_error']:.2f} %"
        assert f"top-1 error {top1}" in text
        assert "top-5" not in text.partition("Photographs and their best labels")[0]
        facts = dict(zip(opened.texts("dt"), opened.texts("dd"), strict=True))
        assert (facts["preset"], facts["updates"], facts["trained on"]) == (
            "source-2010", "18", "cpu",
        )  # fmt: skip
        assert facts["photographs"] == "train 96, val 24"
        assert f"{top1}, epoch" in facts["lowest top-1 error"]
        validations = [row.split("\t")[0] for row in opened.texts("table.numbers tbody tr")]
        assert validations == [str(epoch + 1) for epoch in range(EPOCHS)]
        check_pictures(opened.evaluate("[...document.images].map(i => i.alt)"))
        check_bars(opened, measured["photos"])


def check_pictures(alts: list[str]) -> None:
    """Filters, the photographs with their labels, and the neighbours."""
    assert sum(alt.startswith("Photograph of the class") for alt in alts) == PHOTOS
    assert sum(alt.startswith("Photograph of val, class") for alt in alts) == ASKED
    assert sum(alt.startswith("Training photograph, class") for alt in alts) == 6 * ASKED
    assert sum("filters of 11x11 pixels" in alt for alt in alts) == 1  # a narrow net: one block
    assert len(alts) == PHOTOS + 7 * ASKED + 1


def check_bars(opened: Any, photos: list[dict[str, Any]]) -> None:
    """Each class a bar, as long as its probability; the right one alone has a tick."""
    shares = opened.evaluate("[...document.querySelectorAll('meter')].map(m => m.value)")
    said = [share for photo in photos for _, share in photo["best"]]
    assert shares == pytest.approx(said, abs=1e-4)
    ticks = [text.startswith("✓") for text in opened.texts("ol.bars .name")]
    right = [label == photo["label"] for photo in photos for label, _ in photo["best"]]
    assert ticks == right
    assert sum(ticks) == PHOTOS  # of four classes, all are among the best five


def test_the_same_run_gives_the_same_page(report: RunReport, printed: tuple[Path, Ran]) -> None:
    assert render(report_page(report)) == printed[0].read_text("utf-8")
    assert json.loads(json.dumps(report.to_json())) == printed[1].json


def test_another_seed_shows_other_photographs(run: Path, report: RunReport) -> None:
    other = make_report(ReportRequest(run=run, device="cpu", seed=1, sample=10))
    assert other.measured is not None
    assert report.measured is not None
    assert [g.record for g in other.measured.guesses] != [g.record for g in report.measured.guesses]
    assert other.measured.evaluation.to_json() == report.measured.evaluation.to_json()
    near = {n.record for each in other.measured.neighbourhoods for n in each.nearest}
    assert (other.measured.sample, len(near) <= 10) == (10, True)


def test_a_training_photograph_is_its_own_neighbour(run: Path) -> None:
    found = make_report(ReportRequest(run=run, device="cpu", split="train"))
    assert found.measured is not None
    assert found.measured.confusion.images == 96
    for each in found.measured.neighbourhoods:
        # alone, it came in a batch of another size, whose sums may be rounded otherwise
        assert each.nearest[0].distance == pytest.approx(0, abs=1e-3)
        assert each.record in {near.record for near in each.nearest if near.distance < 1e-3}


def test_hostile_class_names_are_words(browser: Browser, report: RunReport, tmp_path: Path) -> None:
    measured = report.measured
    assert measured is not None
    names = [f"n{label}" for label in range(4)]
    words = {name: f"{HOSTILE}{name}, x" for name in names}
    data = replace(measured.data, labels=LabelMap.from_names(names, words=words))
    page = report_page(replace(report, measured=replace(measured, data=data)))
    write_page(tmp_path / "page.html", page)
    with open_page(browser, tmp_path / "page.html") as opened:
        check_sound(opened)
        assert opened.evaluate("document.scripts.length") == 0
        shown = opened.texts("ol.bars .name")
        assert all("<script>alert(1)</script>\"'&{{7*7}}\\u202e\\x07n" in name for name in shown)
        charted = opened.evaluate("document.querySelector('#confusion-desc').textContent")
        assert "<script>alert(1)" in charted


def test_short_names_are_never_equal() -> None:
    words = {"a": "crane, machine", "b": "crane, bird", "c": "", "d": "\ud800 ,", "e": "x" * 9}
    names = class_names(LabelMap.from_names(words, words=words))
    assert names[:2] == ["crane (label 0)", "crane (label 1)"]
    assert len(set(names)) == 5
    assert all(name.strip() and name.isprintable() for name in names)


def copied(run: Path, dest: Path, *names: str) -> Path:
    dest.mkdir()
    for name in names:
        shutil.copy(run / name, dest / name)
    return dest


def test_a_run_that_has_saved_nothing_shows_its_curves(
    browser: Browser, run: Path, tmp_path: Path
) -> None:
    """And its last line may be half written."""
    folder = copied(run, tmp_path / "young", "config.toml", "run.json")
    lines = (run / "steps.csv").read_text().splitlines(keepends=True)
    (folder / "steps.csv").write_text("".join(lines[:5]) + lines[5][:9])
    found = make_report(ReportRequest(run=folder, dataset="/nowhere"))
    assert (found.measured, found.state.updates, found.state.saved_name) == (None, 4, None)
    write_page(tmp_path / "page.html", report_page(found))
    with open_page(browser, tmp_path / "page.html") as opened:
        check_sound(opened)
        assert "No network has been saved yet" in opened.texts(".lead")[0]
        assert opened.evaluate("document.querySelectorAll('svg.chart').length") == 3
    (folder / "steps.csv").unlink()
    assert "Nothing has been logged yet" in render(report_page(read_only(folder)))


def read_only(folder: Path) -> RunReport:
    return RunReport(state=read_run(folder), measured=None)


def test_the_newest_network_stands_in_for_the_best(run: Path, tmp_path: Path) -> None:
    folder = copied(run, tmp_path / "r", "config.toml", "run.json", "last.pt", "steps.csv")
    found = make_report(ReportRequest(run=folder, device="cpu", sample=8))
    assert found.state.saved_name == "last.pt"
    assert found.measured is not None
    assert found.state.validations == []
    assert "Training run: r" in render(report_page(found))


def test_the_dataset_is_that_of_the_run(run: Path, built: Path, tmp_path: Path) -> None:
    origin = RunFolder(run).read_origin()
    assert origin is not None
    assert (origin.dataset, origin.devices, origin.processes) == (str(built), ("cpu",), 1)
    old = copied(run, tmp_path / "old", "config.toml", "last.pt")  # of before it was noted
    with pytest.raises(ConfigError, match="name it with --dataset"):
        make_report(ReportRequest(run=old))
    moved = shutil.copytree(built, tmp_path / "moved")
    found = make_report(ReportRequest(run=old, dataset=str(moved), device="cpu", sample=8))
    assert found.measured is not None
    info = json.loads((moved / "dataset_info.json").read_text())
    (last,) = info["splits"]["val"]["shards"][-1:]
    info["splits"]["val"]["shards"] = info["splits"]["val"]["shards"][:-1]
    info["splits"]["val"]["records"] -= last["records"]
    from imgprep.dataset.index import fingerprint_of

    info["fingerprint"] = fingerprint_of(info)
    (moved / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(CheckpointError, match="trained on another dataset"):
        make_report(ReportRequest(run=old, dataset=str(moved)))


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"dataset": 1}', '{"devices": 7}', '{"dataset": "a", "more": 1}']
)
def test_malformed_notes_of_a_run_are_a_sentence(text: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(FormatError, match=r"run\.json"):
        RunFolder(tmp_path).read_origin()


def test_what_is_missing_is_a_sentence(run: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no run"):
        make_report(ReportRequest(run=tmp_path))
    with pytest.raises(DataError, match="split 'test' has no records"):
        make_report(ReportRequest(run=run, split="test", device="cpu"))
    ran = train("report", run, "--html", tmp_path / "none" / "a.html", "--dataset", tmp_path)
    assert ran.code == 1
    assert "not a finished dataset" in ran.err
    assert "Traceback" not in ran.err
