"""An independent computation of a training step, layer by layer, from the description of the net.

It uses torch's own operations on one column at a time and the update rule as the paper prints it;
nothing of ``train.net`` except the initial weights and masks that it is given.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.nets import CLASSES, SMALL, SMALL_PX, batch, largest_difference, make_net
from train.net import MaskKey
from train.net.layout import net_layout
from train.optim.schedule import rate, start
from train.optim.sgd import Sgd
from train.presets import preset

STEPS = 3
Pair = tuple[Tensor, Tensor]
# Wider than the presets' weights, because an eighth of the units would carry little signal.
WIDE: dict[str, Any] = {"init_sd": 0.05, "init_sd_conv345": 0.1}


def lrn(x: Tensor, *, divided: bool) -> Tensor:
    """Paper 3.3 with n 5, k 2, beta 0.75; torch divides its alpha by 5, as the source does."""
    return functional.local_response_norm(x, 5, alpha=1e-4 if divided else 5e-4, beta=0.75, k=2)


def spatial_norm(x: Tensor) -> Tensor:
    """5x5 in the map: scale 1e-3 / 25, power 0.75, constant 1 (layer cnorm2 of layers-145.cfg)."""
    kernel = torch.ones(x.shape[1], 1, 5, 5, dtype=x.dtype)
    squares = functional.conv2d(x**2, kernel, padding=2, groups=x.shape[1])
    return x / (1 + 1e-3 / 25 * squares) ** 0.75


def pool(x: Tensor) -> Tensor:
    return functional.max_pool2d(x, 3, 2)


def reference_logits(
    w: dict[str, Tensor], images: Tensor, masks: dict[str, Tensor] | None, *, source: bool
) -> Tensor:
    """Compute the logits of two columns: as the author ran them (``source``) or wrote of them."""

    def half(name: str, column: int) -> Pair:
        return w[f"{name}.weight"].chunk(2)[column], w[f"{name}.bias"].chunk(2)[column]

    padded = functional.pad(images, (0, 3, 0, 3))  # 3 pixels of zeros: 1 + ceil((px - 11) / 4)
    pooled: list[Tensor] = []
    for column in (0, 1):
        x = functional.conv2d(padded, *half("conv1", column), stride=4)
        x = pool(lrn(x, divided=True)).relu() if source else pool(lrn(x.relu(), divided=False))
        x = lrn(functional.conv2d(x, *half("conv2", column), padding=2).relu(), divided=source)
        pooled.append(pool(spatial_norm(x) if source else x))
    both = torch.cat(pooled, 1)
    pooled = []
    for column in (0, 1):
        x = functional.conv2d(both, *half("conv3", column), padding=1).relu()
        x = functional.conv2d(x, *half("conv4", column), padding=1).relu()
        pooled.append(pool(functional.conv2d(x, *half("conv5", column), padding=1)).relu())
    x = torch.cat(pooled, 1).flatten(1)
    for name in ("fc6", "fc7"):
        x = functional.linear(x, w[f"{name}.weight"], w[f"{name}.bias"]).relu()
        x = x * 0.5 if masks is None else x * masks[name]
    return functional.linear(x, w["fc8.weight"], w["fc8.bias"])


@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("name", ["paper", "source-2012", "source-2010"])
def test_training_steps_equal_the_reference(name: str, columns: bool) -> None:
    config, source = preset(name), name != "paper"
    settings = {"first_layer": config.net.first_layer, "spatial_norm": config.net.spatial_norm}
    settings["lrn_alpha_divided"] = config.net.lrn_alpha_divided
    px = SMALL_PX
    assert net_layout(config.net, classes=CLASSES, image_px=px).padding_px == 3  # as at 224
    net = make_net(columns=columns, settings={**SMALL, **WIDE, **settings}, image_px=px)
    sgd = Sgd(net, config.optim)
    w = net.canonical_state()
    v = {key: torch.zeros_like(value) for key, value in w.items()}
    for step in range(STEPS):
        images, labels = batch(4, px, seed=step)
        key = MaskKey.whole(seed=3, step=step, rows=4)
        masks = {layer: torch.cat(parts, 1) for layer, parts in net.draw_masks(key).items()}
        leaves = {each: value.clone().requires_grad_() for each, value in w.items()}
        expected = reference_logits(leaves, images, masks, source=source)
        found = net(images, net.draw_masks(key))
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
        torch.autograd.backward(functional.cross_entropy(expected, labels))
        torch.autograd.backward(functional.cross_entropy(found, labels))
        sgd.step(rate(config.optim, start(config.optim), 0))
        sgd.zero_grad()
        for each, leaf in leaves.items():
            assert leaf.grad is not None
            lr, decay = paper_constants(each, source=source)
            v[each] = 0.9 * v[each] - decay * lr * w[each] - lr * leaf.grad
            w[each] = w[each] + v[each]
    assert largest_difference(net.canonical_state(), w) < 1e-10
    with torch.no_grad():
        expected = reference_logits(w, images, None, source=source)
        torch.testing.assert_close(net(images), expected, rtol=1e-8, atol=1e-10)
        assert expected.std(0).max() > 1e-4, "the logits do not depend on the images"


def paper_constants(name: str, *, source: bool) -> tuple[float, float]:
    """Rate and decay: 0.01 and 0.0005; the source's biases have twice the rate and no decay."""
    if source and name.endswith("bias"):
        return 0.02, 0.0
    return 0.01, 0.0005
