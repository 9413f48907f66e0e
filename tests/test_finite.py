"""The check that a network is finite, before it is saved and after it is loaded."""

from __future__ import annotations

import pytest
import torch

from train.run.finite import all_finite

LARGEST = torch.finfo(torch.float32).max


def test_finite_tensors_pass_however_large() -> None:
    assert all_finite([torch.full((7, 3), LARGEST), torch.zeros(0), torch.tensor(-LARGEST)])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", [0, 4999, 9999])
def test_one_value_that_is_not_finite_is_found(value: float, place: int) -> None:
    tensor = torch.randn(10_000)
    tensor[place] = value
    assert not all_finite([torch.ones(3), tensor.view(100, 100)])
