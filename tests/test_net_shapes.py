"""The golden numbers of the network: parameters, sizes, padding, initial weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.nets import CPU, SMALL, SMALL_PX, SOURCE, batch, make_net
from train.config import NetConfig
from train.errors import ConfigError
from train.net import MaskKey, build_net, net_layout
from train.net.init import initial_state, precision_warning
from train.net.layout import pooled
from train.presets import preset, source_2012

PARAMETERS = {
    "conv1": 34_944,
    "conv2": 307_456,
    "conv3": 885_120,
    "conv4": 663_936,
    "conv5": 442_624,
    "fc6": 37_752_832,
    "fc7": 16_781_312,
    "fc8": 4_097_000,
}


def paper_net(**settings: Any) -> nn.Module:
    config = NetConfig(**settings)
    return build_net(config, classes=1000, devices=[CPU], columns=False, seed=0)


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [("two-column", 60_965_224), ("one-gpu", 59_798_312), ("conv6", 61_555_304)],
)
def test_parameter_counts_are_the_published_ones(architecture: str, expected: int) -> None:
    net = paper_net(architecture=architecture)
    assert sum(parameter.numel() for parameter in net.parameters()) == expected
    layout = net_layout(NetConfig(architecture=architecture), classes=1000)  # type: ignore[arg-type]
    assert layout.parameters == expected


def test_each_layer_has_its_parameters_and_the_columns_share_them() -> None:
    layout = net_layout(NetConfig(), classes=1000)
    assert {name: layer.parameters for name, layer in layout.layers.items()} == PARAMETERS
    halves = {name: layer.half().parameters for name, layer in layout.layers.items()}
    assert sum(halves.values()) == 32_531_112
    assert sum(halves.values()) - halves["fc8"] == 28_434_112


def test_each_layer_has_its_size_for_224_pixels() -> None:
    net = paper_net()
    shapes: dict[str, tuple[int, ...]] = {}

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        shapes[names[module]] = (*inputs[0].shape[1:], *output.shape[1:])

    names = {module: name.split(".")[-1] for name, module in net.named_modules()}
    for module, name in names.items():
        if name in PARAMETERS:
            module.register_forward_hook(note)
    with torch.no_grad():
        logits = net(torch.zeros(1, 3, 224, 224))
    assert logits.shape == (1, 1000)
    assert shapes == {
        "conv1": (3, 227, 227, 96, 55, 55),
        "conv2": (96, 27, 27, 256, 27, 27),
        "conv3": (256, 13, 13, 384, 13, 13),
        "conv4": (384, 13, 13, 384, 13, 13),
        "conv5": (384, 13, 13, 256, 13, 13),
        "fc6": (9216, 4096),
        "fc7": (4096, 4096),
        "fc8": (4096, 1000),
    }
    layout = net_layout(NetConfig(), classes=1000)
    assert (layout.sides, layout.padding_px) == ((55, 27, 13, 6), 3)
    assert [pooled(side) for side in (55, 27, 13)] == [27, 13, 6]


def test_the_last_windows_of_layer_1_read_zeros() -> None:
    """224 pixels end inside the last window, which covers pixels 216 to 226."""
    net = make_net(columns=False, image_px=224)
    images, _ = batch(1, 224)
    seen: list[Tensor] = []
    conv1 = net.get_submodule("towers.0.conv1")
    conv1.register_forward_hook(lambda module, inputs, output: seen.append(output.clone()))
    with torch.no_grad():
        net(images)
    weight = net.canonical_state()["conv1.weight"]
    corner = (weight[:, :, :8, :8] * images[:, :, 216:, 216:]).sum((1, 2, 3))
    torch.testing.assert_close(seen[0][0, :, 54, 54], corner)
    inner = functional.conv2d(images, weight, stride=4)
    torch.testing.assert_close(seen[0][:, :, :54, :54], inner)


def test_no_images_give_no_logits() -> None:
    for settings in (SMALL, {**SMALL, **SOURCE}):
        net = make_net(columns=True, settings=settings)
        assert net(torch.zeros(0, 3, SMALL_PX, SMALL_PX, dtype=torch.float64)).shape == (0, 7)


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid", "leaky-relu"])
@pytest.mark.parametrize("settings", [{}, SOURCE, {"lrn": False}, {"architecture": "one-gpu"}])
def test_every_variant_trains(activation: str, settings: dict[str, Any]) -> None:
    net = make_net(columns=False, settings={**SMALL, **settings, "activation": activation})
    images, labels = batch(2)
    masks = net.draw_masks(MaskKey.whole(seed=0, step=0, rows=2))
    loss = functional.cross_entropy(net(images, masks), labels)
    torch.autograd.backward(loss)
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_activations_replace_the_relu() -> None:
    """Without weights the hidden layers see only their bias of 1."""
    expected = {"relu": 1.0, "tanh": torch.tanh(torch.tensor(1.0)).item(), "leaky-relu": 1.0}
    for activation, value in expected.items():
        net = make_net(
            columns=False, settings={**SMALL, "activation": activation, "init_sd": 1e-12}
        )
        features = net.forward_features(batch(1)[0])
        torch.testing.assert_close(features, torch.full_like(features, value * 0.5))


def test_the_orders_of_layer_1_differ_only_with_lrn() -> None:
    """Pooling and ReLU commute; LRN sees negative values only in the source's order."""
    for lrn in (True, False):
        nets = [
            make_net(columns=False, settings={**SMALL, "lrn": lrn, "first_layer": order})
            for order in ("conv-relu-lrn-pool", "conv-lrn-pool-relu")
        ]
        with torch.no_grad():
            first, second = (net.forward_features(batch(2)[0]) for net in nets)
        assert torch.equal(first, second) is not lrn


