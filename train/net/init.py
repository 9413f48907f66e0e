"""Initial weights: a pure function of the settings and the seed, however the net is split."""

from __future__ import annotations

import torch
from torch import Tensor

from train.config import NetConfig
from train.net.layout import Layer, NetLayout
from train.net.randomness import torch_generator

WIDE_SD = ("conv3", "conv4", "conv5", "conv6")
"""Layers with ``init_sd_conv345``. The source's value for conv6 is not known to us, so it is
treated like its neighbours."""
BIASED = ("conv2", "conv4", "conv5", "fc6", "fc7")
"""Layers whose biases start at ``init_bias`` (paper 5)."""


def weight_sd(layer: Layer, config: NetConfig) -> float:
    """Standard deviation of the zero-mean normal that the weights are drawn from."""
    return config.init_sd_conv345 if layer.name in WIDE_SD else config.init_sd


def initial_state(layout: NetLayout, config: NetConfig, *, seed: int) -> dict[str, Tensor]:
    """Draw canonical float32 weights and biases, on the CPU. Each tensor has its own stream."""
    cpu = torch.device("cpu")
    state: dict[str, Tensor] = {}
    for name, layer in layout.layers.items():
        generator = torch_generator(seed, 0, f"init.{name}", cpu)
        weight = torch.empty(layer.weight_shape, device=cpu)
        state[f"{name}.weight"] = weight.normal_(0, weight_sd(layer, config), generator=generator)
        bias = config.init_bias if name in BIASED else 0.0
        state[f"{name}.bias"] = torch.full((layer.outputs,), bias, device=cpu)
    return state
