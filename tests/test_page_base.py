"""Pages stand alone: no network, no script, escaped texts, both colour schemes, any width."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser

from imgprep.errors import DestinationError
from imgprep.pages.charts import colours, svg
from imgprep.pages.images import jpeg, png
from imgprep.pages.page import (
    Bar,
    Card,
    Cards,
    Chart,
    Grid,
    Page,
    Pictures,
    Section,
    Table,
    render,
    write_page,
)
from tests.browser import check_sound, chromium, open_page

HOSTILE = "<script>alert(1)</script>\"'&"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


def chart(name: str) -> Chart:
    values = [{"x": k, "y": k * k, "curve": curve} for k in range(5) for curve in ("a", HOSTILE)]
    spec = {
        "width": 500,
        "height": 150,
        "data": {"values": values},
        "mark": {"type": "line", "clip": True},
        "encoding": {
            "x": {"field": "x", "type": "quantitative"},
            "y": {"field": "y", "type": "quantitative"},
            "color": {"field": "curve", "scale": colours(["a", HOSTILE])},
        },
    }
    drawn = svg(spec, name=name, label=f"Curve {HOSTILE}", description="Two curves & more")
    return Chart(svg=drawn, caption="a chart")


def sample() -> Page:
    pixels = np.arange(48 * 64 * 3, dtype=np.uint8).reshape(48, 64, 3)
    tile = png(pixels, alt=HOSTILE, caption=HOSTILE, shown_px=128, pixelated=True)
    photo = jpeg(pixels, alt="photo", caption="n01440764")
    bars = [Bar(name=HOSTILE, share=0.75, marked=True), Bar(name="other", share=0.25)]
    parts = (
        chart("one"),
        chart("two"),
        Table(head=["what", "how many"], rows=[[HOSTILE, "1,234"]], caption="counts"),
        Pictures(items=[tile, photo], caption="pictures"),
        Grid(columns=[f"{k:+d}" for k in range(-3, 4)], rows=[("PC1", [tile] * 7)], caption="grid"),
        Cards(items=[Card(picture=photo, bars=bars)], caption="cards"),
    )
    section = Section(title=HOSTILE, text=[HOSTILE, "x" * 300], parts=parts)
    facts = [("images", "96"), ("fingerprint", "0" * 64)]
    return Page(title=HOSTILE, lead=HOSTILE, facts=facts, sections=[section], footer=[HOSTILE])


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width_px", [360, 1280])
def test_a_page_of_everything_is_sound(
    browser: Browser, tmp_path: Path, width_px: int, dark: bool
) -> None:
    path = tmp_path / "page.html"
    assert write_page(path, sample()) == path.stat().st_size
    with open_page(browser, path, width_px=width_px, dark=dark) as opened:
        check_sound(opened)
        assert opened.texts("h1") == [HOSTILE]
        assert opened.evaluate("document.scripts.length") == 0
        paper = opened.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (paper == "rgb(253, 253, 252)") is not dark


def test_the_same_values_give_the_same_page() -> None:
    assert render(sample()) == render(sample())


def test_pixels_of_a_png_are_kept(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write_page(path, sample())
    pixels = np.arange(48 * 64 * 3, dtype=np.uint8).reshape(48, 64, 3)
    with open_page(browser, path) as opened:
        first = opened.evaluate(
            """(() => { const i = document.images[0], c = document.createElement('canvas');
            [c.width, c.height] = [i.naturalWidth, i.naturalHeight];
            const g = c.getContext('2d'); g.drawImage(i, 0, 0);
            return [...g.getImageData(0, 0, c.width, 1).data]; })()"""
        )
    assert np.array_equal(np.array(first).reshape(-1, 4)[:, :3], pixels[0])


def test_a_page_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(DestinationError, match=r"none/page\.html: cannot write the page"):
        write_page(tmp_path / "none" / "page.html", sample())