@pytest.mark.parametrize("conv345", [0.01, 0.03])
def test_initial_weights_have_their_spread_and_biases(conv345: float) -> None:
    config = NetConfig(init_sd_conv345=conv345, init_bias=0.7)
    layout = net_layout(config, classes=1000)
    state = initial_state(layout, config, seed=4)
    for name in layout.layers:
        weight = state[f"{name}.weight"]
        expected = conv345 if name in ("conv3", "conv4", "conv5") else 0.01
        error = expected / weight.numel() ** 0.5  # of the mean; that of the spread is smaller
        assert abs(weight.mean().item()) < 5 * error
        assert abs(weight.std().item() - expected) < 5 * error
        bias = 0.7 if name in ("conv2", "conv4", "conv5", "fc6", "fc7") else 0.0
        assert (state[f"{name}.bias"] == torch.tensor(bias)).all()


def test_conv6_starts_with_the_authors_weights_and_biases() -> None:
    """Weights of 0.03 and biases of 1: layers-146-2012-2011.cfg 258-286 of the 2012 source."""
    config = replace(source_2012().net, architecture="conv6")
    state = initial_state(net_layout(config, classes=10), config, seed=0)
    assert (state["conv6.bias"] == 1).all()
    assert state["conv6.weight"].std().item() == pytest.approx(0.03, rel=0.01)


@pytest.mark.parametrize(
    ("settings", "parameters", "last_side"),
    [
        ({"pool_size": 2}, 60_965_224, 6),  # the paper's plane sizes: "equivalent dimensions"
        ({"pool_stride": 3}, 60_965_224 - 32 * 4096 * 256, 2),
        ({"leave_out": "conv3"}, 60_965_224 - 885_120 + (256 - 192) * 9 * 384, 6),
        ({"leave_out": "conv4"}, 60_965_224 - 663_936, 6),
        ({"leave_out": "conv5"}, 60_965_224 - 442_624 + 128 * 36 * 4096, 6),
        ({"leave_out": "fc6"}, 60_965_224 - 16_781_312, 6),
        ({"leave_out": "fc7"}, 60_965_224 - 16_781_312, 6),
    ],
)
def test_pooling_and_left_out_layers_decide_the_sizes(
    settings: dict[str, Any], parameters: int, last_side: int
) -> None:
    layout = net_layout(NetConfig(**settings), classes=1000)
    assert layout.sides[-1] == last_side
    assert layout.parameters == parameters
    net = paper_net(**settings)
    assert sum(parameter.numel() for parameter in net.parameters()) == parameters
    with torch.no_grad():
        assert net(torch.zeros(1, 3, 224, 224)).shape == (1, 1000)


@pytest.mark.parametrize("architecture", ["two-column", "one-gpu", "conv6"])
def test_narrow_nets_work_at_96_pixels_with_every_setting(architecture: str) -> None:
    changes: list[dict[str, Any]] = [{}, {"pool_size": 2}, {"lrn": False}, {"dropout_keep": 1.0}]
    changes += [{"leave_out": name} for name in ("conv3", "conv4", "conv5", "fc6", "fc7")]
    for change in changes:
        settings = {"width_divisor": 16, "architecture": architecture, **change}
        net = make_net(columns=False, settings=settings)
        images, labels = batch(2)
        masks = net.draw_masks(MaskKey.whole(seed=0, step=0, rows=2))
        torch.autograd.backward(functional.cross_entropy(net(images, masks), labels))
        assert all(each.grad is not None for each in net.parameters())
        assert set(masks) == set(net.layout.hidden)


