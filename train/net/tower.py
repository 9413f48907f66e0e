"""The layers of one device: all of the net, or one of its two columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from train.config import Activation, NetConfig
from train.net.kernels.constants import NormConstants
from train.net.layout import Layer, NetLayout
from train.net.norms import ChannelNorm, SpatialNorm

ACTIVATIONS: Mapping[Activation, Callable[[Tensor], Tensor]] = {
    "relu": lambda x: functional.relu(x, inplace=True),
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "leaky-relu": lambda x: functional.leaky_relu(x, 0.01, inplace=True),
}
"""The in-place ones may only take the fresh output of a convolution or a matrix product."""


def _module(layer: Layer) -> nn.Module:
    """Make an empty module on the meta device; weights come from ``train.net.init``."""
    if not layer.is_conv:
        return nn.Linear(layer.inputs, layer.outputs, device="meta")
    return nn.Conv2d(
        layer.inputs,
        layer.outputs,
        layer.kernel,
        stride=layer.stride,
        padding=layer.padding,
        groups=layer.groups,
        device="meta",
    )


class Tower(nn.Module):
    """The layers between the joints, as methods; the caller joins their inputs.

    ``layers`` are those of this device; ``groups`` is the number of columns in it.
    """

    def __init__(
        self, layers: Mapping[str, Layer], layout: NetLayout, config: NetConfig, *, groups: int
    ) -> None:
        super().__init__()
        self.padding_px = layout.padding_px
        self.body = layout.body
        self.pool_size, self.pool_stride = config.pool_size, config.pool_stride
        self.activation = ACTIVATIONS[config.activation]
        self.rectifies = config.activation == "relu"
        self.first_layer = config.first_layer
        self.dropout = config.dropout
        self.keep = config.dropout_keep
        for name, layer in layers.items():
            self.add_module(name, _module(layer))
        size = config.lrn_size
        alpha = config.lrn_alpha / size if config.lrn_alpha_divided else config.lrn_alpha
        constants = NormConstants(k=config.lrn_k, alpha=alpha, beta=config.lrn_beta)
        self.lrn = ChannelNorm(constants, size=size, groups=groups) if config.lrn else None
        self.spatial: nn.Module = SpatialNorm() if config.spatial_norm else nn.Identity()

    def allocated_on(self, device: torch.device) -> Tower:
        """Allocate uninitialised weights on ``device``; returns the tower itself.

        ``to_empty`` would import torch's tracing code, which takes 0.6 s.
        """
        for module in self.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                setattr(module, name, nn.Parameter(torch.empty(parameter.shape, device=device)))
        return self

    def run(self, name: str, x: Tensor) -> Tensor:
        """Apply the convolution or matrix product of that name."""
        result = self.get_submodule(name)(x)
        assert isinstance(result, Tensor)
        return result

    def max_pool(self, x: Tensor) -> Tensor:
        """Take maxima of windows (paper 3.4); the gradient goes to the first of equal values."""
        return functional.max_pool2d(x, self.pool_size, self.pool_stride)

    def normalised(self, x: Tensor, *, rectify: bool = False) -> Tensor:
        """Apply LRN, of ``max(x, 0)`` with ``rectify``; without the setting ``lrn``, return x."""
        if self.lrn is None:
            return x
        normalised: Tensor = self.lrn(x, rectify=rectify)
        return normalised

    def _activated_and_normalised(self, x: Tensor) -> Tensor:
        if self.lrn is not None and self.rectifies:
            return self.normalised(x, rectify=True)  # both in one pass over memory
        return self.normalised(self.activation(x))

    def pool1(self, images: Tensor) -> Tensor:
        """(n, 3, px, px) -> (n, conv1, 27, 27): layer 1 in either order (paper or source)."""
        return self.after_conv1(self.conv1_output(images))

    def conv1_output(self, images: Tensor) -> Tensor:
        """(n, 3, px, px) -> (n, conv1, 55, 55), before the activation."""
        if not torch.is_autocast_enabled(images.device.type):
            images = images.to(self.get_parameter("conv1.weight").dtype)  # input.dtype may be less
        images = images.contiguous(memory_format=torch.channels_last)
        pad = self.padding_px  # right and bottom: the last windows read zeros, which is the mean
        return self.run("conv1", functional.pad(images, (0, pad, 0, pad)))

    def after_conv1(self, x: Tensor) -> Tensor:
        """Apply what follows conv1: activation, LRN and pooling."""
        if self.first_layer == "conv-lrn-pool-relu":
            return self.activation(self.max_pool(self.normalised(x)))
        return self.max_pool(self._activated_and_normalised(x))

    def pool2(self, x: Tensor) -> Tensor:
        """(n, conv1, 27, 27) -> (n, conv2, 13, 13)."""
        return self.after_conv2(self.run("conv2", x))

    def after_conv2(self, x: Tensor) -> Tensor:
        """Apply what follows conv2: activation, norms and pooling."""
        return self.max_pool(self.spatial(self._activated_and_normalised(x)))

    def pool5(self, joined: Tensor) -> Tensor:
        """(n, both columns of conv2, 13, 13) -> (n, conv5, 6, 6)."""
        for name in self.body:
            joined = self.activation(self.run(name, joined))
        return self.max_pool(joined)

    def conv6_output(self, joined: Tensor) -> Tensor:
        """(n, both columns of conv5, 6, 6) -> (n, conv6, 6, 6)."""
        return self.activation(self.run("conv6", joined))

    def hidden(self, name: str, joined: Tensor, mask: Tensor | None) -> Tensor:
        """Apply fc6 or fc7 to (n, inputs), with dropout: a bool mask in training, None at test."""
        x = self.activation(self.run(name, joined))
        if self.dropout == "inverted":
            return x if mask is None else x * (mask.to(x.dtype) / self.keep)
        return x * self.keep if mask is None else x * mask
