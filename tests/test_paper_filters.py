"""Figure 3: colour and orientation are measured as they look, column by column."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from train.config import NetConfig
from train.errors import CheckpointError, ConfigError
from train.net.init import initial_state
from train.net.layout import NetLayout, net_layout
from train.paper.filters import (
    RunFilters,
    coherences,
    colour_shares,
    learned_shares,
    run_filters,
    specialisation,
)

SIDE = 11
LAYOUT = net_layout(NetConfig(), classes=4)
NOISE = {"conv1.weight": torch.randn(96, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))}


def gabor(angle_rad: float, rgb: tuple[float, float, float]) -> NDArray[np.float32]:
    """A bar pattern of one colour (3, side, side)."""
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE // 2
    along = x * np.cos(angle_rad) + y * np.sin(angle_rad)
    plane = np.cos(1.2 * along) * np.exp(-(x**2 + y**2) / 18)
    return np.asarray(np.array(rgb)[:, None, None] * plane, np.float32)


def blob(rgb: tuple[float, float, float]) -> NDArray[np.float32]:
    """A round patch of one colour (3, side, side)."""
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE // 2
    return np.asarray(np.array(rgb)[:, None, None] * np.exp(-(x**2 + y**2) / 18), np.float32)


GREY, RED_GREEN, RED = (1.0, 1.0, 1.0), (1.0, -1.0, 0.0), (1.0, 0.0, 0.0)


def net_of(first: list[NDArray[np.float32]], second: list[NDArray[np.float32]]) -> torch.Tensor:
    """96 filters: each column repeats its patterns, with a little noise."""
    columns = [np.stack([column[k % len(column)] for k in range(48)]) for column in (first, second)]
    noise = np.random.default_rng(0).normal(0, 0.01, (96, 3, SIDE, SIDE))
    return torch.from_numpy(np.asarray(np.concatenate(columns) + noise, np.float32))


BARS = [gabor(angle, GREY) for angle in (0.0, 0.6, 1.2, 2.0)]
BLOBS = [blob(RED_GREEN), blob((1.0, -0.5, -0.5)), blob((0.0, 1.0, -1.0))]


def measured(weight: torch.Tensor, layout: NetLayout = LAYOUT, run: str = "s0") -> RunFilters:
    return run_filters(run, {"conv1.weight": weight}, NOISE, layout)


def test_grey_filters_have_no_colour_and_opponent_ones_have_all() -> None:
    filters = np.stack([gabor(0.3, GREY), blob(GREY), gabor(0.3, RED_GREEN), blob(RED)])
    assert colour_shares(filters) == pytest.approx([0, 0, 1, 2 / 3], abs=1e-6)


def test_bars_are_oriented_at_every_angle_and_round_patches_are_not() -> None:
    bars = np.stack([gabor(angle, GREY) for angle in np.linspace(0, np.pi, 9)])
    assert coherences(bars).min() > 0.8
    assert coherences(np.stack([blob(GREY), blob(RED_GREEN)])).max() < 1e-9


@pytest.mark.parametrize("factor", [-1.0, 3.0])
def test_the_measures_do_not_depend_on_sign_and_size(factor: float) -> None:
    filters = NOISE["conv1.weight"].numpy()
    for measure in (colour_shares, coherences):
        assert measure(filters) == pytest.approx(measure(filters * np.float32(factor)), abs=1e-6)
    assert learned_shares(filters * np.float32(factor), filters).max() < 1e-6


def test_turning_a_filter_changes_neither_measure() -> None:
    filters = NOISE["conv1.weight"].numpy()
    turned = np.rot90(filters, axes=(2, 3)).copy()
    assert colour_shares(turned) == pytest.approx(colour_shares(filters))
    assert coherences(turned) == pytest.approx(coherences(filters))


def test_noise_is_two_thirds_coloured_and_hardly_oriented() -> None:
    filters = NOISE["conv1.weight"].numpy()
    assert colour_shares(filters).mean() == pytest.approx(2 / 3, abs=0.02)
    assert coherences(filters).mean() < 0.25


def test_empty_and_broken_filters_are_numbers() -> None:
    weight = torch.zeros(96, 3, SIDE, SIDE)
    weight[0, 0, 0, 0] = torch.nan
    found = measured(weight)
    assert found.colour_p == 1.0
    assert found.columns[0].colour.max() == found.columns[0].orientation.max() == 0


def test_columns_of_bars_and_of_colours_specialise() -> None:
    found = specialisation([measured(net_of(BARS, BLOBS)), measured(net_of(BLOBS, BARS))])
    assert found.appears
    assert found.colour_p is not None
    assert found.colour_p < 1e-9
    bars, blobs = found.runs[0].columns
    assert bars.colour.max() < 0.1
    assert blobs.colour.min() > 0.9
    assert bars.orientation.mean() > blobs.orientation.mean() + 0.5
    assert found.verdict().startswith(
        "The columns specialise: their mean colour differs by 1.00 (p "
    )


def test_equal_columns_do_not_specialise() -> None:
    found = specialisation([measured(net_of(BARS + BLOBS, BARS + BLOBS))])
    assert found.appears is False
    assert found.verdict().startswith("No specialisation is visible: ")


def test_untrained_filters_decide_nothing() -> None:
    found = specialisation([measured(NOISE["conv1.weight"] * 2)])
    assert found.appears is None
    assert "still mostly the noise" in found.verdict()


def test_few_filters_decide_nothing_unless_there_are_many_seeds() -> None:
    layout = net_layout(NetConfig(width_divisor=16), classes=4)
    start = initial_state(layout, NetConfig(width_divisor=16), seed=0)
    weight = torch.from_numpy(np.stack([*BARS[:3], *BLOBS]))
    run = run_filters("s0", {"conv1.weight": weight}, start, layout)
    found = specialisation([run])
    assert found.appears is None
    assert "A column has 3 filters, too few to compare with 1 seed" in found.verdict()
    assert specialisation([run] * 3).appears


def test_a_net_of_one_column_compares_nothing() -> None:
    layout = net_layout(NetConfig(architecture="one-gpu"), classes=4)
    found = specialisation([measured(NOISE["conv1.weight"], layout)])
    assert (len(found.runs[0].columns), found.colour_p, found.appears) == (1, None, None)
    assert "one column" in found.verdict()
    assert found.to_json()["runs"][0]["colour_p"] is None


def test_what_has_no_filters_is_a_sentence() -> None:
    with pytest.raises(CheckpointError, match=r"no filters conv1\.weight"):
        run_filters("s0", {"fc8.weight": torch.zeros(3, 3)}, NOISE, LAYOUT)
    with pytest.raises(CheckpointError, match=r"s0: conv1\.weight has shape \(48,"):
        measured(torch.zeros(48, 3, SIDE, SIDE))
    with pytest.raises(ConfigError, match="at least one finished run"):
        specialisation([])
