"""Updates of the real nets: grouped and in columns they give equal weights and velocities."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from tests.checkpoints import make_checkpoint
from train.config import NetConfig, OptimConfig
from train.net import MaskKey, Net, build_net
from train.optim.schedule import Rates
from train.optim.sgd import Sgd
from train.saved import checkpoint

CPU = torch.device("cpu")
PX, ROWS = 64, 2
RATES = [
    Rates(0.01, 0.02),
    Rates(0.001, 0.02),
    Rates(0.001, 0.02, {"conv1": 0.1}),
    Rates(0.01, 0.002, {"conv1": 0.0}),
]


def net_in(columns: bool, dtype: torch.dtype = torch.float64) -> Net:
    config = NetConfig(width_divisor=16, init_sd_conv345=0.03)
    devices = (CPU, CPU) if columns else (CPU,)
    net = build_net(config, classes=4, devices=devices, columns=columns, seed=1, image_px=PX)
    return net.to(dtype)


def update(net: Net, sgd: Sgd, step: int) -> None:
    """Make one update from images and masks that depend only on ``step``."""
    draw = torch.Generator().manual_seed(step)
    dtype = next(net.parameters()).dtype
    images = (torch.randn(ROWS, 3, PX, PX, generator=draw) * 60).to(dtype)
    key = MaskKey(seed=3, step=step, first_row=0, rows=ROWS, global_rows=ROWS)
    loss = cross_entropy(net(images, net.draw_masks(key)), torch.arange(ROWS) % 4)
    torch.autograd.backward(loss)
    sgd.step(RATES[step])
    sgd.zero_grad()


def state_of(net: Net, sgd: Sgd) -> dict[str, Tensor]:
    velocities = net.canonical(sgd.velocities())
    return net.canonical_state() | {f"v.{name}": v for name, v in velocities.items()}


def run(config: OptimConfig, order: list[bool]) -> dict[str, Tensor]:
    """Make one update in each form of ``order``, passing on the state by canonical names."""
    weights: dict[str, Tensor] | None = None
    velocities: dict[str, Tensor] = {}
    for step, columns in enumerate(order):
        net = net_in(columns)
        sgd = Sgd(net, config)
        if weights is not None:
            net.load_canonical_state(weights)
            sgd.load_velocities(net.local(velocities))
        update(net, sgd, step)
        weights = net.canonical_state()
        velocities = net.canonical(sgd.velocities())
    return state_of(net, sgd)


@pytest.mark.parametrize("lars", [0.0, 0.01])
def test_alternating_forms_end_where_one_form_ends(lars: float) -> None:
    config = OptimConfig(decay_biases=False, lars=lars)
    whole = run(config, [False] * 4)
    mixed = run(config, [False, True, True, False])
    assert mixed.keys() == whole.keys()
    for name, value in whole.items():
        torch.testing.assert_close(mixed[name], value, rtol=1e-9, atol=1e-13)


def test_a_run_saved_after_every_update_equals_an_uninterrupted_run_bit_for_bit(
    tmp_path: Path,
) -> None:
    config = OptimConfig()
    whole = net_in(False, torch.float32)
    undisturbed = Sgd(whole, config)
    for step in range(4):
        update(whole, undisturbed, step)
        net = net_in(False, torch.float32)
        sgd = Sgd(net, config)
        if step:
            saved = checkpoint.load(tmp_path / checkpoint.LAST)
            net.load_canonical_state(saved.model)
            sgd.load_velocities(net.local(saved.velocities))
        update(net, sgd, step)
        state = make_checkpoint(
            model=net.canonical_state(), velocities=net.canonical(sgd.velocities())
        )
        checkpoint.save(tmp_path, state, keep=1)
    expected, found = state_of(whole, undisturbed), state_of(net, sgd)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_frozen_conv1_does_not_change_in_either_form() -> None:
    for columns in (False, True):
        net = net_in(columns)
        sgd = Sgd(net, OptimConfig())
        before = net.canonical_state()
        update(net, sgd, 3)
        after = net.canonical_state()
        changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
        assert changed == before.keys() - {"conv1.weight", "conv1.bias"}
