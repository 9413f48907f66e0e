"""Response normalisation inside each feature map: in the 2012 source, not in the paper.

Layer ``cnorm2`` of layers-145.cfg (107-117): 5x5 neighbours of the same map, scale 1e-3 divided by
25, power 0.75, and 1 as the additive constant. The sum is clipped to the map.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from train.net.response import Response, response_norm

SIDE = 5
CONSTANTS = Response(k=1.0, alpha=1e-3 / SIDE**2, beta=0.75)


def plane_sums(values: Tensor) -> Tensor:
    """Sums over the 5x5 neighbourhood in each map of (n, channels, height, width)."""
    return functional.avg_pool2d(values, SIDE, stride=1, padding=SIDE // 2, divisor_override=1)


class SpatialNorm(nn.Module):
    """The source's in-plane norm of (n, channels, height, width)."""

    def forward(self, x: Tensor) -> Tensor:
        return response_norm(x, plane_sums, CONSTANTS)
