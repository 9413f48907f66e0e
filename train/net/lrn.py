"""Response normalisation across channels (paper 3.3), by columns: never over the seam.

The window of channel i is ``i - size // 2`` to ``i + size // 2``, clipped to the group. Source:
layers-145.cfg 35-45 and 95-105 of the 2012 release; there alpha is divided by ``size``, as torch
and Caffe do, while the paper's formula does not.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from train.net.native import lrn_backward, lrn_forward, takes
from train.net.response import Response, response_norm


def channel_sums(values: Tensor, size: int, groups: int) -> Tensor:
    """Sums over ``size`` neighbouring channels (dim 1), clipped to each group: a new tensor."""
    grouped = values.view(len(values), groups, values.shape[1] // groups, *values.shape[2:])
    sums = grouped.clone()
    for shift in range(1, min(size // 2, grouped.shape[2] - 1) + 1):
        sums[:, :, shift:] += grouped[:, :, :-shift]
        sums[:, :, :-shift] += grouped[:, :, shift:]
    return sums.flatten(1, 2)


class ChannelNorm(nn.Module):
    """LRN of (n, channels, height, width) over ``size`` channels in each of ``groups`` groups.

    ``constants.alpha`` is what multiplies the sum of squares: for ``F.local_response_norm`` it
    would be ``alpha / size``. With ``rectify`` it normalises ``max(x, 0)``, in the same pass.
    """

    def __init__(self, constants: Response, *, size: int, groups: int) -> None:
        super().__init__()
        self.constants = constants
        self.size = size
        self.groups = groups

    def forward(self, x: Tensor, *, rectify: bool = False) -> Tensor:
        if self.constants.beta == 0.75 and takes(x):
            result = _Native.apply(x, self, rectify)  # type: ignore[no-untyped-call]
            assert isinstance(result, Tensor)
            return result
        window = partial(channel_sums, size=self.size, groups=self.groups)
        return response_norm(torch.relu(x) if rectify else x, window, self.constants)

    def extra_repr(self) -> str:
        return f"{self.constants}, size={self.size}, groups={self.groups}"


class _Native(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: ChannelNorm, rectify: bool) -> Tensor:
        ctx.save_for_backward(x)
        ctx.settings = {
            "groups": norm.groups,
            "size": norm.size,
            "k": norm.constants.k,
            "alpha": norm.constants.alpha,
            "rectify": rectify,
        }
        return lrn_forward(x, **ctx.settings)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        return lrn_backward(x, gradient, **ctx.settings), None, None
