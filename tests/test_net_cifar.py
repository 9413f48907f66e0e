"""The four-layer net of the paper's figure 1: its sizes, what it computes, and a run with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.nets import CPU, batch, largest_difference, make_net
from tests.training import train
from train.config import NetConfig, RunConfig
from train.errors import ConfigError
from train.net import MaskKey, build_net, net_layout
from train.net.init import initial_state

PX = 32
PLAIN: dict[str, Any] = {"architecture": "cifar4", "lrn": False}
# Wide enough for differences between images to reach the logits.
WIDE: dict[str, Any] = {**PLAIN, "init_sd": 0.05}


def test_parameters_and_sides_are_those_of_the_authors_net() -> None:
    """32, 32 and 64 filters of 5x5, planes of 32, 16, 8 and 4 pixels (layers-18pct.cfg)."""
    layout = net_layout(NetConfig(**PLAIN), classes=10, image_px=PX)
    assert {name: layer.parameters for name, layer in layout.layers.items()} == {
        "conv1": 2_432,
        "conv2": 25_632,
        "conv3": 51_264,
        "fc4": 10_250,
    }
    assert (layout.sides, layout.padding_px, layout.columns) == ((32, 16, 8, 4), 0, 1)
    assert (layout.output, layout.hidden, layout.joints()) == ("fc4", (), {})


def reference_logits(w: dict[str, Tensor], images: Tensor, lrn: bool) -> Tensor:
    """Compute the logits with windows cut out one by one, which count existing pixels only."""

    def pooled(x: Tensor, mean: bool) -> Tensor:
        side = -(-(x.shape[-1] - 3) // 2) + 1
        cells = [
            x[:, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3] for i in range(side) for j in range(side)
        ]
        values = [each.mean((2, 3)) if mean else each.amax((2, 3)) for each in cells]
        return torch.stack(values, 2).view(*x.shape[:2], side, side)

    def conv(name: str, x: Tensor) -> Tensor:
        return functional.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], padding=2)

    def normed(x: Tensor) -> Tensor:
        if not lrn:
            return x
        return functional.local_response_norm(x, 5, alpha=5e-4, beta=0.75, k=2)

    x = normed(pooled(conv("conv1", images), mean=False).relu())
    x = normed(pooled(conv("conv2", x).relu(), mean=True))
    x = pooled(conv("conv3", x).relu(), mean=True).flatten(1)
    return functional.linear(x, w["fc4.weight"], w["fc4.bias"])


@pytest.mark.parametrize("lrn", [False, True])
@pytest.mark.parametrize("px", [PX, 24, 27])
def test_logits_and_gradients_equal_the_reference(lrn: bool, px: int) -> None:
    net = make_net(columns=False, image_px=px, settings={**WIDE, "lrn": lrn})
    state = {name: value.requires_grad_() for name, value in net.canonical_state().items()}
    images, labels = batch(3, px)
    masks = net.draw_masks(MaskKey.whole(seed=0, step=0, rows=3))
    assert masks == {}
    logits, expected = net(images, masks), reference_logits(state, images, lrn)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-9)
    assert logits.std(0).max() > 1e-4
    torch.autograd.backward(functional.cross_entropy(logits, labels))
    torch.autograd.backward(functional.cross_entropy(expected, labels))
    found = net.canonical(
        {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
    )
    wanted = {name: value.grad for name, value in state.items() if value.grad is not None}
    assert largest_difference(found, wanted) < 1e-9


def test_initial_weights_are_the_authors() -> None:
    """0.0001 in conv1, 0.01 elsewhere, no biases; ``init_sd_conv345`` is for AlexNet alone."""
    config = NetConfig(**PLAIN, init_sd_conv345=0.5)
    state = initial_state(net_layout(config, classes=10, image_px=PX), config, seed=0)
    for name, sd in (("conv1", 1e-4), ("conv2", 0.01), ("conv3", 0.01), ("fc4", 0.01)):
        assert state[f"{name}.weight"].std().item() == pytest.approx(sd, rel=0.05)
        assert not state[f"{name}.bias"].any()


def test_what_does_not_fit_is_a_sentence() -> None:
    config = NetConfig(**PLAIN)
    with pytest.raises(ConfigError, match="10 px are too small: the net needs at least 12 px"):
        net_layout(config, classes=10, image_px=10)
    with pytest.raises(ConfigError, match="columns need"):
        build_net(config, classes=10, devices=[CPU, CPU], columns=True, seed=0, image_px=PX)
    with pytest.raises(ConfigError, match="cifar4 architecture has only one column"):
        RunConfig(net=config, parallel="columns")
    with pytest.raises(ConfigError, match="leave_out must be none for cifar4"):
        NetConfig(**PLAIN, leave_out="conv3")


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid", "leaky-relu"])
def test_it_trains_from_the_command_line(built: Path, tmp_path: Path, activation: str) -> None:
    """A run, its evaluation and its export."""
    run = tmp_path / "run"
    settings = ("net.architecture=cifar4", "net.lrn=false", f"net.activation={activation}",
                "input.crop_px=32", "optim.weight_decay=0", "optim.lr=0.001")  # fmt: skip
    ran = train("fit", built, "--out", run, "--device", "cpu", "--batch-size", 16, "--epochs", 2,
                *(part for each in settings for part in ("--set", each)))  # fmt: skip
    assert ran.code == 0, ran.err
    measured = train("evaluate", run / "last.pt", built, "--device", "cpu", "--json")
    assert json.loads(measured.out)["count"] == 24
    exported = train("export", run / "last.pt", "--out", tmp_path / "net.pt")
    assert exported.code == 0, exported.err
    assert list(torch.load(tmp_path / "net.pt", weights_only=True))[-1] == "fc4.bias"
