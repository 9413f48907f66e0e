"""The Triton kernels of the response norms, launched on dense channels-last tensors.

They compute with float32, float16 and bfloat16 images (n, c, h, w) on a GPU; squares and sums are
float32. ``triton_norms`` is imported at the first launch, because Triton takes a second to import
and a CPU never needs it.
"""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache
from typing import Any

import torch
from torch import Tensor

from train.net.kernels import cpu
from train.net.kernels.constants import ChannelWindow, NormConstants

TYPES = (torch.float32, torch.float16, torch.bfloat16)
FORWARD_BLOCK = 1024
BACKWARD_BLOCK = 512
PLANE_BLOCK = 512
WARPS = 4
"""Values of a program, and the warps that compute them: so few that all intermediate values stay
in registers. With 4,096 values the compiler spills them to memory, and the kernel is 30 times as
slow. ``tools/kernel_registers.py`` compiles the kernels without a GPU and counts."""


def takes(x: Tensor) -> bool:
    """Whether the kernels can read this tensor.

    Never under ``torch.compile``, which makes kernels of its own from the torch operations, nor
    when the variable ``TRAIN_KERNEL`` is ``torch``.
    """
    return (
        x.is_cuda
        and cpu.BACKEND != "torch"
        and not torch.compiler.is_compiling()
        and _has_triton()
        and fits(x)
    )


def fits(x: Tensor) -> bool:
    """Whether shape, type and memory are those that the kernels compute with."""
    return (
        x.dtype in TYPES
        and x.dim() == 4
        and x.numel() > 0
        and x.is_contiguous(memory_format=torch.channels_last)
    )


def channel_forward(x: Tensor, constants: NormConstants, window: ChannelWindow) -> Tensor:
    """Compute ``y = x / (k + alpha * sum)**beta``, of ``max(x, 0)`` if the window rectifies."""
    y = torch.empty_like(x)
    _launch(
        "channel_forward",
        (-(-x.numel() // FORWARD_BLOCK),),
        (x, y, x.numel(), constants.k, constants.alpha),
        channel_settings(x, constants, window, FORWARD_BLOCK),
    )
    return y


def channel_backward(
    x: Tensor, gradient: Tensor, constants: NormConstants, window: ChannelWindow
) -> Tensor:
    """Compute the gradient of x from x and the gradient of y."""
    gradient = gradient.contiguous(memory_format=torch.channels_last)
    result = torch.empty_like(x)
    _launch(
        "channel_backward",
        (-(-x.numel() // BACKWARD_BLOCK),),
        (x, gradient, result, x.numel(), constants.k, constants.alpha),
        channel_settings(x, constants, window, BACKWARD_BLOCK),
    )
    return result


def plane_forward(x: Tensor, constants: NormConstants) -> Tensor:
    """Compute ``y = x / (k + alpha * sum)**beta`` over 5x5 neighbours in the same map."""
    y = torch.empty_like(x)
    arguments = (x, y, x.shape[2], constants.k, constants.alpha)
    _launch("plane_forward", _plane_grid(x), arguments, plane_settings(x, constants))
    return y


def plane_backward(x: Tensor, gradient: Tensor, constants: NormConstants) -> Tensor:
    """Compute the gradient of x from x and the gradient of y."""
    gradient = gradient.contiguous(memory_format=torch.channels_last)
    direct, term = (torch.empty_like(x, dtype=torch.float32) for _ in range(2))
    result = torch.empty_like(x)
    grid, settings, height = _plane_grid(x), plane_settings(x, constants), x.shape[2]
    terms = (x, gradient, direct, term, height, constants.k, constants.alpha)
    _launch("plane_terms", grid, terms, settings)
    _launch("plane_backward", grid, (x, direct, term, result, height, constants.alpha), settings)
    return result


def channel_settings(
    x: Tensor, constants: NormConstants, window: ChannelWindow, block: int
) -> dict[str, Any]:
    """Return the constants that a kernel over the channels is compiled for."""
    return {
        "OWN": x.shape[1] // window.groups,
        "HALF": window.size // 2,
        "BETA": constants.beta,
        "RECTIFY": window.rectify,
        "BLOCK": block,
    }


def plane_settings(x: Tensor, constants: NormConstants) -> dict[str, Any]:
    """Return the constants that a kernel over the plane is compiled for."""
    channels, width = x.shape[1], x.shape[3]
    return {
        "ROW": width * channels,
        "CHANNELS": channels,
        "BETA": constants.beta,
        "BLOCK": PLANE_BLOCK,
    }


def _plane_grid(x: Tensor) -> tuple[int, int]:
    """Programs by image and by part of a row."""
    return len(x), -(-x.shape[1] * x.shape[3] // PLANE_BLOCK)


def _launch(
    kernel: str, grid: tuple[int, ...], arguments: tuple[Any, ...], settings: dict[str, Any]
) -> None:
    triton_norms = importlib.import_module("train.net.kernels.triton_norms")
    # Triton launches on the current device, which need not be that of the tensors.
    with torch.cuda.device_of(arguments[0]):  # type: ignore[no-untyped-call]
        getattr(triton_norms, kernel)[grid](*arguments, **settings, num_warps=WARPS)


@cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None
