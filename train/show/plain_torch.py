"""The network as a short program for plain torch, written for exactly one architecture.

Exported weights are only useful with the network that they belong to. The program needs torch and
safetensors, and nothing of this package.
"""

from __future__ import annotations

from train.config import NetConfig
from train.net.layout import Layer, NetLayout
from train.net.norms import SPATIAL_CONSTANTS, SPATIAL_SIDE

ACTIVATIONS = {
    "relu": "torch.relu(x)",
    "tanh": "torch.tanh(x)",
    "sigmoid": "torch.sigmoid(x)",
    "leaky-relu": "functional.leaky_relu(x, 0.01)",
}
MEAN = "mean"
"""Name of the tensor that the program subtracts from the images."""
SD = "sd"
"""Name of the tensor that it then divides by."""

_HEAD = '''"""{title}

    net = load("{weights}")    # needs torch and safetensors
    logits = net(images)       # images (n, 3, {px}, {px}): RGB, 0 to 255, any number type

It subtracts the training set's mean itself.{keep} Its classes are in the
order of the dataset's labels. Written by imgprep.
"""

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional


def channel_norm(x, size, groups, k, alpha, beta):
    """LRN over neighbouring channels of each group: x / (k + alpha * sum of squares) ** beta."""
    squares = x.square().unflatten(1, (groups, -1)).movedim(2, -1)
    half = size // 2
    windows = functional.pad(squares, (half, half)).unfold(-1, size, 1)
    return x / (k + alpha * windows.sum(-1).movedim(-1, 2).flatten(1, 2)) ** beta
'''
_PLANE = '''

def plane_norm(x, side, k, alpha, beta):
    """The same over neighbouring pixels of each map."""
    sums = functional.avg_pool2d(x.square(), side, 1, side // 2, divisor_override=1)
    return x / (k + alpha * sums) ** beta
'''
_LOAD = '''

def load(path):
    """Return the network with the weights in the file ``path``, for evaluation."""
    net = AlexNet()
    net.load_state_dict(load_file(path))
    return net.eval()
'''


def plain_program(layout: NetLayout, config: NetConfig, *, title: str, weights: str) -> str:
    """Write the program: a module ``AlexNet`` and a function ``load``, for test time only.

    ``title`` and ``weights``, the name of the file of weights, are for its docstring.
    """
    px = layout.image_px
    vanilla = config.dropout == "vanilla" and layout.hidden and config.dropout_keep < 1
    keep = f"\nHidden units are multiplied by {config.dropout_keep} (dropout)." if vanilla else ""
    head = _HEAD.format(title=title, weights=weights, px=px, keep=keep)
    if config.spatial_norm and config.architecture != "cifar4":
        head += _PLANE
    lines = [
        "",
        "",
        "class AlexNet(nn.Module):",
        "    def __init__(self):",
        "        super().__init__()",
        f'        self.register_buffer("{MEAN}", torch.zeros(3, {px}, {px}))',
        f'        self.register_buffer("{SD}", torch.ones(3, 1, 1))',
        *(f"        self.{layer.name} = {_module(layer)}" for layer in layout.layers.values()),
        "",
        "    def forward(self, images):",
        f"        x = (images.float() - self.{MEAN}) / self.{SD}",
        *(f"        {line}" for line in _Body(layout, config).lines()),
    ]
    return head + "\n".join(lines) + "\n" + _LOAD


def _module(layer: Layer) -> str:
    if not layer.is_conv:
        return f"nn.Linear({layer.inputs}, {layer.outputs})"
    options = "".join(
        f", {name}={value}"
        for name, value, default in (
            ("stride", layer.stride, 1),
            ("padding", layer.padding, 0),
            ("groups", layer.groups, 1),
        )
        if value != default
    )
    return f"nn.Conv2d({layer.inputs}, {layer.outputs}, {layer.kernel}{options})"


class _Body:
    """The statements of ``forward``, in the order of ``train.net.tower`` or ``.cifar``."""

    def __init__(self, layout: NetLayout, config: NetConfig) -> None:
        self._layout, self._config = layout, config
        self._activate = f"x = {ACTIVATIONS[config.activation]}"

    def lines(self) -> list[str]:
        if self._config.architecture == "cifar4":
            return self._cifar()
        pad = self._layout.padding_px
        norm, pool = self._norm(), self._pool("max")
        first = (
            [*norm, pool, self._activate]
            if self._config.first_layer == "conv-lrn-pool-relu"
            else [self._activate, *norm, pool]
        )
        plane = SPATIAL_CONSTANTS
        spatial = f"x = plane_norm(x, {SPATIAL_SIDE}, {plane.k}, {plane.alpha}, {plane.beta})"
        return [
            f"x = functional.pad(x, (0, {pad}, 0, {pad}))",
            *(_layer("conv1"), *first, _layer("conv2"), self._activate, *norm),
            *([spatial] if self._config.spatial_norm else []),
            pool,
            *(line for name in self._layout.body for line in (_layer(name), self._activate)),
            pool,
            *([_layer("conv6"), self._activate] if "conv6" in self._layout.layers else []),
            "x = x.flatten(1)",
            *(line for name in self._layout.hidden for line in self._hidden(name)),
            f"return self.{self._layout.output}(x)",
        ]

    def _cifar(self) -> list[str]:
        mean_pool = self._pool("avg")
        return [
            *(_layer("conv1"), self._pool("max"), self._activate, *self._norm()),
            *(_layer("conv2"), self._activate, mean_pool, *self._norm()),
            *(_layer("conv3"), self._activate, mean_pool),
            f"return self.{self._layout.output}(x.flatten(1))",
        ]

    def _hidden(self, name: str) -> list[str]:
        scale = self._config.dropout == "vanilla" and self._config.dropout_keep < 1
        scaled = [f"x = x * {self._config.dropout_keep}"] if scale else []
        return [_layer(name), self._activate, *scaled]

    def _norm(self) -> list[str]:
        config = self._config
        if not config.lrn:
            return []
        alpha = config.lrn_alpha / config.lrn_size if config.lrn_alpha_divided else config.lrn_alpha
        groups = self._layout.columns
        values = f"{config.lrn_size}, {groups}, {config.lrn_k}, {alpha}, {config.lrn_beta}"
        return [f"x = channel_norm(x, {values})"]

    def _pool(self, kind: str) -> str:
        size, stride = self._config.pool_size, self._config.pool_stride
        over = ", ceil_mode=True" if self._config.architecture == "cifar4" else ""
        return f"x = functional.{kind}_pool2d(x, {size}, {stride}{over})"


def _layer(name: str) -> str:
    return f"x = self.{name}(x)"
