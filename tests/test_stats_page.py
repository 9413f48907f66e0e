"""``imgprep stats --html``: the page says what ``stats --json`` says, and is drawn in a browser."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from html import escape
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser

from imgprep.dataset.format import sources_name
from imgprep.dataset.index import load_index
from imgprep.dataset.labels import LabelMap
from imgprep.pages.page import Grid, render, write_page
from imgprep.pages.preview import choose_records
from imgprep.pages.stats_charts import classes_chart
from imgprep.pages.stats_data import (
    NOISE_SD,
    SAMPLE,
    STEPS,
    StatsData,
    gather,
    most_colourful,
    shift_levels,
    under_noise,
)
from imgprep.pages.stats_page import stats_page
from imgprep.verify.dataset import read_source_labels
from tests.browser import check_sound, open_page
from tests.conftest import imgprep

# Pictures of a grid that are cut off at the side, so that one would have to scroll to them.
OUT_OF_VIEW = """[...document.querySelectorAll('table.grid img')].filter(image => {
    const box = image.closest('.scroll').getBoundingClientRect();
    const own = image.getBoundingClientRect();
    return own.left < box.left - 1 || own.right > box.right + 1 || own.width < 32;
}).map(image => image.alt)"""


@pytest.fixture(scope="module")
def data(built: Path) -> StatsData:
    return gather(built, "scikit-learn")


@pytest.mark.parametrize(("width_px", "dark"), [(360, False), (1280, True)])
def test_the_page_is_sound_and_says_what_stats_says(
    browser: Browser, built: Path, tmp_path: Path, width_px: int, dark: bool
) -> None:
    ran = imgprep("stats", built, "--html", tmp_path / "page.html", "--json")
    assert ran.code == 0, ran.err
    assert re.fullmatch(r"wrote \S+page\.html: [\d.,]+ [KM]iB\n", ran.err)
    with open_page(browser, tmp_path / "page.html", width_px=width_px, dark=dark) as opened:
        check_sound(opened)
        assert opened.evaluate("document.querySelectorAll('svg.chart').length") == 6
        rows = {row.split("\t")[0]: row.split("\t")[1:] for row in opened.texts("tbody tr")}
        assert rows["standard deviation, 0-255"] == [f"{v:.3f}" for v in ran.json["stdevs_255"]]
        assert rows["eigenvalue, 0-1"] == [f"{v:.5f}" for v in ran.json["eigenvalues_01"]]
        assert rows["this dataset"] == [f"{v:.2f}" for v in ran.json["mean_rgb_255"]]
        green = [f"{v:+.4f}" for v in ran.json["eigenvectors"][1]]
        assert rows["eigenvector, G"] == green
        fingerprint = json.loads((built / "dataset_info.json").read_text())["fingerprint"]
        assert fingerprint in opened.texts("footer")[0]
        marks = "document.querySelectorAll('#cloud-red-green-title ~ g .role-mark path').length"
        assert opened.evaluate(marks) >= len(STEPS)
        assert opened.evaluate(OUT_OF_VIEW) == [], "noise is compared along a row, in one view"
        bars = "[...document.querySelectorAll('svg [id=classes-title] ~ g .mark-rect path')].length"
        assert opened.evaluate(bars) == 8


def test_the_same_dataset_gives_the_same_page(built: Path, data: StatsData) -> None:
    assert render(stats_page(data)) == render(stats_page(gather(built, "scikit-learn")))


def test_the_two_readings_are_what_the_paper_and_the_source_say(data: StatsData) -> None:
    pca = data.report.pca
    for k in range(3):
        axis = pca.eigenvectors[:, k]
        source = shift_levels(pca, "source")[:, k]
        assert source == pytest.approx(NOISE_SD * np.sqrt(pca.eigenvalues[k]) * axis)
        # Pixels on 0-1 have eigenvalues 255^2 times smaller, and shifts 255 times smaller.
        paper_01 = NOISE_SD * pca.eigenvalues[k] / 255**2 * axis
        assert shift_levels(pca, "paper")[:, k] == pytest.approx(255 * paper_01)
    grey = np.full((2, 2, 3), 128, np.uint8)
    brighter = under_noise(grey, pca, "source", 0, 3)
    moved = shift_levels(pca, "source")[:, 0]
    assert np.array_equal(brighter[0, 0], np.floor(128.5 + 3 * moved).astype(np.uint8))
    assert np.array_equal(under_noise(grey, pca, "paper", 2, 0), grey)


def test_the_photo_is_the_most_colourful(data: StatsData) -> None:
    grey = replace(data.photo, key="a", pixels_hwc=np.full((4, 4, 3), 90, np.uint8))
    assert most_colourful([grey, data.photo]) is data.photo
    assert most_colourful([replace(data.photo, key="z"), data.photo]) is data.photo


def test_names_of_classes_are_text_whatever_they_are(
    browser: Browser, data: StatsData, tmp_path: Path
) -> None:
    hostile = "<script>alert(1)</script>"
    names = [hostile, *data.labels.names[1:]]
    labels = LabelMap(
        tuple(
            replace(entry, name=name)
            for entry, name in zip(data.labels.classes, names, strict=True)
        )
    )
    page = stats_page(replace(data, labels=labels, photo=replace(data.photo, label=0)))
    assert hostile not in render(page)
    assert escape(hostile) in render(page)
    write_page(tmp_path / "page.html", page)
    with open_page(browser, tmp_path / "page.html") as opened:
        check_sound(opened)
        assert any(hostile in text for text in opened.texts("p"))


def test_a_thousand_classes_are_a_histogram(
    browser: Browser, data: StatsData, tmp_path: Path
) -> None:
    names = [f"n{k:08d}" for k in range(1000)]
    labels = LabelMap.from_names(names)
    counts = {"train": np.full(1000, 1300), "val": np.full(1000, 50)}
    counts["train"][7] = 732
    page = stats_page(replace(data, labels=labels, class_counts=counts))
    write_page(tmp_path / "page.html", page)
    with open_page(browser, tmp_path / "page.html", width_px=360) as opened:
        check_sound(opened)
        rows = opened.texts("tbody tr")
        assert "train, smallest\t732\tn00000007" in rows
        assert "val, mean\t50.0" in rows


def test_raw_records_skips_and_no_val(browser: Browser, mini: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    for folder in sorted((mini / "train").iterdir()):
        (source / folder.name).mkdir(parents=True)
        for path in sorted(folder.iterdir())[:4]:
            (source / folder.name / path.name).write_bytes(path.read_bytes())
    (source / folder.name / "broken.JPEG").write_bytes(b"\xff\xd8\xff nothing")
    options = ("--on-error", "skip", "--encoding", "raw", "--size", 64)
    ran = imgprep("build-shards", source, tmp_path / "out", *options)
    assert ran.code == 3, ran.err
    ran = imgprep("stats", tmp_path / "out", "--html", tmp_path / "page.html")
    assert ran.code == 0, ran.err
    with open_page(browser, tmp_path / "page.html") as opened:
        check_sound(opened)
        assert any("broken.JPEG" in row for row in opened.texts("tbody tr"))
        assert "Skipped: 1" in opened.texts("caption")


def test_without_training_images_there_is_no_page(mini: Path, tmp_path: Path) -> None:
    assert imgprep("build-shards", mini, tmp_path / "out", "--split", "val").code == 0
    ran = imgprep("stats", tmp_path / "out", "--html", tmp_path / "page.html")
    assert ran.code == 1
    assert "training split" in ran.err
    assert not (tmp_path / "page.html").exists()


def test_class_folders_of_any_bytes_have_a_page(
    browser: Browser, mini: Path, tmp_path: Path
) -> None:
    """The chart maker ends the process at a control character, and no text holds stray bytes."""
    photos = sorted((mini / "train").rglob("*.*"))
    names = (b"a\x01b", b"a\xffb", b"a\x1b[31mb", "a\u202eb".encode(), b"plain")
    for name, photo in zip(names, photos, strict=False):
        folder = tmp_path / "source" / os.fsdecode(name)
        folder.mkdir(parents=True)
        (folder / photo.name).write_bytes(photo.read_bytes())
    assert imgprep("build-shards", tmp_path / "source", tmp_path / "out", "--size", 64).code == 0
    ran = imgprep("stats", tmp_path / "out", "--html", tmp_path / "page.html")
    assert ran.code == 0, ran.err
    text = (tmp_path / "page.html").read_text()
    assert all(character.isprintable() or character == "\n" for character in text)
    with open_page(browser, tmp_path / "page.html") as opened:
        check_sound(opened)
        shown = opened.evaluate("document.querySelector('#classes-title').parentNode.textContent")
        assert r"a\x01b" in shown
        assert r"a\xffb" in shown


def test_classes_whose_names_begin_alike_have_bars_of_their_own(data: StatsData) -> None:
    labels = LabelMap.from_names(f"{'begin' * 20}-{k}" for k in range(5))
    counts = {"train": np.array([11, 12, 13, 14, 15])}
    drawn = classes_chart(replace(data, labels=labels, class_counts=counts))
    named = re.findall(r">(beginbegin[^<]*)</text>", drawn)
    assert len(set(named)) == len(named) == 5


def test_few_shards_are_read_however_many_there_are(built: Path) -> None:
    index = load_index(built)
    labels = read_source_labels(index.store, sources_name("train"))
    records = choose_records(index, "train", labels, replace(SAMPLE, records=1000))
    shown = sum(map(len, records.values()))
    largest = sorted(shard.records for shard in index.splits["train"].shards)[-2:]
    assert SAMPLE.shards_max == len(largest)
    assert 0 < shown <= sum(largest) < index.splits["train"].records


def test_noise_too_small_for_a_picture_is_said_to_be(data: StatsData) -> None:
    dull = replace(data.report.pca, eigenvalues=np.array([9000.0, 1000.0, 1.0]))
    page = stats_page(replace(data, report=replace(data.report, pca=dull)))
    (noise,) = (
        section for section in page.sections if section.title == "Effect of the lighting noise"
    )
    source, paper = (part for part in noise.parts if isinstance(part, Grid))
    most = 3 * np.abs(shift_levels(dull, "paper")[:, 2]).max()
    assert f"PC3 ({most:.2f})" in paper.caption
    assert "PC1" not in paper.caption.partition("Less than half a level")[2]
    source_most = 3 * np.abs(shift_levels(dull, "source")[:, 2]).max()
    assert ("Less than half a level" in source.caption) is bool(source_most < 0.5)
