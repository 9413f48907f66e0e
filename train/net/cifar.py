"""The four-layer net for 32-pixel images, as for the paper's figure 1.

The paper does not print it. The author's cuda-convnet has one network of four layers with weights
for CIFAR-10 (layers-18pct.cfg): three 5x5 convolutions, each with 3/2 pooling (maxima after the
first, means after the others), and one fully connected layer. The published norms there lie within
each map; ``lrn`` normalises across maps in the same places, and figure 1 has no norm.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from train.config import NetConfig
from train.net.base import Masks, Net
from train.net.layout import NetLayout
from train.net.randomness import MaskKey
from train.net.tower import Tower

Pool = Callable[..., Tensor]


class CifarNet(Net):
    """The net ``cifar4`` on one device. Its weights are uninitialised until they are loaded."""

    def __init__(self, layout: NetLayout, config: NetConfig, device: torch.device) -> None:
        tower = Tower(layout.layers, layout, config, groups=1)
        super().__init__(layout, config, [device], [tower.allocated_on(device)])
        self.tower = [tower]  # in a list, so that torch does not register it a second time

    def forward_features(self, images: Tensor, masks: Masks | None = None) -> Tensor:
        """Compute the input of the last layer: the third pooling, (n, 64 * 4 * 4)."""
        (tower,) = self.tower
        x = self._pooled(tower.conv1_output(images), functional.max_pool2d)
        x = tower.normalised(tower.activation(x))
        x = tower.activation(tower.run("conv2", x))
        x = tower.normalised(self._pooled(x, functional.avg_pool2d))
        x = tower.activation(tower.run("conv3", x))
        return self._pooled(x, functional.avg_pool2d).flatten(1)

    def _pooled(self, x: Tensor, pool: Pool) -> Tensor:
        """Pool with windows that may reach over the edge, where they count existing pixels only."""
        return pool(x, self.config.pool_size, self.config.pool_stride, ceil_mode=True)

    def draw_masks(self, key: MaskKey) -> Masks:
        """Return no masks: this net has no dropout."""
        return {}
