"""Figure 2: the drawing holds the numbers of the plan that nets are built from."""

from __future__ import annotations

import re
import xml.etree.ElementTree
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from playwright.sync_api import Browser

from imgprep.pages.page import Charts, Page, Section, Table, write_page
from tests.browser import check_sound, open_page
from train.config import Architecture, NetConfig
from train.errors import ConfigError
from train.net import build_net
from train.paper.diagram import diagram_svg, diagrams_table, net_diagram
from train.paper.item import Finished, ItemResult
from train.paper.items.fig2 import ITEM, diagrams
from train.paper.page import paper_page
from train.paper.results import SCHEMA, Dataset, MadeItem, Results

SVG = "{http://www.w3.org/2000/svg}"


def test_the_paper_s_net_has_its_published_numbers() -> None:
    found = net_diagram(NetConfig(), classes=1000, image_px=224)
    assert (found.parameters, found.neurons) == (60_965_224, 659_272)
    assert [stage.neurons for stage in found.stages[:5]] == [290400, 186624, 64896, 64896, 43264]
    assert 2 * found.bytes_crossing == 468_992
    crossing = {stage.name: stage.bytes_in for stage in found.stages if stage.bytes_in}
    assert crossing == {"conv3": 173_056, "fc6": 36_864, "fc7": 16_384, "fc8": 8_192}


@pytest.mark.parametrize(
    ("architecture", "settings"),
    [
        *((name, {}) for name in get_args(Architecture)),
        *(("two-column", {"leave_out": name}) for name in ("conv3", "conv5", "fc6")),
    ],
)
def test_it_has_the_size_of_the_net_that_is_built(
    architecture: Architecture, settings: dict[str, Any]
) -> None:
    config = NetConfig(architecture=architecture, width_divisor=8, **settings)
    side = 32 if architecture.startswith("cifar") else 96
    found = net_diagram(config, classes=7, image_px=side)
    net = build_net(
        config,
        classes=7,
        devices=[torch.device("cpu")],
        columns=False,
        seed=0,
        image_px=side,
    )
    assert found.parameters == sum(parameter.numel() for parameter in net.parameters())
    sizes: dict[str, torch.Size] = {}
    for name in net.layout.layers:
        module = net.towers[0].get_submodule(name)
        module.register_forward_hook(lambda m, x, y, name=name: sizes.update({name: y.shape[1:]}))
    net(torch.zeros(1, 3, side, side))
    assert {stage.name: stage.neurons for stage in found.stages} == {
        name: size.numel() for name, size in sizes.items()
    }


def test_the_drawing_shows_columns_joints_and_bytes() -> None:
    root = xml.etree.ElementTree.fromstring(
        diagram_svg(net_diagram(NetConfig(), classes=1000, image_px=224))
    )
    boxes = list(root.iter(f"{SVG}rect"))
    assert len(boxes) == 2 + 2 * 7 + 1  # the image, seven layers in two columns, fc8 in one
    crossing = [line for line in root.iter(f"{SVG}line") if "series-2" in line.get("stroke", "")]
    assert len(crossing) == 2 * 3 + 1  # both ways at conv3, fc6 and fc7; one way at fc8
    texts = "\n".join(text.text or "" for text in root.iter(f"{SVG}text"))
    assert re.findall(r"(.+) B\n", texts) == ["173,056", "36,864", "16,384", "8,192"]
    assert "48 × 55×55" in texts
    assert "11×11 /4" in texts


def test_a_net_of_one_column_has_nothing_that_crosses() -> None:
    found = net_diagram(NetConfig(architecture="one-gpu"), classes=10, image_px=224)
    text = diagram_svg(found)
    assert found.bytes_crossing == 0
    assert "series-2" not in text
    assert not re.search(r"\d B<", text)


def test_settings_are_drawn() -> None:
    text = diagram_svg(net_diagram(NetConfig(lrn=False, pool_size=2), classes=10, image_px=224))
    assert "LRN" not in text
    assert "pool 2/2" in text
    with pytest.raises(ConfigError, match="images of 40 px are too small"):
        net_diagram(NetConfig(), classes=10, image_px=40)


def test_the_table_adds_up() -> None:
    nets = diagrams()
    table = diagrams_table(nets)
    for net in nets:
        *layers, total = [row for row in table.rows if row[0].startswith(f"{net.name}, ")]
        assert len(layers) == len(net.stages)
        for column in (3, 4, 5):
            assert sum(number(row[column]) for row in layers) == number(total[column])


def number(text: str) -> int:
    return int(text.replace(",", ""))


def result() -> ItemResult:
    return ITEM.analyse(
        Finished(scale=None, seeds=1, dataset="", runs={})  # type: ignore[arg-type]
    )


def test_the_item_needs_no_runs_and_says_what_the_net_has() -> None:
    found = result()
    assert found.verdict.decision == "reproduced"
    assert "60,965,224 parameters and 659,272 neurons" in found.verdict.text
    assert isinstance(found.figures[0].part, Charts)
    assert isinstance(found.figures[0].table, Table)
    assert [net["name"] for net in found.numbers["nets"]] == list(get_args(Architecture))


@pytest.mark.parametrize(("width_px", "dark"), [(360, False), (1000, True)])
def test_the_drawings_fit_a_phone(
    browser: Browser, tmp_path: Path, width_px: int, dark: bool
) -> None:
    (figure,) = result().figures
    page = Page(
        title="Figure 2", lead="", facts=[], sections=[Section(title="x", parts=[figure.part])]
    )
    write_page(tmp_path / "page.html", page)
    with open_page(browser, tmp_path / "page.html", width_px=width_px, dark=dark) as opened:
        check_sound(opened)
        widths = opened.evaluate(
            "[...document.querySelectorAll('svg')].map(s => s.getBoundingClientRect().width)"
        )
        assert len(widths) == len(get_args(Architecture))
        assert all(300 <= width <= 340 for width in widths)


def test_the_page_shows_the_numbers_of_the_drawings_as_a_table() -> None:
    used = {"location": "x", "classes": 4, "train_images": 96, "val_images": 24}
    results = Results(
        schema=SCHEMA,
        version="0",
        scale="small",
        seeds=1,
        dataset=Dataset(
            location="x", fingerprint="f", classes=4, train_images=96, val_images=24, used=used
        ),
        cifar=None,
        machine="",
        date="",
        seconds=0.0,
        side_by_side=1,
        items=[MadeItem(item=ITEM, result=result(), runs=[])],
        commands=[],
    )
    (shown,) = [each for each in paper_page(results).sections if each.title == ITEM.title]
    assert [part.kind for part in shown.parts] == ["charts", "table"]
