"""Normalisation by the squares of the neighbours, for any symmetric window, in torch operations.

``y = x / s**beta`` with ``s = k + alpha * W(x**2)``, where W sums over a window. The window is
symmetric, so the gradient in closed form needs the same W:
``dx = g / s**beta - 2 alpha beta x W(g x / s**(beta + 1))``.
Only x is kept for the backward pass, and s is computed again: less memory, and no slower.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Window = Callable[[Tensor], Tensor]
"""Sums over the window around each value: a new tensor of the same shape and layout."""


@dataclass(frozen=True, slots=True)
class Response:
    """The constants of ``s = k + alpha * sum`` and of ``x / s**beta``."""

    k: float
    alpha: float
    beta: float


def inverse_power(s: Tensor, beta: float) -> Tensor:
    """``s**-beta``, by square roots for the published beta of 0.75."""
    if beta == 0.75:
        root = s.rsqrt()
        return root.sqrt().mul_(root)
    return s.pow(-beta)


def response_norm(x: Tensor, window: Window, constants: Response) -> Tensor:
    """``x / (k + alpha * window(x**2))**beta``, differentiable once in x.

    Any device and type; half-precision values are squared and summed as float32, because the
    square of 256 is no float16.
    """
    result = _ResponseNorm.apply(x, window, constants)  # type: ignore[no-untyped-call]
    assert isinstance(result, Tensor)
    return result


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


class _ResponseNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, window: Window, constants: Response) -> Tensor:
        ctx.save_for_backward(x)
        ctx.window, ctx.constants = window, constants
        wide = _wide(x)
        s = window(wide * wide).mul_(constants.alpha).add_(constants.k)
        return inverse_power(s, constants.beta).mul_(wide).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        constants: Response = ctx.constants
        wide, upstream = _wide(x), _wide(gradient)
        s = ctx.window(wide * wide).mul_(constants.alpha).add_(constants.k)
        power = inverse_power(s, constants.beta)
        result = upstream * power
        inner = ctx.window((result * wide).div_(s))
        factor = -2 * constants.alpha * constants.beta
        result.addcmul_(inner, wide, value=factor)
        return result.to(x.dtype), None, None
