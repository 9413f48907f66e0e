"""Response norms equal torch and the formula; their gradients; the C kernels."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from train.errors import ConfigError
from train.net.kernels import cpu
from train.net.kernels.constants import NormConstants
from train.net.norms import ChannelNorm, SpatialNorm

PAPER = NormConstants(k=2.0, alpha=1e-4, beta=0.75)
STRONG = NormConstants(k=1.5, alpha=0.3, beta=0.75)
COMPILED = [name for name in cpu.available_backends() if name != "torch"]


@pytest.fixture
def backend() -> Iterator[Callable[[str], None]]:
    before = cpu.BACKEND

    def choose(name: str) -> None:
        cpu.BACKEND = name

    yield choose
    cpu.BACKEND = before


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def formula(x: Tensor, constants: NormConstants, size: int, groups: int) -> Tensor:
    """Paper 3.3, value by value."""
    result = torch.empty_like(x)
    own = x.shape[1] // groups
    for i in range(x.shape[1]):
        low = max(i - size // 2, i // own * own)
        high = min(i + size // 2, i // own * own + own - 1)
        squares = (x[:, low : high + 1] ** 2).sum(1)
        result[:, i] = x[:, i] / (constants.k + constants.alpha * squares) ** constants.beta
    return result


@pytest.mark.parametrize("divided", [False, True])
@pytest.mark.parametrize("channels", [1, 2, 3, 5, 48])
def test_lrn_equals_torch_in_both_conventions_of_alpha(divided: bool, channels: int) -> None:
    """Torch divides alpha by the size, as the source does; the paper's formula needs 5 alpha."""
    x = noise(2, channels, 3, 4) * 100
    alpha = 1e-4 / 5 if divided else 1e-4
    norm = ChannelNorm(NormConstants(k=2.0, alpha=alpha, beta=0.75), size=5, groups=1)
    expected = functional.local_response_norm(x, 5, 1e-4 if divided else 5e-4, 0.75, 2.0)
    torch.testing.assert_close(norm(x), expected, rtol=1e-13, atol=0)


@settings(max_examples=40)
@given(
    own=st.integers(1, 9),
    groups=st.integers(1, 3),
    half=st.integers(0, 6),
    beta=st.sampled_from([0.75, 0.5, 1.0]),
    channels_last=st.booleans(),
)
def test_lrn_equals_the_formula_and_never_crosses_the_groups(
    own: int, groups: int, half: int, beta: float, channels_last: bool
) -> None:
    constants = NormConstants(k=1.5, alpha=0.3, beta=beta)
    x = noise(2, own * groups, 2, 3)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    found = ChannelNorm(constants, size=2 * half + 1, groups=groups)(x)
    torch.testing.assert_close(found, formula(x, constants, 2 * half + 1, groups))


@pytest.mark.parametrize("beta", [0.75, 0.6])
@pytest.mark.parametrize("rectify", [False, True])
@pytest.mark.parametrize(("channels", "groups"), [(6, 1), (6, 2), (3, 3)])
def test_the_gradient_of_lrn_is_right(
    beta: float, rectify: bool, channels: int, groups: int
) -> None:
    norm = ChannelNorm(NormConstants(k=1.5, alpha=0.3, beta=beta), size=5, groups=groups)
    x = noise(2, channels, 2, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda each: norm(each, rectify=rectify), (x,))


def test_the_spatial_norm_equals_its_formula_and_its_gradient_is_right() -> None:
    x = noise(2, 3, 7, 6) * 30
    padded = functional.pad(x**2, (2, 2, 2, 2))
    squares = sum(padded[:, :, i : i + 7, j : j + 6] for i in range(5) for j in range(5))
    expected = x / (1 + 4e-5 * squares) ** 0.75
    torch.testing.assert_close(SpatialNorm()(x), expected)
    assert torch.autograd.gradcheck(SpatialNorm(), (x.requires_grad_(),))


