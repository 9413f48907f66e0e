"""Saturation: slopes are those of calculus, and measuring changes nothing."""

from __future__ import annotations

import itertools
import math
import xml.etree.ElementTree
from typing import Any

import pytest
import torch

from tests.nets import CLASSES, SMALL, SOURCE, batch, gradients, loss_of, make_net
from train.errors import DataError
from train.net.tower import ACTIVATIONS
from train.paper.saturation import NetState, net_state, relative_slopes
from train.paper.saturation_parts import saturation_charts, saturation_table

ROWS = 3
LAYERS = ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"]


def state_of(settings: dict[str, Any], updates: int = 0) -> NetState:
    net = make_net(columns=False, settings={**SMALL, **settings})
    return net_state(net, *batch(ROWS, seed=updates), updates=updates, seed=3)


@pytest.mark.parametrize(
    ("name", "slope_at_1", "slope_at_minus_1"),
    [
        ("relu", 1.0, 0.0),
        ("leaky-relu", 1.0, 0.01),
        ("tanh", 1 - math.tanh(1) ** 2, 1 - math.tanh(1) ** 2),
        ("sigmoid", 4 * 0.196611933, 4 * 0.196611933),
    ],
)
def test_slopes_are_those_of_calculus(
    name: Any, slope_at_1: float, slope_at_minus_1: float
) -> None:
    x = torch.tensor([1.0, -1.0, 0.5], dtype=torch.float64)
    found = relative_slopes(ACTIVATIONS[name], x)
    assert found[:2].tolist() == pytest.approx([slope_at_1, slope_at_minus_1])
    assert x.tolist() == [1.0, -1.0, 0.5]  # also the activations that work in place


def test_far_out_everything_but_the_leaky_relu_saturates() -> None:
    x = torch.tensor([-20.0, 20.0])
    shares = {
        name: float((relative_slopes(act, x) < 0.0025).double().mean())
        for name, act in ACTIVATIONS.items()
    }
    assert shares == {"relu": 0.5, "tanh": 1.0, "sigmoid": 1.0, "leaky-relu": 0.0}


@pytest.mark.parametrize("settings", [{}, SOURCE, {"activation": "tanh"}, {"lrn": False}])
def test_the_gradients_are_those_of_the_training_step(settings: dict[str, Any]) -> None:
    net = make_net(columns=False, settings={**SMALL, **settings})
    found = net_state(net, *batch(ROWS, seed=0), updates=0, seed=3)
    assert all(parameter.grad is None for parameter in net.parameters())
    loss = loss_of(net, ROWS)
    loss.backward()  # type: ignore[no-untyped-call]
    assert found.loss == pytest.approx(loss.item())
    expected = {name: float(each.norm()) for name, each in gradients(net).items()}
    assert [layer.layer for layer in found.layers] == LAYERS
    for layer in found.layers:
        assert layer.gradient_norm == pytest.approx(expected[f"{layer.layer}.weight"], rel=1e-6)


def test_measuring_leaves_the_net_as_it_was() -> None:
    net = make_net(columns=False)
    images, labels = batch(ROWS)
    before = net(images)
    net_state(net, images, labels, updates=0, seed=3)
    assert torch.equal(net(images), before)


def test_relu_saturates_where_it_is_zero() -> None:
    net = make_net(columns=False)
    images, labels = batch(ROWS)
    found = net_state(net, images, labels, updates=0, seed=3)
    (tower,) = net.towers
    below = (tower.conv1_output(images) <= 0).double().mean()  # type: ignore[operator]
    assert found.layers[0].saturated == pytest.approx(float(below))
    for layer in found.layers[:-1]:
        assert layer.saturated is not None
        assert layer.slope == pytest.approx(1 - layer.saturated)
    assert (found.layers[-1].saturated, found.layers[-1].dead) == (None, None)


def test_units_that_never_answer_are_dead() -> None:
    net = make_net(columns=False)
    state = net.canonical_state()
    state["fc6.bias"][: len(state["fc6.bias"]) // 4] = -1e6
    net.load_canonical_state(state)
    found = {each.layer: each for each in net_state(net, *batch(ROWS), updates=0, seed=3).layers}
    assert found["fc6"].dead == 0.25
    assert found["fc7"].dead == 0


def test_large_weights_saturate_tanh_and_starve_the_first_layers() -> None:
    small = state_of({"activation": "tanh", "init_sd": 0.01})
    large = state_of({"activation": "tanh", "init_sd": 1.0, "init_sd_conv345": 1.0})
    fc7 = LAYERS.index("fc7")
    assert (small.layers[fc7].saturated or 0) < 0.1
    assert (large.layers[fc7].saturated or 0) > 0.8


def test_a_loss_that_is_not_finite_is_a_sentence() -> None:
    net = make_net(columns=False)
    images, labels = batch(ROWS)
    with pytest.raises(DataError, match="the loss of relu is not finite"):
        net_state(net, images * torch.nan, labels % CLASSES, updates=0, seed=3)


def test_the_charts_and_the_table_say_what_was_measured() -> None:
    states = [
        state_of({"activation": name}, updates)
        for updates, name in itertools.product((0, 30), ("relu", "tanh"))
    ]
    before, after = saturation_charts(states[:2]), saturation_charts(states[2:])
    assert before.caption.startswith("Initial weights: ")
    for svg in after.items:
        text = "".join(xml.etree.ElementTree.fromstring(svg).itertext())
        assert "after 30 updates" in text
        assert "tanh: conv1" in text
    table = saturation_table(states[2:])
    assert table.caption.startswith("After 30 updates, for 3 photographs. Dead: ")
    assert len(table.rows) == 2 * len(LAYERS)
    assert table.rows[-1][:2] == ["tanh fc8", ""]
    assert state_of({}).to_json()["layers"][0]["layer"] == "conv1"
