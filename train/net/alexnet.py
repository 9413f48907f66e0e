"""The whole net on one device: the columns of 2012 are the groups of grouped convolutions."""

from __future__ import annotations

import torch
from torch import Tensor

from train.config import NetConfig
from train.net.base import Masks, Net
from train.net.layout import NetLayout
from train.net.randomness import MaskKey
from train.net.tower import Tower


class GroupedNet(Net):
    """Any architecture on one device. Its weights are uninitialised until they are loaded."""

    def __init__(self, layout: NetLayout, config: NetConfig, device: torch.device) -> None:
        tower = Tower(layout.layers, layout, config, groups=layout.columns)
        super().__init__(layout, config, [device], [tower.allocated_on(device)])
        self.tower = [tower]  # in a list, so that torch does not register it a second time

    def forward_features(self, images: Tensor, masks: Masks | None = None) -> Tensor:
        (tower,) = self.tower
        x = tower.pool5(tower.pool2(tower.pool1(images)))
        if "conv6" in self.layout.layers:
            x = tower.conv6_output(x)
        x = x.flatten(1)
        for name in self.layout.hidden:
            x = tower.hidden(name, x, None if masks is None else masks[name][0])
        return x

    def draw_masks(self, key: MaskKey) -> Masks:
        (device,) = self.devices
        return {
            name: (torch.cat(self._column_masks(name, key, device, 0, 1), 1),)
            for name in self.layout.hidden
        }
