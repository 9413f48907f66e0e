"""Dropout: what rescaling does, and how the average over masks approaches the one pass at test."""

from __future__ import annotations

import xml.etree.ElementTree
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.nets import SMALL, batch, make_net
from train.errors import ConfigError, DataError
from train.net import MaskKey, Net
from train.paper.dropout import DropoutReport, dropout_report
from train.paper.dropout_parts import averages_chart, averages_table, signal_table

ROWS = 6
WIDE: dict[str, Any] = {**SMALL, "init_sd": 0.04, "init_sd_conv345": 0.12}


def net_with(**settings: Any) -> Net:
    return make_net(columns=False, settings={**WIDE, **settings})


def report_of(net: Net, masks: int = 64) -> DropoutReport:
    return dropout_report(net, *batch(ROWS), masks=masks, seed=0)


def linear_net() -> Net:
    """A net whose hidden layers are linear for these images: positive weights and inputs."""
    net = net_with()
    state = net.canonical_state()
    for name in ("fc6", "fc7"):
        state[f"{name}.weight"] = state[f"{name}.weight"].abs()
    net.load_canonical_state(state)
    return net


def test_rescaling_keeps_the_mean_of_the_signal_between_training_and_test() -> None:
    for signal in report_of(linear_net()).signals:
        if signal.layer != "fc8":
            assert signal.training_mean == pytest.approx(signal.test_mean, rel=0.02)
            assert signal.training_rms > signal.test_rms


def test_inverted_dropout_passes_on_twice_as_much_with_the_same_weights() -> None:
    signals = {(each.kind, each.layer): each for each in report_of(net_with()).signals}
    first, second = signals["vanilla", "fc6"], signals["inverted", "fc6"]
    assert second.test_rms == pytest.approx(2 * first.test_rms)
    assert second.training_rms == pytest.approx(2 * first.training_rms)
    assert [layer for kind, layer in signals if kind == "vanilla"] == ["fc6", "fc7", "fc8"]


@pytest.mark.parametrize("kind", ["vanilla", "inverted"])
def test_with_scaled_weights_both_kinds_are_the_same_function(kind: str) -> None:
    found = report_of(net_with(dropout=kind))
    assert found.equivalent_difference < 1e-9 * found.test_logit_rms
    assert found.kind == kind


def test_the_average_of_a_linear_net_approaches_the_one_pass() -> None:
    found = report_of(linear_net(), masks=512)
    differences = [each.logit_difference for each in found.averages]
    assert [each.masks for each in found.averages] == [2**k for k in range(10)]
    assert differences[-1] < differences[0] / 8  # 1/22 by the law of large numbers
    assert found.averages[-1].probability_difference < found.averages[0].probability_difference


def test_one_mask_is_one_training_pass() -> None:
    net = net_with()
    images, labels = batch(ROWS)
    found = dropout_report(net, images, labels, masks=1, seed=4)
    with torch.no_grad():
        masks = net.draw_masks(MaskKey.whole(seed=4, step=0, rows=ROWS))
        trained, test = net(images, masks), net(images, None)
    (only,) = found.averages
    assert only.logit_difference == pytest.approx(rms(trained - test))
    assert only.top1_error == pytest.approx(error(trained, labels))
    assert found.test_error == pytest.approx(error(test, labels))
    assert found.test_logit_rms == pytest.approx(rms(test))
    same = (trained.argmax(1) == test.argmax(1)).double().mean()
    assert only.agreement == pytest.approx(float(same))


def rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


def error(score_nk: Tensor, labels_n: Tensor) -> float:
    return float((score_nk.argmax(1) != labels_n).double().mean())


def test_measuring_leaves_the_net_as_it_was() -> None:
    net = net_with()
    before = net.canonical_state()
    report_of(net, masks=2)
    assert all(torch.equal(value, net.canonical_state()[name]) for name, value in before.items())


def test_a_net_without_a_hidden_layer_is_measured_at_the_other() -> None:
    found = report_of(net_with(leave_out="fc7"), masks=4)
    assert [each.layer for each in found.signals] == ["fc6", "fc8"] * 2
    assert found.equivalent_difference < 1e-9 * found.test_logit_rms


def test_bad_input_is_a_sentence() -> None:
    with pytest.raises(ConfigError, match=r"drops no units \(net\.dropout_keep=1\)"):
        report_of(net_with(dropout_keep=1.0))
    images, labels = batch(ROWS)
    with pytest.raises(DataError, match="logits are not finite"):
        dropout_report(net_with(), images * torch.nan, labels, masks=2, seed=0)


def test_the_chart_and_the_tables_say_what_was_measured() -> None:
    found = report_of(net_with(), masks=6)
    signals, chart, averages = signal_table(found), averages_chart(found), averages_table(found)
    assert [row[0] for row in signals.rows] == [
        f"{kind}, {layer}" for kind in ("vanilla", "inverted") for layer in ("fc6", "fc7", "fc8")
    ]
    said = "".join(xml.etree.ElementTree.fromstring(chart.svg).itertext())
    assert f"6: {found.averages[-1].logit_difference:.3g}." in said
    assert [row[0] for row in averages.rows] == ["1", "2", "4", "6", "one pass"]
    assert len(found.to_json()["signals"]) == 6
