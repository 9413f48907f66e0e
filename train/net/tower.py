"""The layers of one device: all of the net, or one of its two columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from train.config import Activation, NetConfig
from train.net.layout import POOL_SIZE, POOL_STRIDE, Layer, Plan
from train.net.norms import ChannelNorm, Response, SpatialNorm

ACTIVATIONS: Mapping[Activation, Callable[[Tensor], Tensor]] = {
    "relu": lambda x: functional.relu(x, inplace=True),
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "leaky-relu": lambda x: functional.leaky_relu(x, 0.01, inplace=True),
}
"""Those that write in place take only what a convolution or a matrix product just made."""


def max_pool(x: Tensor) -> Tensor:
    """Overlapping 3/2 maxima (paper 3.4); a gradient goes to the first of equal values."""
    return functional.max_pool2d(x, POOL_SIZE, POOL_STRIDE)


def _module(layer: Layer) -> nn.Module:
    """Empty, on the meta device: weights come from ``train.net.init``."""
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
    """Layers between the joints, as methods; what they read has been joined by the caller.

    ``layers`` are those of this device, ``groups`` the columns that lie side by side in it.
    """

    def __init__(
        self, layers: Mapping[str, Layer], plan: Plan, config: NetConfig, *, groups: int
    ) -> None:
        super().__init__()
        self.padding_px = plan.padding_px
        self.activation = ACTIVATIONS[config.activation]
        self.rectifies = config.activation == "relu"
        self.first_layer = config.first_layer
        self.dropout = config.dropout
        self.keep = config.dropout_keep
        for name, layer in layers.items():
            self.add_module(name, _module(layer))
        size = config.lrn_size
        alpha = config.lrn_alpha / size if config.lrn_alpha_divided else config.lrn_alpha
        constants = Response(k=config.lrn_k, alpha=alpha, beta=config.lrn_beta)
        self.lrn = ChannelNorm(constants, size=size, groups=groups) if config.lrn else None
        self.spatial: nn.Module = SpatialNorm() if config.spatial_norm else nn.Identity()

    def placed(self, device: torch.device) -> Tower:
        """The same with weights on ``device``, empty.

        Not by ``to_empty``: it takes 0.6 s to import what torch traces with.
        """
        for module in self.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                setattr(module, name, nn.Parameter(torch.empty(parameter.shape, device=device)))
        return self

    def run(self, name: str, x: Tensor) -> Tensor:
        """The convolution or matrix product of that name."""
        result = self.get_submodule(name)(x)
        assert isinstance(result, Tensor)
        return result

    def _normalised(self, x: Tensor, *, rectify: bool = False) -> Tensor:
        if self.lrn is None:
            return x
        normalised: Tensor = self.lrn(x, rectify=rectify)
        return normalised

    def _activated_and_normalised(self, x: Tensor) -> Tensor:
        if self.lrn is not None and self.rectifies:
            return self._normalised(x, rectify=True)  # both in one pass over memory
        return self._normalised(self.activation(x))

    def pool1(self, images: Tensor) -> Tensor:
        """(n, 3, px, px) -> (n, conv1, 27, 27): layer 1 in either order (paper or source)."""
        return self.finish1(self.conv1_of(images))

    def conv1_of(self, images: Tensor) -> Tensor:
        """(n, 3, px, px) -> (n, conv1, 55, 55), not yet activated."""
        images = images.contiguous(memory_format=torch.channels_last)
        pad = self.padding_px  # right and bottom: the last windows read zeros, that is the mean
        return self.run("conv1", functional.pad(images, (0, pad, 0, pad)))

    def finish1(self, x: Tensor) -> Tensor:
        """What follows conv1: activation, LRN and pooling."""
        if self.first_layer == "conv-lrn-pool-relu":
            return self.activation(max_pool(self._normalised(x)))
        return max_pool(self._activated_and_normalised(x))

    def pool2(self, x: Tensor) -> Tensor:
        """(n, conv1, 27, 27) -> (n, conv2, 13, 13)."""
        return self.finish2(self.run("conv2", x))

    def finish2(self, x: Tensor) -> Tensor:
        """What follows conv2: activation, norms and pooling."""
        return max_pool(self.spatial(self._activated_and_normalised(x)))

    def pool5(self, joined: Tensor) -> Tensor:
        """(n, both columns of conv2, 13, 13) -> (n, conv5, 6, 6)."""
        for name in ("conv3", "conv4", "conv5"):
            joined = self.activation(self.run(name, joined))
        return max_pool(joined)

    def sixth(self, joined: Tensor) -> Tensor:
        """(n, both columns of conv5, 6, 6) -> (n, conv6, 6, 6)."""
        return self.activation(self.run("conv6", joined))

    def hidden(self, name: str, joined: Tensor, mask: Tensor | None) -> Tensor:
        """fc6 or fc7 of (n, inputs), with dropout: by the bool mask, or at test without one."""
        x = self.activation(self.run(name, joined))
        if self.dropout == "inverted":
            return x if mask is None else x * (mask.to(x.dtype) / self.keep)
        return x * self.keep if mask is None else x * mask
