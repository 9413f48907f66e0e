"""AlexNet on one device or on two, with one layout of weights for both.

``build_net`` makes the net; ``Net`` says what it can do.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from train.config import NetConfig
from train.errors import ConfigError
from train.net.alexnet import GroupedNet
from train.net.base import Masks, Net, Role, check_state
from train.net.columns import ColumnNet
from train.net.init import initial_state
from train.net.layout import Plan, net_plan
from train.net.randomness import MaskKey

__all__ = ["MaskKey", "Masks", "Net", "Plan", "Role", "build_net", "check_state", "net_plan"]


def build_net(
    config: NetConfig,
    *,
    classes: int,
    devices: Sequence[torch.device],
    columns: bool,
    seed: int,
    image_px: int = 224,
) -> Net:
    """The net with its first weights: float32, the same from one seed however it is divided.

    With ``columns`` two devices (which may be one twice), else one. ConfigError if they do not fit
    the architecture, or if images of ``image_px`` are too small.
    """
    plan = net_plan(config, classes=classes, image_px=image_px)
    net: Net
    if columns:
        net = ColumnNet(plan, config, devices)
    elif len(devices) == 1:
        net = GroupedNet(plan, config, devices[0])
    else:
        raise ConfigError(f"a net that is not in columns takes one device, not {len(devices)}")
    net.load_canonical_state(initial_state(plan, config, seed=seed))
    return net
