"""The update equals the paper's formula with changing rates, freezing, saving and columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from train.config import OptimConfig
from train.errors import CheckpointError
from train.optim.schedule import Rates
from train.optim.sgd import Sgd


@dataclass(frozen=True)
class Role:
    layer: str
    kind: str


class Small(nn.Module):
    """Two layers with weights and biases; ``split`` cuts conv1 in two, as columns do."""

    def __init__(self, *, split: bool = False, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(5)
        values = {
            "conv1.weight": torch.randn((6, 3, 2, 2), generator=draw, dtype=dtype),
            "conv1.bias": torch.randn(6, generator=draw, dtype=dtype),
            "fc8.weight": torch.randn((4, 6), generator=draw, dtype=dtype),
            "fc8.bias": torch.randn(4, generator=draw, dtype=dtype),
        }
        self.names: dict[str, Role] = {}
        for name, value in values.items():
            parts = value.chunk(2) if split and name.startswith("conv1") else (value,)
            for k, part in enumerate(parts):
                local = f"{name}.{k}".replace(".", "_")
                self.names[local] = Role(*name.split("."))
                self.register_parameter(local, nn.Parameter(part.clone()))

    def parameter_roles(self) -> Mapping[str, Role]:
        return self.names

    def whole(self, tensors: Mapping[str, Tensor]) -> dict[Role, Tensor]:
        """Join the parts of each layer."""
        found: dict[Role, list[Tensor]] = {}
        for name, role in self.names.items():
            found.setdefault(role, []).append(tensors[name].detach().clone())
        return {role: torch.cat(parts) for role, parts in found.items()}

    def weights(self) -> dict[Role, Tensor]:
        return self.whole(dict(self.named_parameters()))

    def set_gradients(self, step: int) -> dict[Role, Tensor]:
        """Set and return the gradients of one step, which are equal for a split net."""
        draw = torch.Generator().manual_seed(100 + step)
        whole = {
            role: torch.randn(value.shape, generator=draw, dtype=value.dtype)
            for role, value in self.weights().items()
        }
        for role, gradient in whole.items():
            names = [name for name, each in self.names.items() if each == role]
            for name, part in zip(names, gradient.chunk(len(names)), strict=True):
                self.get_parameter(name).grad = part.clone()
        return whole


def reference(
    config: OptimConfig, w: Tensor, v: Tensor, g: Tensor, lr: float, kind: str
) -> tuple[Tensor, Tensor]:
    """Compute weights and velocity after the paper's update, in plain arithmetic."""
    if lr == 0:
        return w, v
    decay = config.weight_decay if kind == "weight" or config.decay_biases else 0.0
    if config.lars and kind == "weight":
        lr *= float(config.lars * w.norm() / (g.norm() + decay * w.norm()))
    v = config.momentum * v - decay * lr * w - lr * g
    return w + v, v


RATES = st.builds(
    Rates,
    st.sampled_from([0.0, 1e-5, 1e-3, 0.01, 0.3]),
    st.sampled_from([0.0, 1e-4, 0.02, 2.0]),
    st.sampled_from([{}, {"conv1": 0.0}, {"conv1": 0.1}]),
)
CONFIGS = st.builds(
    OptimConfig,
    momentum=st.sampled_from([0.9, 0.5]),
    weight_decay=st.sampled_from([0.0, 0.0005, 0.1]),
    decay_biases=st.booleans(),
    lars=st.sampled_from([0.0, 0.02]),
)


@given(CONFIGS, st.lists(RATES, min_size=1, max_size=8), st.booleans())
def test_the_update_equals_the_papers_with_any_rates(
    config: OptimConfig, rates: list[Rates], split: bool
) -> None:
    net = Small(split=split)
    sgd = Sgd(net, config)
    w = net.weights()
    v = {role: torch.zeros_like(value) for role, value in w.items()}
    for step, each in enumerate(rates):
        gradients = net.set_gradients(step)
        sgd.step(each)
        for role, g in gradients.items():
            lr = each.of(role.layer, role.kind)
            w[role], v[role] = reference(config, w[role], v[role], g, lr, role.kind)
    for role, value in net.weights().items():
        torch.testing.assert_close(value, w[role], rtol=1e-11, atol=1e-13)
        torch.testing.assert_close(
            net.whole(sgd.velocities())[role], v[role], rtol=1e-9, atol=1e-13
        )


@pytest.mark.parametrize("frozen", [Rates(0.0, 0.0), Rates(0.1, 0.1, {"conv1": 0.0, "fc8": 0.0})])
def test_rate_0_changes_neither_weights_nor_velocity(frozen: Rates) -> None:
    net = Small()
    sgd = Sgd(net, OptimConfig())
    net.set_gradients(0)
    sgd.step(Rates(0.01, 0.02))
    weights, velocities = net.weights(), sgd.velocities()
    net.set_gradients(1)
    sgd.step(frozen)
    assert all(torch.equal(value, weights[role]) for role, value in net.weights().items())
    assert all(torch.equal(value, velocities[name]) for name, value in sgd.velocities().items())


