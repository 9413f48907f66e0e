"""The GPU's norm kernels, run on the CPU by Triton's interpreter, against float64."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from train.net.kernels import gpu
from train.net.kernels.constants import ChannelWindow, NormConstants
from train.net.norms import SPATIAL_CONSTANTS, ChannelNorm, SpatialNorm

PAPER = NormConstants(k=2.0, alpha=1e-4, beta=0.75)
STRONG = NormConstants(k=1.5, alpha=0.3, beta=0.75)
TOLERANCE = {torch.float32: 2e-7, torch.float16: 6e-4, torch.bfloat16: 4e-3}
"""Largest norm of the error, relative to that of the result."""
CUT = 2**-7
"""Largest error of a bfloat16 value here: the interpreter cuts off digits, where a GPU rounds. Over
many values this averages out; of a few values it may be the whole error."""
FEW_VALUES = 1000
KERNELS = "train.net.kernels.triton_norms"

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed"
)


@pytest.fixture(scope="module", autouse=True)
def interpreter() -> Iterator[None]:
    """Define the kernels for the interpreter: Triton decides when it decorates them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        patch.delitem(sys.modules, KERNELS, raising=False)
        importlib.import_module(KERNELS)
        yield
    sys.modules.pop(KERNELS, None)


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return values.to(dtype).contiguous(memory_format=torch.channels_last)


def relative_error(found: Tensor, expected: Tensor, scale: Tensor) -> float:
    return float((found.double() - expected).norm() / scale.norm().clamp(min=1e-30))


def check(
    x: Tensor,
    norm: Callable[[Tensor], Tensor],
    forward: Callable[[Tensor], Tensor],
    backward: Callable[[Tensor, Tensor], Tensor],
) -> None:
    """Compare with the torch operations in float64, forward and backward."""
    upstream = noise(*x.shape, seed=7, dtype=x.dtype)
    wide = x.double().requires_grad_()
    expected = norm(wide)
    torch.autograd.backward(expected, upstream.double())
    assert wide.grad is not None
    y, dx = forward(x), backward(x, upstream)
    assert y.dtype == dx.dtype == x.dtype
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert dx.is_contiguous(memory_format=torch.channels_last)
    expected = expected.detach()
    few = x.dtype == torch.bfloat16 and x.numel() < FEW_VALUES
    tolerance = CUT if few else TOLERANCE[x.dtype]
    assert relative_error(y, expected, expected) <= tolerance
    direct = upstream.double() * expected / x.double()  # the gradient's first term: both may cancel
    scale = torch.maximum(direct.abs(), wide.grad.abs())
    assert relative_error(dx, wide.grad, scale) <= tolerance


def check_channels(x: Tensor, constants: NormConstants, window: ChannelWindow) -> None:
    norm = ChannelNorm(constants, size=window.size, groups=window.groups)
    check(
        x,
        lambda wide: norm(wide, rectify=window.rectify),
        lambda x: gpu.channel_forward(x, constants, window),
        lambda x, upstream: gpu.channel_backward(x, upstream, constants, window),
    )


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 24), st.integers(1, 5), st.integers(1, 5)),
    groups=st.integers(1, 2),
    half=st.integers(0, 4),
    beta=st.sampled_from([0.75, 0.75, 0.5, 1.0]),
    rectify=st.booleans(),
    dtype=st.sampled_from(gpu.TYPES),
    seed=st.integers(0, 99),
)
def test_the_channel_kernels_equal_float64(
    shape: tuple[int, int, int, int],
    groups: int,
    half: int,
    beta: float,
    rectify: bool,
    dtype: torch.dtype,
    seed: int,
) -> None:
    x = noise(shape[0], shape[1] * groups, *shape[2:], seed=seed, dtype=dtype) * 3
    constants = NormConstants(k=1.5, alpha=0.3, beta=beta)
    window = ChannelWindow(size=2 * half + 1, groups=groups, rectify=rectify)
    check_channels(x, constants, window)