def test_keeping_all_units_turns_dropout_off() -> None:
    for kind in ("vanilla", "inverted"):
        net = make_net(columns=False, settings={**SMALL, "dropout": kind, "dropout_keep": 1.0})
        images, _ = batch(2)
        masks = net.draw_masks(MaskKey.whole(seed=0, step=0, rows=2))
        with torch.no_grad():
            assert torch.equal(net(images, masks), net(images))


@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_images_of_a_smaller_type_are_computed_in_the_type_of_the_weights(
    columns: bool, dtype: torch.dtype
) -> None:
    net = make_net(columns=columns).float()
    images = batch(2)[0].to(dtype)
    with torch.no_grad():
        assert torch.equal(net(images), net(images.float()))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert net(images).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("name", "warned"), [("paper", True), ("source-2012", False), ("modern", False)]
)
def test_bfloat16_warns_where_the_initial_weights_need_more(name: str, warned: bool) -> None:
    net = preset(name).net
    text = precision_warning(net, "bf16") or ""
    assert ("--precision fp16" in text and "--preset source-2012" in text) is warned
    assert precision_warning(net, "fp16") is precision_warning(net, "float32") is None


def test_the_warning_about_bfloat16_is_true() -> None:
    """Rounding errors of the part of the logits that depends on the image."""

    def error(name: str, dtype: torch.dtype) -> float:
        net = build_net(
            preset(name).net, classes=100, devices=[CPU], columns=False, seed=0, image_px=SMALL_PX
        )
        coarse, _ = batch(8, image_px=8)  # smooth images, which differ as photographs do
        images = functional.interpolate(coarse.float(), size=SMALL_PX, mode="bicubic")
        masks = net.draw_masks(MaskKey.whole(seed=0, step=0, rows=1))  # one for all images
        with torch.no_grad():
            exact = net(images, masks)
            with torch.autocast("cpu", dtype=dtype):
                rounded = net(images, masks).float()
        exact, rounded = exact - exact.mean(0), rounded - rounded.mean(0)
        return float((rounded - exact).norm() / exact.norm())

    worst = error("paper", torch.bfloat16)
    assert worst > 0.15
    assert worst > 5 * error("paper", torch.float16)
    assert worst > 5 * error("source-2012", torch.bfloat16)
    assert worst > 5 * error("modern", torch.bfloat16)


def test_initial_weights_depend_only_on_the_seed() -> None:
    grouped, columns = make_net(columns=False), make_net(columns=True)
    for name, value in grouped.canonical_state().items():
        assert torch.equal(value, columns.canonical_state()[name])
    other = make_net(columns=False, seed=2).canonical_state()
    assert not torch.equal(other["conv1.weight"], grouped.canonical_state()["conv1.weight"])
    assert not torch.equal(other["fc6.weight"], other["fc7.weight"])


@pytest.mark.parametrize("px", [64, 65, 67, 71, 100, 224, 227, 256])
def test_other_image_sizes_work(px: int) -> None:
    net = make_net(columns=True, image_px=px)
    assert net(batch(1, px)[0]).shape == (1, 7)


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="too small"):
        net_layout(NetConfig(), classes=10, image_px=63)
    one_gpu = NetConfig(architecture="one-gpu")
    with pytest.raises(ConfigError, match="columns need"):
        build_net(one_gpu, classes=10, devices=[CPU, CPU], columns=True, seed=0)
    with pytest.raises(ConfigError, match="columns need"):
        build_net(NetConfig(), classes=10, devices=[CPU], columns=True, seed=0)
    with pytest.raises(ConfigError, match="one device; got 2"):
        build_net(NetConfig(), classes=10, devices=[CPU, CPU], columns=False, seed=0)
    with pytest.raises(ConfigError, match="width_divisor"):
        NetConfig(width_divisor=3)
    with pytest.raises(ConfigError, match=r"63 px are too small: the net needs at least 64 px"):
        net_layout(NetConfig(), classes=10, image_px=63)
    with pytest.raises(ConfigError, match=r"30 px are too small: the net needs at least 36 px"):
        net_layout(NetConfig(pool_size=2), classes=10, image_px=30)
    with pytest.raises(ConfigError, match=r"pool_size must be from 2 to 8; got 9"):
        NetConfig(pool_size=9)
    with pytest.raises(ConfigError, match=r"pool_stride must be from 1 to pool_size, which is 3"):
        NetConfig(pool_stride=4)
    with pytest.raises(ConfigError, match=r"leave_out must be one of conv3, .*; got 'conv1'"):
        NetConfig(leave_out="conv1")  # type: ignore[arg-type]
