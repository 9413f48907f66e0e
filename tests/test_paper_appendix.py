"""Figures 3 and 4 and the appendix, from real runs: what they show, and what they refuse."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser

from imgprep.pages.page import Page, Section, write_page
from tests.browser import check_sound, open_page
from tests.conftest import make_dataset
from tests.training import fit
from train.errors import CheckpointError, DataError
from train.paper.item import Finished, FinishedRun, Item, ItemResult, RunSpec, Scale
from train.paper.items import by_id
from train.show.measure import MeasureOptions, measure

SCALE = Scale(name="small", preset="source-2012", settings={}, cifar={}, seeds=2, record_px=None)
IDS = (
    "fig2", "fig3", "fig4",
    "appendix-saturation", "appendix-dropout", "appendix-pca", "appendix-unsupervised",
)  # fmt: skip
SEEDS = 2


def trained(specs: Sequence[RunSpec], dataset: Path, folder: Path) -> Finished:
    """Run what the items need, for one epoch each."""
    runs: dict[str, list[FinishedRun]] = {}
    for spec in {(spec.name, spec.seed): spec for spec in specs}.values():
        out = folder / f"{spec.name}-{spec.seed}"
        settings = [
            part for key, value in spec.settings.items() for part in ("--set", f"{key}={value}")
        ]
        fit(dataset, out, "--epochs", 1, "--seed", spec.seed, *settings)
        run = FinishedRun(spec=spec, folder=out, command="", dataset=str(dataset))
        runs.setdefault(spec.name, []).append(run)
    return Finished(scale=SCALE, seeds=SEEDS, dataset=str(dataset), runs=runs)


def item(name: str) -> Item:
    return by_id()[name]


@pytest.fixture(scope="module")
def finished(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Everything that the items need; read only."""
    specs = [spec for name in IDS for spec in item(name).runs(SCALE, SEEDS)]
    return trained(specs, built, tmp_path_factory.mktemp("paper"))


@pytest.fixture(scope="module")
def results(finished: Finished) -> dict[str, ItemResult]:
    return {name: item(name).analyse(finished) for name in IDS}


def test_the_items_share_their_runs(finished: Finished) -> None:
    assert {name: len(group) for name, group in finished.runs.items()} == {
        "baseline": SEEDS,
        "activation-tanh": 1,
        "activation-sigmoid": 1,
        "activation-leaky-relu": 1,
    }


def test_every_item_says_something_in_words_numbers_and_pictures(
    results: dict[str, ItemResult],
) -> None:
    for result in results.values():
        assert result.verdict.text.endswith(".")
        assert result.figures
        assert json.loads(json.dumps(result.numbers, allow_nan=False)) == result.numbers
    decisions = {name: result.verdict.decision for name, result in results.items()}
    assert decisions["fig2"] == "reproduced"
    assert decisions["fig3"] == "not decidable at this scale"
    assert {decisions[name] for name in IDS[2:]} == {"shown"}


def test_figure_3_has_every_seed_and_column(results: dict[str, ItemResult]) -> None:
    grid, charts = (figure.part for figure in results["fig3"].figures)
    assert [name for name, _ in grid.rows] == [  # type: ignore[union-attr]
        f"seed {seed}, column {column}" for seed in range(SEEDS) for column in "ab"
    ]
    assert len(charts.items) == SEEDS  # type: ignore[union-attr]
    for run in results["fig3"].numbers["runs"]:
        for column in run["columns"]:
            assert max(column["learned"]) < 0.5  # one epoch of six updates


def test_figure_4_counts_what_it_shows(results: dict[str, ItemResult]) -> None:
    numbers = results["fig4"].numbers
    assert (numbers["photographs"], numbers["neighbours"]) == (8, 30)
    assert numbers["right_among_five"] == 8  # of four classes
    assert "first five" not in results["fig4"].verdict.text
    guesses, neighbours = (figure.table for figure in results["fig4"].figures)
    assert guesses is not None
    assert neighbours is not None
    assert sum(row[1].startswith(f"{row[0]} ") for row in guesses.rows) == numbers["right_first"]
    same = sum(cell.startswith(f"{row[0]} ") for row in neighbours.rows for cell in row[1:])
    assert same == numbers["neighbours_of_same_class"]


