"""The net of 2012: two columns on two devices, which meet at conv3, fc6, fc7 and fc8 only.

One process drives both devices. Each column keeps its half of every layer; where the columns
meet, each sends the other its activations, and autograd sends the gradients back: 468,992 bytes
per image in all. The first device holds all of fc8, so there only the second column sends.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from imgprep.wording import counted
from train.config import NetConfig
from train.errors import ConfigError
from train.net.base import Masks, Net
from train.net.layout import NetLayout
from train.net.link import Link
from train.net.randomness import MaskKey
from train.net.tower import Tower

Pair = tuple[Tensor, Tensor]


class ColumnNet(Net):
    """Two columns. Weights are uninitialised until they are loaded. ``link`` counts bytes sent."""

    def __init__(
        self, layout: NetLayout, config: NetConfig, devices: Sequence[torch.device]
    ) -> None:
        if layout.columns != 2 or len(devices) != 2:
            raise ConfigError(
                f"columns need an architecture with two columns and two devices; got "
                f"{config.architecture} and {counted(len(devices), 'device')}"
            )
        halves = {name: layer.half() for name, layer in layout.layers.items()}
        second = {name: layer for name, layer in halves.items() if layer.split}
        columns = (
            Tower(halves, layout, config, groups=1).allocated_on(devices[0]),
            Tower(second, layout, config, groups=1).allocated_on(devices[1]),
        )
        super().__init__(layout, config, devices, list(columns))
        self.columns = columns  # a tuple, so that torch does not register them a second time
        self.link = Link((self.devices[0], self.devices[1]))

    def forward_features(self, images: Tensor, masks: Masks | None = None) -> Tensor:
        a, b = self.columns
        delivered = self.link.deliver(
            images
        )  # first: the copy waits for what a's device has queued
        pair = (a.pool1(images), b.pool1(delivered))
        pair = (a.pool2(pair[0]), b.pool2(pair[1]))
        joined = self._join(self.layout.body[0], pair)
        pair = (a.pool5(joined[0]), b.pool5(joined[1]))
        if "conv6" in self.layout.layers:
            joined = self._join("conv6", pair)
            pair = (a.conv6_output(joined[0]), b.conv6_output(joined[1]))
        pair = (pair[0].flatten(1), pair[1].flatten(1))
        for name in self.layout.hidden:
            joined = self._join(name, pair)
            mask_a, mask_b = (None, None) if masks is None else masks[name]
            pair = (a.hidden(name, joined[0], mask_a), b.hidden(name, joined[1], mask_b))
        return torch.cat([pair[0], self.link.send(pair[1], "fc8", 1, 0)], 1)

    def _join(self, joint: str, pair: Pair) -> Pair:
        """Both columns' activations, a's before b's, on each device.

        Both copies are queued before either column's next layer. torch makes the streams of both
        devices wait for a copy, so the two copies of a joint follow one another.
        """
        from_b = self.link.send(pair[1], joint, 1, 0)
        from_a = self.link.send(pair[0], joint, 0, 1)
        return torch.cat([pair[0], from_b], 1), torch.cat([from_a, pair[1]], 1)

    def draw_masks(self, key: MaskKey) -> Masks:
        return {
            name: tuple(
                self._column_masks(name, key, device, column)[0]
                for column, device in enumerate(self.devices)
            )
            for name in self.layout.hidden
        }

    def link_bytes_per_image(self) -> dict[str, int]:
        return self.layout.link_bytes_per_image()
