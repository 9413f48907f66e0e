"""The paper's update, with the learning rate inside the velocity (paper, section 5)::

    v <- momentum * v - weight_decay * lr * w - lr * gradient
    w <- w + v

After a drop of the rate the old velocity keeps its size, as in the 2012 source (weights.cu
146-198). In ``torch.optim.SGD`` the new rate multiplies the old velocity too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import Parameter

from train.config import OptimConfig
from train.errors import CheckpointError
from train.optim.schedule import Rates

_BUFFER = "momentum_buffer"


class RoleLike(Protocol):
    """Layer and kind of a parameter, such as ``conv1`` and ``weight``."""

    @property
    def layer(self) -> str: ...
    @property
    def kind(self) -> str: ...


class NetLike(Protocol):
    """The part of a network that ``Sgd`` needs."""

    def named_parameters(self) -> Iterable[tuple[str, Parameter]]: ...
    def parameter_roles(self) -> Mapping[str, RoleLike]: ...


class Sgd:
    """Updates a network's parameters in place, on any devices.

    torch's fused kernel needs one pass over memory (43 ms for the net's 61 M parameters on two
    cores, against 100 ms with ``torch._foreach_*``). With rate 1 and dampening ``1 - lr`` its
    buffer becomes ``momentum * buffer + lr * (gradient + weight_decay * w)``: this is exactly
    ``-v``, and needs no rescaling when the rate changes.
    """

    _step_supports_amp_scaling = True
    """Makes ``torch.amp.GradScaler`` set ``grad_scale`` (the factor in the gradients) and
    ``found_inf`` (whether one overflowed) for a step, so that no value returns to Python."""

    def __init__(self, net: NetLike, config: OptimConfig) -> None:
        self._config = config
        self._roles = net.parameter_roles()
        self._parameters = dict(net.named_parameters())
        if self._parameters.keys() != self._roles.keys():
            odd = sorted(self._parameters.keys() ^ self._roles.keys())
            raise ValueError(f"parameters and roles must have the same names; they differ in {odd}")
        self.optimizer = torch.optim.SGD(
            [{"params": [parameter]} for parameter in self._parameters.values()],
            lr=1.0,
            momentum=config.momentum,
            fused=True,
        )
        """For code that expects a torch optimizer, such as the gradient scaler: one group per
        parameter. Its ``step`` is not the update."""
        for parameter in self._parameters.values():
            self.optimizer.state[parameter][_BUFFER] = torch.zeros_like(parameter)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups that ``torch.amp.GradScaler`` reads: ``scaler.step(sgd, rates)`` undoes the
        scaling and updates, unless a gradient overflowed; call ``scaler.update()`` next."""
        return self.optimizer.param_groups

    def zero_grad(self) -> None:
        """Clear the gradients."""
        self.optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def step(self, rates: Rates) -> None:
        """Update each parameter whose rate is not 0 from its ``grad``; waits for no device.

        LARS overwrites the gradients of the weights.
        """
        active: dict[str, float] = {}
        for name, role in self._roles.items():
            lr = rates.of(role.layer, role.kind)
            if lr != 0:
                active[name] = lr
                self._match_strides(name)
        if self._config.lars > 0:
            self._scale_by_trust([name for name in active if self._roles[name].kind == "weight"])
        every_group = self.optimizer.param_groups
        try:
            self.optimizer.param_groups = self._groups(active)
            fused: Any = self.optimizer  # its kernel undoes the scaling, or changes nothing
            fused.grad_scale = getattr(self, "grad_scale", None)
            fused.found_inf = getattr(self, "found_inf", None)
            fused.step()
        finally:
            self.optimizer.param_groups = every_group

    def velocities(self) -> dict[str, Tensor]:
        """Copy the paper's v by parameter name: what the last update added to the weights."""
        return {name: -negative for name, negative in self.negative_velocities().items()}

    def negative_velocities(self) -> dict[str, Tensor]:
        """Return the tensors with the negatives of the velocities, which each update changes."""
        return {
            name: self.optimizer.state[parameter][_BUFFER]
            for name, parameter in self._parameters.items()
        }

    @torch.no_grad()
    def load_velocities(self, velocities: Mapping[str, Tensor]) -> None:
        """Invert ``velocities``; the tensors may be on any device.

        Raises:
            CheckpointError: names or shapes are not those of the parameters.
        """
        if velocities.keys() != self._parameters.keys():
            odd = sorted(velocities.keys() ^ self._parameters.keys())
            raise CheckpointError(
                f"the velocities belong to another net: they differ in {', '.join(odd)}"
            )
        for name, parameter in self._parameters.items():
            if velocities[name].shape != parameter.shape:
                raise CheckpointError(
                    f"the velocity of {name} has shape {tuple(velocities[name].shape)}, but its "
                    f"parameter has {tuple(parameter.shape)}"
                )
        for name, parameter in self._parameters.items():
            self.optimizer.state[parameter][_BUFFER].copy_(velocities[name]).neg_()

    def _groups(self, active: Mapping[str, float]) -> list[dict[str, object]]:
        """Make torch's parameter groups: one kernel call for each pair of rate and decay."""
        config = self._config
        plain = config.momentum == 0  # then torch uses neither buffer nor dampening
        groups: dict[tuple[float, float], list[Parameter]] = {}
        for name, lr in active.items():
            groups.setdefault((lr, self._decay(name)), []).append(self._parameters[name])
        return [
            {
                **self.optimizer.defaults,
                "params": parameters,
                "lr": lr if plain else 1.0,
                "dampening": 0.0 if plain else 1.0 - lr,
                "weight_decay": decay,
            }
            for (lr, decay), parameters in groups.items()
        ]

    def _decay(self, name: str) -> float:
        if self._roles[name].kind == "bias":
            return self._config.weight_decay if self._config.decay_biases else 0.0
        return 0.0 if self._config.lars > 0 else self._config.weight_decay

    def _match_strides(self, name: str) -> None:
        """Give a gradient its parameter's strides: the fused CPU kernel ignores strides (torch
        2.13), so another memory format would silently permute the update."""
        parameter = self._parameters[name]
        gradient = parameter.grad
        assert gradient is not None, f"{name} has no gradient"
        if gradient.stride() != parameter.stride():
            parameter.grad = torch.empty_like(parameter).copy_(gradient)

    def _scale_by_trust(self, names: Iterable[str]) -> None:
        """Apply layer-wise adaptive rates (You et al. 2017): each weight's gradient becomes
        ``trust * (g + wd * w)`` with ``trust = lars * |w| / (|g| + wd * |w|)``.

        The norms cover the whole layer, both columns together, so columns change nothing.
        """
        layers: dict[str, list[Parameter]] = {}
        for name in names:
            layers.setdefault(self._roles[name].layer, []).append(self._parameters[name])
        for parameters in layers.values():
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            w, g = _norm(parameters), _norm(gradients)
            trust = self._config.lars * w / (g + self._config.weight_decay * w)
            trust = torch.where((w > 0) & (g > 0), trust, torch.ones_like(trust))
            for parameter, gradient in zip(parameters, gradients, strict=True):
                gradient.add_(parameter, alpha=self._config.weight_decay)
                gradient.mul_(trust.to(gradient.device, gradient.dtype, non_blocking=True))


def _norm(tensors: Iterable[Tensor]) -> Tensor:
    """Compute the Euclidean norm of several tensors together: a scalar on the first's device."""
    squares = [torch.linalg.vector_norm(tensor).square() for tensor in tensors]
    first = squares[0].device
    return torch.stack([each.to(first, non_blocking=True) for each in squares]).sum().sqrt()