def test_saturation_is_measured_before_and_after(results: dict[str, ItemResult]) -> None:
    nets = results["appendix-saturation"].numbers["nets"]
    assert [(net["activation"], net["updates"]) for net in nets] == [
        (name, updates) for updates in (0, 6) for name in ("relu", "tanh", "sigmoid", "leaky-relu")
    ]
    for net in nets:
        shares = [layer["saturated"] for layer in net["layers"][:-1]]
        assert (max(shares) == 0) == (net["activation"] == "leaky-relu") or max(shares) < 0.5


def test_the_dropout_sample_is_measured_as_evaluate_does(
    results: dict[str, ItemResult], finished: Finished
) -> None:
    numbers = results["appendix-dropout"].numbers
    (run, *_) = finished.of("baseline")
    expected = measure((run.last,), finished.dataset, MeasureOptions(device="cpu"))
    assert numbers["photographs"] == expected.count == 24
    assert numbers["test_top1_error"] == pytest.approx(expected.top1_error)
    assert numbers["averages"][-1]["masks"] == 256


def test_pca_needs_no_run(results: dict[str, ItemResult], finished: Finished) -> None:
    alone = Finished(scale=SCALE, seeds=1, dataset=finished.dataset, runs={})
    found = item("appendix-pca").analyse(alone)
    assert found.numbers == results["appendix-pca"].numbers
    for climb in found.numbers["climbs"]:
        assert climb["angle_to_scikit_learn_degrees"] < 1e-6


def test_clusters_cover_the_sample(results: dict[str, ItemResult]) -> None:
    for each in results["appendix-unsupervised"].numbers["clusterings"]:
        assert sum(cluster["photographs"] for cluster in each["clusters"]) == 24
        assert 0.25 <= each["purity"] <= 1


def test_the_same_runs_give_the_same_results(
    results: dict[str, ItemResult], finished: Finished
) -> None:
    for name in ("fig3", "appendix-dropout", "appendix-unsupervised"):
        assert item(name).analyse(finished) == results[name]


@pytest.mark.parametrize(("width_px", "dark"), [(360, False), (1000, True)])
def test_the_page_is_sound(
    browser: Browser, results: dict[str, ItemResult], tmp_path: Path, width_px: int, dark: bool
) -> None:
    sections = [
        Section(
            title=item(name).title,
            text=[result.verdict.text, *result.remarks],
            parts=[
                part
                for figure in result.figures
                for part in (figure.part, figure.table)
                if part is not None
            ]
            + list(result.tables),
        )
        for name, result in results.items()
    ]
    write_page(tmp_path / "page.html", Page(title="x", lead="y", facts=[], sections=sections))
    with open_page(browser, tmp_path / "page.html", width_px=width_px, dark=dark) as opened:
        check_sound(opened)
        ids = opened.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
        assert len(ids) == len(set(ids))


def photos(folder: Path, classes: int, *, grey: bool) -> Path:
    """A folder of photographs: noise, in one folder for each class."""
    random = np.random.default_rng(0)
    for split, count in (("train", 16), ("val", 6)):
        for label in range(classes):
            place = folder / split / f"c{label}"
            place.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 256, (130, 130, 1 if grey else 3), dtype=np.uint8)
                picture = np.broadcast_to(pixels, (130, 130, 3))
                Image.fromarray(np.ascontiguousarray(picture)).save(place / f"{number}.png")
    return folder


def test_grey_photographs_have_no_second_axis(tmp_path: Path) -> None:
    dataset = make_dataset(
        photos(tmp_path / "grey", 2, grey=True), tmp_path / "out", shard_images=20
    )
    alone = Finished(scale=SCALE, seeds=1, dataset=str(dataset), runs={})
    found = item("appendix-pca").analyse(alone)
    assert "there is no second colour axis" in found.verdict.text


def test_one_class_and_another_dataset_are_a_sentence(finished: Finished, tmp_path: Path) -> None:
    dataset = make_dataset(
        photos(tmp_path / "one", 1, grey=False), tmp_path / "out", shard_images=20
    )
    with pytest.raises(DataError, match="at least two classes"):
        item("appendix-unsupervised").analyse(
            trained([RunSpec(name="baseline")], dataset, tmp_path / "runs")
        )
    elsewhere = [moved(run, str(dataset)) for run in finished.of("baseline")]
    for name in ("appendix-dropout", "appendix-unsupervised"):
        with pytest.raises(CheckpointError, match="another dataset"):
            item(name).analyse(
                Finished(scale=SCALE, seeds=1, dataset=str(dataset), runs={"baseline": elsewhere})
            )


def moved(run: FinishedRun, dataset: str) -> FinishedRun:
    return FinishedRun(spec=run.spec, folder=run.folder, command=run.command, dataset=dataset)
