"""The norm kernels on a GPU: against float64, the same bits each time, and used by the nets."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from train.config import NetConfig
from train.net import build_net
from train.net.kernels import gpu
from train.net.kernels.constants import NormConstants
from train.net.norms import ChannelNorm, SpatialNorm

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is visible to torch"),
]

PAPER = NormConstants(k=2.0, alpha=1e-4, beta=0.75)
NORMS = [ChannelNorm(PAPER, size=5, groups=2), SpatialNorm()]
TOLERANCE = {torch.float32: 2e-7, torch.float16: 6e-4, torch.bfloat16: 4e-3}


def results(norm: nn.Module, x: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
    leaf = x.detach().requires_grad_()
    y = norm(leaf)
    y.backward(upstream)
    assert leaf.grad is not None
    return y.detach(), leaf.grad


@pytest.mark.parametrize("dtype", gpu.TYPES)
@pytest.mark.parametrize("norm", NORMS, ids=["channels", "plane"])
@pytest.mark.parametrize(("channels", "side"), [(96, 55), (256, 27)])
def test_the_kernels_equal_float64_and_repeat_their_bits(
    norm: nn.Module, dtype: torch.dtype, channels: int, side: int
) -> None:
    generator = torch.Generator("cuda").manual_seed(1)
    shape = (8, channels, side, side)
    x, upstream = (
        torch.randn(shape, device="cuda", generator=generator, dtype=torch.float32)
        .mul(scale)
        .to(dtype)
        .contiguous(memory_format=torch.channels_last)
        for scale in (60, 1)
    )
    assert gpu.takes(x)
    found, again = (results(norm, x, upstream) for _ in range(2))
    for one, other, expected in zip(
        found, again, results(norm, x.double(), upstream.double()), strict=True
    ):
        assert torch.equal(one, other)
        error = (one.double() - expected).norm() / expected.norm()
        assert error <= TOLERANCE[dtype]


def test_the_net_uses_them() -> None:
    net = build_net(
        NetConfig(spatial_norm=True, width_divisor=8),
        classes=10,
        devices=[torch.device("cuda")],
        columns=False,
        seed=0,
    )
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        net(torch.randn(4, 3, 224, 224, device="cuda")).sum().backward()
        torch.cuda.synchronize()
    names = {event.key for event in profile.key_averages()}
    for kernel in ("channel_forward", "channel_backward", "plane_forward", "plane_backward"):
        assert any(kernel in name for name in names), kernel
