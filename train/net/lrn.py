"""Response normalisation across channels (paper 3.3), by columns: never over the seam.

The window of channel i is ``i - size // 2`` to ``i + size // 2``, clipped to the group. Source:
layers-145.cfg 35-45 and 95-105 of the 2012 release; there alpha is divided by ``size``, as torch
and Caffe do, while the paper's formula does not.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

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
    would be ``alpha / size``.
    """

    def __init__(self, constants: Response, *, size: int, groups: int) -> None:
        super().__init__()
        self.constants = constants
        self.size = size
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        window = partial(channel_sums, size=self.size, groups=self.groups)
        return response_norm(x, window, self.constants)

    def extra_repr(self) -> str:
        return f"{self.constants}, size={self.size}, groups={self.groups}"
