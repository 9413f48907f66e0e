"""Response normalisation: ``y = x / s**beta`` with ``s = k + alpha * W(x**2)``, W a window's sum.

There are two kinds of window. ``ChannelNorm`` is the LRN of the paper (3.3), across neighbouring
channels: from ``i - size // 2`` to ``i + size // 2``, clipped to the column. The 2012 release
(layers-145.cfg 35-45 and 95-105) divides alpha by ``size``, as torch and Caffe do; the paper's
formula does not. ``SpatialNorm`` is in the source only (layer ``cnorm2``, layers-145.cfg 107-117):
5x5 neighbours in the same map, scale 1e-3 divided by 25, power 0.75, additive constant 1, clipped
to the map.

Both windows are symmetric, so the gradient in closed form needs the same W:
``dx = g / s**beta - 2 alpha beta x W(g x / s**(beta + 1))``.
The backward pass keeps only x and recomputes s: this saves memory and is not slower.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from train.net.kernels import cpu, gpu
from train.net.kernels.constants import ChannelWindow, NormConstants

WindowSum = Callable[[Tensor], Tensor]
"""Sums the window around each value into a new tensor of the same shape and memory format."""


def inverse_power(s: Tensor, beta: float) -> Tensor:
    """Compute ``s**-beta``, by square roots for the published beta of 0.75."""
    if beta == 0.75:
        root = s.rsqrt()
        return root.sqrt().mul_(root)
    return s.pow(-beta)


def response_norm(x: Tensor, window: WindowSum, constants: NormConstants) -> Tensor:
    """Compute ``x / (k + alpha * window(x**2))**beta``, differentiable once in x.

    Any device and type; half-precision values are squared and summed as float32, because the
    square of 256 overflows float16.
    """
    return _applied(_ResponseNorm, x, window, constants)


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


class _ResponseNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, window: WindowSum, constants: NormConstants) -> Tensor:
        ctx.save_for_backward(x)
        ctx.window, ctx.constants = window, constants
        wide = _wide(x)
        s = window(wide * wide).mul_(constants.alpha).add_(constants.k)
        return inverse_power(s, constants.beta).mul_(wide).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        constants: NormConstants = ctx.constants
        wide, upstream = _wide(x), _wide(gradient)
        s = ctx.window(wide * wide).mul_(constants.alpha).add_(constants.k)
        power = inverse_power(s, constants.beta)
        result = upstream * power
        inner = ctx.window((result * wide).div_(s))
        factor = -2 * constants.alpha * constants.beta
        result.addcmul_(inner, wide, value=factor)
        return result.to(x.dtype), None, None


def channel_sums(values: Tensor, size: int, groups: int) -> Tensor:
    """Sum ``size`` neighbouring channels (dim 1), clipped to each group, into a new tensor."""
    grouped = values.view(len(values), groups, values.shape[1] // groups, *values.shape[2:])
    sums = grouped.clone()
    for shift in range(1, min(size // 2, grouped.shape[2] - 1) + 1):
        sums[:, :, shift:] += grouped[:, :, :-shift]
        sums[:, :, :-shift] += grouped[:, :, shift:]
    return sums.flatten(1, 2)


class ChannelNorm(nn.Module):
    """LRN of (n, channels, height, width) over ``size`` channels in each of ``groups`` groups.

    ``constants.alpha`` multiplies the sum of squares; the alpha of ``F.local_response_norm`` is
    ``size`` times as large. With ``rectify`` it normalises ``max(x, 0)``, in the same pass.
    """

    def __init__(self, constants: NormConstants, *, size: int, groups: int) -> None:
        super().__init__()
        self.constants = constants
        self.size = size
        self.groups = groups

    def forward(self, x: Tensor, *, rectify: bool = False) -> Tensor:
        if cpu.takes(x, self.constants) or gpu.takes(x):
            window = ChannelWindow(size=self.size, groups=self.groups, rectify=rectify)
            return _applied(_ChannelKernel, x, self.constants, window)
        sums = partial(channel_sums, size=self.size, groups=self.groups)
        return response_norm(torch.relu(x) if rectify else x, sums, self.constants)

    def extra_repr(self) -> str:
        return f"{self.constants}, size={self.size}, groups={self.groups}"


class _ChannelKernel(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, constants: NormConstants, window: ChannelWindow) -> Tensor:
        ctx.save_for_backward(x)
        ctx.kernels, ctx.settings = gpu if x.is_cuda else cpu, (constants, window)
        y: Tensor = ctx.kernels.channel_forward(x, constants, window)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        return ctx.kernels.channel_backward(x, gradient, *ctx.settings), None, None


class _PlaneKernel(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, constants: NormConstants) -> Tensor:
        ctx.save_for_backward(x)
        ctx.constants = constants
        return gpu.plane_forward(x, constants)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return gpu.plane_backward(x, gradient, ctx.constants), None


def _applied(function: type[torch.autograd.Function], *arguments: Any) -> Tensor:
    result = function.apply(*arguments)  # type: ignore[no-untyped-call]
    assert isinstance(result, Tensor)
    return result


SPATIAL_SIDE = 5
SPATIAL_CONSTANTS = NormConstants(k=1.0, alpha=1e-3 / SPATIAL_SIDE**2, beta=0.75)


def plane_sums(values: Tensor) -> Tensor:
    """Sum the 5x5 neighbourhood in each map of (n, channels, height, width)."""
    return functional.avg_pool2d(
        values, SPATIAL_SIDE, stride=1, padding=SPATIAL_SIDE // 2, divisor_override=1
    )


class SpatialNorm(nn.Module):
    """The source's norm within each map of (n, channels, height, width)."""

    def forward(self, x: Tensor) -> Tensor:
        if gpu.takes(x):
            return _applied(_PlaneKernel, x, SPATIAL_CONSTANTS)
        return response_norm(x, plane_sums, SPATIAL_CONSTANTS)
