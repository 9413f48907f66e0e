"""AlexNet on one device, or in two columns on two devices, with one set of canonical weights.

In: settings (``NetConfig``), the number of classes, devices and a seed. Out: a ``Net`` that maps
image tensors to logits. Start with ``build_net`` below, then ``layout`` (the layers and their
sizes) and ``tower`` (what each layer computes).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from train.config import NetConfig
from train.errors import ConfigError
from train.net.alexnet import GroupedNet
from train.net.base import Masks, Net, Role, check_state
from train.net.cifar import CifarNet
from train.net.columns import ColumnNet
from train.net.init import initial_state
from train.net.layout import NetLayout, net_layout
from train.net.randomness import MaskKey

__all__ = [
    "MaskKey",
    "Masks",
    "Net",
    "NetLayout",
    "Role",
    "build_net",
    "check_state",
    "empty_net",
    "net_layout",
]


def empty_net(layout: NetLayout, config: NetConfig, device: torch.device) -> Net:
    """Build the whole net on one device, with uninitialised weights."""
    kind = CifarNet if config.architecture == "cifar4" else GroupedNet
    return kind(layout, config, device)


def build_net(
    config: NetConfig,
    *,
    classes: int,
    devices: Sequence[torch.device],
    columns: bool,
    seed: int,
    image_px: int = 224,
) -> Net:
    """Build the net with its initial weights: float32, equal for equal seeds however it is split.

    ``columns`` takes two devices (they may be the same one), otherwise there must be one.

    Raises:
        ConfigError: the devices do not fit the architecture, or ``image_px`` is too small.
    """
    layout = net_layout(config, classes=classes, image_px=image_px)
    net: Net
    if columns:
        net = ColumnNet(layout, config, devices)
    elif len(devices) == 1:
        net = empty_net(layout, config, devices[0])
    else:
        raise ConfigError(f"a net without columns runs on one device; got {len(devices)}")
    net.load_canonical_state(initial_state(layout, config, seed=seed))
    return net
