"""Networks and batches for the tests: small, in double precision, on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from train.config import NetConfig
from train.net import MaskKey, Net, build_net

CPU = torch.device("cpu")
CLASSES = 7
SMALL_PX = 96  # pool5 is 2 x 2

SMALL: dict[str, Any] = {"width_divisor": 8}
SOURCE: dict[str, Any] = {
    "first_layer": "conv-lrn-pool-relu",
    "lrn_alpha_divided": True,
    "spatial_norm": True,
    "init_sd_conv345": 0.03,
}


def make_net(
    *,
    columns: bool,
    image_px: int = SMALL_PX,
    seed: int = 1,
    classes: int = CLASSES,
    settings: Mapping[str, Any] = SMALL,
) -> Net:
    """Build a net in double precision; with ``columns`` both are on the CPU."""
    return build_net(
        NetConfig(**settings),
        classes=classes,
        devices=[CPU, CPU] if columns else [CPU],
        columns=columns,
        seed=seed,
        image_px=image_px,
    ).double()


def batch(rows: int, image_px: int = SMALL_PX, seed: int = 5) -> tuple[Tensor, Tensor]:
    """Draw noise as large as centred pixels, float64 (rows, 3, px, px), and labels."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(rows, 3, image_px, image_px, generator=generator, dtype=torch.float64)
    return images * 60, torch.randint(CLASSES, (rows,), generator=generator)


def loss_of(net: Net, rows: int = 3, step: int = 0, image_px: int = SMALL_PX) -> Tensor:
    """Compute the mean cross-entropy of a training batch, with the masks of that step."""
    images, labels = batch(rows, image_px, seed=step)
    masks = net.draw_masks(MaskKey.whole(seed=3, step=step, rows=rows))
    return nn.functional.cross_entropy(net(images, masks), labels)


def gradients(net: Net) -> dict[str, Tensor]:
    """Return the gradients by canonical name."""
    found = {}
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, f"{name} has no gradient"
        found[name] = parameter.grad
    return net.canonical(found)


def largest_difference(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """Return the largest difference between tensors of the same name."""
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)