@pytest.mark.parametrize("dtype", gpu.TYPES)
@pytest.mark.parametrize(("channels", "side"), [(96, 5), (256, 3)])
def test_the_layers_of_the_paper(channels: int, side: int, dtype: torch.dtype) -> None:
    x = noise(1, channels, side, side, dtype=dtype) * 80
    for rectify in (False, True):
        check_channels(x, PAPER, ChannelWindow(size=5, groups=2, rectify=rectify))


def test_the_widest_window() -> None:
    check_channels(noise(1, 70, 1, 2), STRONG, ChannelWindow(size=65, groups=1, rectify=False))


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 30), st.integers(1, 7), st.integers(1, 7)),
    dtype=st.sampled_from(gpu.TYPES),
    seed=st.integers(0, 99),
)
def test_the_plane_kernels_equal_float64(
    shape: tuple[int, int, int, int], dtype: torch.dtype, seed: int
) -> None:
    check(
        noise(*shape, seed=seed, dtype=dtype) * 30,
        SpatialNorm(),
        lambda x: gpu.plane_forward(x, SPATIAL_CONSTANTS),
        lambda x, upstream: gpu.plane_backward(x, upstream, SPATIAL_CONSTANTS),
    )


def test_a_row_of_more_than_one_block() -> None:
    x = noise(1, 48, 4, 27) * 30
    assert x.shape[1] * x.shape[3] > 2 * gpu.PLANE_BLOCK
    check(
        x,
        SpatialNorm(),
        lambda x: gpu.plane_forward(x, SPATIAL_CONSTANTS),
        lambda x, upstream: gpu.plane_backward(x, upstream, SPATIAL_CONSTANTS),
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_as_float(dtype: torch.dtype) -> None:
    """The squares of these values overflow float16."""
    x = noise(2, 6, 3, 3, dtype=torch.float64).mul(3000).to(dtype)
    check_channels(x, PAPER, ChannelWindow(size=5, groups=1, rectify=False))


@pytest.mark.parametrize("rectify", [False, True])
def test_a_nan_is_passed_on(rectify: bool) -> None:
    x = torch.ones(1, 16, 2, 2).contiguous(memory_format=torch.channels_last)
    x[0, 3, 1, 1] = torch.nan
    window = ChannelWindow(size=5, groups=1, rectify=rectify)
    for found in (
        gpu.channel_forward(x, PAPER, window).isnan(),
        gpu.channel_backward(x, torch.ones_like(x), PAPER, window).isnan(),
    ):
        assert found[0, 1:6, 1, 1].all()
        assert not found[0, :, 0].any()
        assert not found[0, :, 1, 0].any()


def test_gradients_may_have_any_memory_format() -> None:
    x, upstream = noise(2, 8, 3, 4), torch.randn(2, 8, 3, 4)
    window = ChannelWindow(size=5, groups=2, rectify=True)
    last = upstream.contiguous(memory_format=torch.channels_last)
    for one, other in (
        (gpu.channel_backward(x, g, PAPER, window) for g in (upstream, last)),
        (gpu.plane_backward(x, g, PAPER) for g in (upstream, last)),
    ):
        assert torch.equal(one, other)


def test_the_kernels_refuse_what_they_cannot_read() -> None:
    last = noise(2, 8, 3, 4)
    assert gpu.fits(last)
    assert gpu.fits(last.half())
    for other in (last.double(), last.contiguous(), last[:, 1:6], last[:0], last[0]):
        assert not gpu.fits(other)
    assert not gpu.takes(last), "a tensor on the CPU is for the C kernels"


def test_no_kernel_spills_its_registers(tmp_path: Path) -> None:
    """Compiled for an H100, which works without one; a kernel that spills is many times slower."""
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"}
    command = [sys.executable, "-W", "ignore", "tools/kernel_registers.py", "--json"]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found = json.loads(ran.stdout)
    assert {each["dtype"] for each in found} == {str(dtype)[6:] for dtype in gpu.TYPES}
    assert all(0 < each["registers"] <= 96 and each["spilled_bytes"] == 0 for each in found)
    backward = [each for each in found if each["kernel"] == "channel_backward"]
    assert all(each["loads_per_value"] <= 14 for each in backward), "9 of x and 5 of the gradient"