@pytest.mark.parametrize("norm", [ChannelNorm(PAPER, size=5, groups=2), SpatialNorm()])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_as_float(norm: torch.nn.Module, dtype: torch.dtype) -> None:
    x = (noise(2, 6, 3, 3) * 3000).to(dtype).requires_grad_()  # squares overflow float16
    y = norm(x)
    y.float().sum().backward()
    assert x.grad is not None
    assert y.dtype == x.grad.dtype == dtype
    torch.testing.assert_close(y, norm(x.detach().double()).to(dtype), rtol=1e-2, atol=0)
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("name", COMPILED)
@settings(max_examples=40)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 9), st.integers(1, 9)),
    groups=st.integers(1, 2),
    half=st.integers(0, 5),
    rectify=st.booleans(),
    seed=st.integers(0, 99),
)
def test_the_kernels_equal_the_torch_code(
    name: str, shape: tuple[int, int, int, int], groups: int, half: int, rectify: bool, seed: int
) -> None:
    shape = (shape[0], shape[1] * groups, *shape[2:])
    norm = ChannelNorm(STRONG, size=2 * half + 1, groups=groups)
    wide = noise(*shape, seed=seed).requires_grad_()
    upstream = noise(*shape, seed=seed + 100)
    expected = norm(wide, rectify=rectify)
    expected.backward(upstream)
    before, cpu.BACKEND = cpu.BACKEND, name
    try:
        x = wide.detach().float().contiguous(memory_format=torch.channels_last).requires_grad_()
        assert cpu.takes(x, STRONG)
        y = norm(x, rectify=rectify)
        y.backward(upstream.float())
    finally:
        cpu.BACKEND = before
    assert x.grad is not None
    assert wide.grad is not None
    torch.testing.assert_close(y.double(), expected, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(x.grad.double(), wide.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", COMPILED)
def test_the_kernel_is_exact_to_float_rounding(name: str, backend: Callable[[str], None]) -> None:
    backend(name)
    x = (noise(4, 96, 13, 13) * 80).float().contiguous(memory_format=torch.channels_last)
    norm = ChannelNorm(PAPER, size=5, groups=2)
    expected = norm(x.double())
    error = ((norm(x) - expected) / expected).abs().max()
    assert error < 1e-6


@pytest.mark.parametrize("name", COMPILED)
@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_threads_change_nothing(name: str, threads: int, backend: Callable[[str], None]) -> None:
    backend(name)
    norm = ChannelNorm(PAPER, size=5, groups=2)
    x = (noise(3, 96, 17, 19) * 80).float().contiguous(memory_format=torch.channels_last)
    assert x.numel() > cpu.SMALL
    results = []
    before = torch.get_num_threads()
    for count in (1, threads):
        torch.set_num_threads(count)
        leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
        try:
            norm(leaf).square().sum().backward()
        finally:
            torch.set_num_threads(before)
        assert leaf.grad is not None
        results.append(leaf.grad)
    assert torch.equal(results[0], results[1])


@pytest.mark.parametrize("name", COMPILED)
def test_any_memory_format_gives_the_same(name: str, backend: Callable[[str], None]) -> None:
    """The torch code handles what the kernels cannot; gradients may have any memory format."""
    backend(name)
    norm = ChannelNorm(STRONG, size=5, groups=1)
    base = noise(2, 7, 5, 4).float()
    last = base.contiguous(memory_format=torch.channels_last)
    views = [base, last, last[:, :, ::2], last[:, 1:6], base.transpose(2, 3), last[:1]]
    assert [cpu.takes(view, STRONG) for view in views] == [False, True, False, False, False, True]
    for view in views:
        leaf = view.detach().requires_grad_()
        y = norm(leaf)
        torch.testing.assert_close(y.double(), norm(view.double()), rtol=1e-6, atol=1e-9)
        upstream = noise(*view.shape).float()
        y.backward(upstream)
        other = view.double().requires_grad_()
        norm(other).backward(upstream.double())
        assert leaf.grad is not None
        assert other.grad is not None
        torch.testing.assert_close(leaf.grad.double(), other.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", COMPILED)
@pytest.mark.parametrize("rectify", [False, True])
def test_a_nan_is_passed_on(name: str, rectify: bool, backend: Callable[[str], None]) -> None:
    backend(name)
    x = torch.ones(1, 16, 2, 2).contiguous(memory_format=torch.channels_last)
    x[0, 3, 1, 1] = torch.nan
    found = ChannelNorm(PAPER, size=5, groups=1)(x, rectify=rectify).isnan()
    assert found[0, 1:6, 1, 1].all()
    assert found.sum() == 5


def test_the_kernel_refuses_wrong_memory() -> None:
    if not COMPILED:
        pytest.skip("the C extension is not built here")
    rows = torch.zeros(4, 6).numpy()
    for x, y, channels, groups, size in [
        (rows, rows[:3], 6, 1, 5),
        (rows, rows, 5, 1, 5),
        (rows, rows, 6, 4, 5),
        (rows, rows, 6, 0, 5),
        (rows, rows, 6, 1, 4),
        (rows, rows, 6, 1, -1),
        (rows, rows, 0, 1, 5),
        (rows, rows, 6, 1, 2**20 + 1),
    ]:
        with pytest.raises(ValueError):
            cpu._cpu.lrn_forward(x, y, channels, groups, size, 2.0, 1e-4, False, True)
        with pytest.raises(ValueError):
            cpu._cpu.lrn_backward(x, x, y, channels, groups, size, 2.0, 1e-4, False, True)


def test_the_backend_is_chosen_by_name() -> None:
    assert cpu.choose_backend(None) == cpu.available_backends()[0]
    with pytest.raises(ConfigError, match=r"TRAIN_KERNEL must be one of .* got 'gpu'"):
        cpu.choose_backend("gpu")
    code = "from train.net.kernels.cpu import BACKEND; print(BACKEND)"
    environment = {**os.environ, "TRAIN_KERNEL": "torch"}
    ran = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "torch"
