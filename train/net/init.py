"""Initial weights: a pure function of the settings and the seed, however the net is split."""

from __future__ import annotations

import torch
from torch import Tensor

from train.config import NetConfig, Precision
from train.net.layout import Layer, NetLayout
from train.net.randomness import torch_generator

WIDE_SD = ("conv3", "conv4", "conv5", "conv6")
"""Layers with ``init_sd_conv345`` (conv6: layers-146-2012-2011.cfg 258-286 of the 2012 source)."""
BIASED = ("conv2", "conv4", "conv5", "conv6", "fc6", "fc7")
"""Layers whose biases start at ``init_bias`` (paper 5; conv6: as above)."""


CIFAR_CONV1_FACTOR = 0.01
"""conv1 of ``cifar4`` starts at 0.0001 where the other layers start at 0.01 (layers-18pct.cfg of
cuda-convnet)."""


def weight_sd(layer: Layer, config: NetConfig) -> float:
    """Standard deviation of the zero-mean normal that the weights are drawn from."""
    if config.architecture == "cifar4":
        return config.init_sd * (CIFAR_CONV1_FACTOR if layer.name == "conv1" else 1)
    return config.init_sd_conv345 if layer.name in WIDE_SD else config.init_sd


def precision_warning(config: NetConfig, precision: Precision) -> str | None:
    """Say why ``precision`` is too coarse for the initial weights; None if it is not.

    With biases of 1 and weights of 0.01 in conv3-5 the part of the logits that depends on the image
    is 1/75 of the whole. bfloat16 keeps 8 bits, and changes that part by 19 to 27 % in the first
    step (float16: 2 to 3 %; with 0.03 in conv3-5, or biases of 0.1, bfloat16: 3 %).
    """
    if (
        precision != "bf16"
        or config.architecture == "cifar4"
        or config.init_bias < 0.5
        or config.init_sd_conv345 >= 0.02
    ):
        return None
    return (
        f"bfloat16 is too coarse for these initial weights (biases {config.init_bias:g}, weights "
        f"of conv3-5 {config.init_sd_conv345:g}): rounding changes the part of the logits that "
        "depends on the image by a fifth or more. Use --precision fp16 or --preset source-2012"
    )


def initial_state(layout: NetLayout, config: NetConfig, *, seed: int) -> dict[str, Tensor]:
    """Draw canonical float32 weights and biases, on the CPU. Each tensor has its own stream."""
    cpu = torch.device("cpu")
    state: dict[str, Tensor] = {}
    for name, layer in layout.layers.items():
        generator = torch_generator(seed, 0, f"init.{name}", cpu)
        weight = torch.empty(layer.weight_shape, device=cpu)
        state[f"{name}.weight"] = weight.normal_(0, weight_sd(layer, config), generator=generator)
        biased = name in BIASED and config.architecture != "cifar4"
        bias = config.init_bias if biased else 0.0
        state[f"{name}.bias"] = torch.full((layer.outputs,), bias, device=cpu)
    return state