def test_a_frozen_layer_needs_no_gradient_and_an_active_one_does() -> None:
    net = Small()
    sgd = Sgd(net, OptimConfig())
    net.set_gradients(0)
    for name, role in net.names.items():
        if role.layer == "conv1":
            net.get_parameter(name).grad = None
    sgd.step(Rates(0.01, 0.01, {"conv1": 0.0}))
    with pytest.raises(AssertionError, match="conv1"):
        sgd.step(Rates(0.01, 0.01))


def test_without_momentum_the_update_is_gradient_descent_with_decay() -> None:
    net, config = Small(), OptimConfig(momentum=0.0)
    before, gradients = net.weights(), net.set_gradients(0)
    Sgd(net, config).step(Rates(0.1, 0.1))
    for role, value in net.weights().items():
        expected, _ = reference(
            config, before[role], torch.zeros_like(value), gradients[role], 0.1, role.kind
        )
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_saved_and_loaded_velocities_continue_bit_for_bit(dtype: torch.dtype) -> None:
    config = OptimConfig()
    whole, begun = Small(dtype=dtype), Small(dtype=dtype)
    undisturbed, first = Sgd(whole, config), Sgd(begun, config)
    rates = [Rates(0.01, 0.02), Rates(0.003, 0.02), Rates(0.003, 0.002), Rates(0.01, 0.02)]
    for step, each in enumerate(rates):
        whole.set_gradients(step)
        undisturbed.step(each)
        begun.set_gradients(step)
        first.step(each)
        second = Sgd(begun, config)
        second.load_velocities(first.velocities())
        first = second
    assert all(torch.equal(value, whole.weights()[role]) for role, value in begun.weights().items())


def test_the_memory_format_of_gradients_does_not_matter() -> None:
    nets = [Small(), Small()]
    nets[1].to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for net in nets:
        net.set_gradients(0)
        Sgd(net, OptimConfig()).step(Rates(0.1, 0.1))
    first, second = (net.weights() for net in nets)
    assert all(torch.equal(first[role], second[role]) for role in first)


def test_columns_and_whole_net_get_the_same_lars_update() -> None:
    nets = [Small(), Small(split=True)]
    for net in nets:
        sgd = Sgd(net, OptimConfig(lars=0.01))
        for step in range(3):
            net.set_gradients(step)
            sgd.step(Rates(0.1, 0.1))
    first, second = (net.weights() for net in nets)
    for role, value in first.items():
        torch.testing.assert_close(value, second[role], rtol=1e-12, atol=1e-14)


def test_lars_leaves_layers_without_weights_or_gradients_finite() -> None:
    net = Small()
    sgd = Sgd(net, OptimConfig(lars=0.01))
    net.set_gradients(0)
    for name, role in net.names.items():
        parameter = net.get_parameter(name)
        if role.layer == "conv1":
            parameter.data.zero_()
        else:
            assert parameter.grad is not None
            parameter.grad.zero_()
    sgd.step(Rates(0.1, 0.1))
    assert all(torch.isfinite(value).all() for value in net.weights().values())


def test_loss_scaling_changes_no_update_and_skips_an_overflow() -> None:
    plain, scaled = Small(dtype=torch.float32), Small(dtype=torch.float32)
    one, other = Sgd(plain, OptimConfig()), Sgd(scaled, OptimConfig())
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(torch.ones(1))
    for step in range(3):
        plain.set_gradients(step)
        scaled.set_gradients(step)
        for parameter in scaled.parameters():
            assert parameter.grad is not None
            parameter.grad.mul_(scaler.get_scale())
        if step == 1:
            scaled.get_parameter("fc8_bias_0").grad = torch.full((4,), float("inf"))
        else:
            one.step(Rates(0.01, 0.02))
        scaler.step(other, Rates(0.01, 0.02))  # type: ignore[arg-type]
        scaler.update()
    assert scaler.get_scale() == 512
    for role, value in plain.weights().items():
        assert torch.equal(value, scaled.weights()[role])


def test_zero_grad_clears_all_gradients() -> None:
    net = Small()
    net.set_gradients(0)
    Sgd(net, OptimConfig()).zero_grad()
    assert all(parameter.grad is None for parameter in net.parameters())


def test_velocities_of_another_net_are_refused() -> None:
    sgd = Sgd(Small(), OptimConfig())
    velocities = sgd.velocities()
    with pytest.raises(CheckpointError, match="fc8_weight_0"):
        sgd.load_velocities({**velocities, "fc8_weight_0": torch.zeros(3)})
    velocities.pop("fc8_bias_0")
    with pytest.raises(CheckpointError, match="fc8_bias_0"):
        sgd.load_velocities(velocities)
