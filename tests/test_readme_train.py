"""What the pages say of the training is so: presets, commands, figures of the network."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import pytest

from tests.documents import README, TRAIN_PAGE, marked, section, text_of
from train.config import NetConfig
from train.net.layout import net_layout
from train.presets import PRESETS, preset
from train.settings import to_toml


def settings_of(name: str) -> dict[str, Any]:
    """Dotted settings of a preset, as TOML has them."""
    nested = tomllib.loads(to_toml(preset(name)))
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        inner = value.items() if isinstance(value, dict) else [("", value)]
        flat |= {f"{key}.{name}".removesuffix("."): each for name, each in inner}
    return flat


def shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def test_the_table_of_presets_is_their_differences() -> None:
    """Every setting that differs is in the table, with the values that it has."""
    header, _, *lines = marked("presets").splitlines()
    assert re.findall(r"`([\w-]+)`", header) == list(PRESETS)
    table: dict[str, list[str]] = {}
    for line in lines:
        _, keys, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        names = re.findall(r"`([\w.]+)`", keys)
        # a cell of a row with two settings has two values
        values = [[cell] if len(names) == 1 else cell.split(", ") for cell in cells]
        for k, name in enumerate(names):
            table[name] = [value[k] for value in values]
    every = [settings_of(name) for name in PRESETS]
    differing = {
        key: [shown(settings[key]) for settings in every]
        for key in every[0]
        if len({str(settings[key]) for settings in every}) > 1 and key != "preset"
    }
    assert table == differing


def test_every_option_that_the_pages_name_exists() -> None:
    from train.cli import cli

    options = {
        option
        for command in cli.commands.values()
        for parameter in command.params
        for option in parameter.opts
    } | {"--help", "-h"}
    text = text_of(TRAIN_PAGE) + section(README, "Train in five commands")
    launchers = re.sub(r"^(torchrun|srun).*?(?=fit)", "", text, flags=re.MULTILINE)
    named = set(re.findall(r"(?<![\w-])(--[a-z][a-z-]+)", launchers))
    assert named <= options


@pytest.mark.parametrize(
    "figure",
    ["60,965,224 parameters", "468,992 an image", "60,030,976 bytes", "243,860,896 bytes"],
)
def test_figures_of_the_network(figure: str) -> None:
    layout = net_layout(NetConfig(), classes=1000)
    sent = 4 * sum(
        values * (1 if layer == "fc8" else 2) for layer, values in layout.joints().items()
    )
    assert figure in text_of(TRAIN_PAGE).replace("\n", " ")
    assert figure in {
        f"{layout.parameters:,} parameters",
        f"{2 * sent:,} an image",
        f"{128 * 2 * sent:,} bytes",
        f"{4 * layout.parameters:,} bytes",
    }
