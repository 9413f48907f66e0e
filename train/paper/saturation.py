"""Saturating and non-saturating neurons: how steep the activations are, and what gradient is left.

A value is saturated where the slope of its activation is below ``SATURATED`` of the steepest: for
tanh beyond about +-3.7, for the sigmoid beyond +-7.4, for ReLU below 0; the leaky ReLU, whose
slope is 0.01 below 0, never is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from train.errors import DataError
from train.net import MaskKey, Net
from train.net.tower import Tower

SATURATED = 0.0025
"""Share of the steepest slope."""

Activation = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerState:
    """One layer in one backward pass."""

    layer: str
    saturated: float | None
    """Share of all values (photographs, positions, units) that are saturated; None for the last
    layer, which has no activation."""
    dead: float | None
    """Share of the channels or units that are saturated everywhere in every photograph."""
    slope: float | None
    """Mean slope, as a share of the steepest."""
    gradient_norm: float
    """Euclidean norm of the gradient of the layer's weights."""
    weight_norm: float

    @property
    def relative_gradient(self) -> float:
        """Norm of the gradient in units of the norm of the weights; 0 if all weights are 0."""
        return self.gradient_norm / self.weight_norm if self.weight_norm else 0.0

    def to_json(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "layer": self.layer,
            "saturated": self.saturated,
            "dead": self.dead,
            "mean_slope": self.slope,
            "gradient_norm": self.gradient_norm,
            "weight_norm": self.weight_norm,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class NetState:
    """All layers of a net, at one time of its training."""

    activation: str
    updates: int
    """Updates done; 0 for the initial weights."""
    photographs: int
    loss: float
    """Mean cross-entropy of the photographs, in nats, with dropout."""
    layers: tuple[LayerState, ...]

    def to_json(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "activation": self.activation,
            "updates": self.updates,
            "photographs": self.photographs,
            "loss": self.loss,
            "layers": [layer.to_json() for layer in self.layers],
        }


def net_state(net: Net, images: Tensor, labels_n: Tensor, *, updates: int, seed: int) -> NetState:
    """Measure a net on one device with a training batch: images (n, 3, px, px) and labels (n,).

    Neither the weights nor their gradients in ``.grad`` change. ``seed`` draws the dropout masks.

    Raises:
        DataError: the loss is not finite, so neither are the gradients.
    """
    (tower,) = net.towers
    assert isinstance(tower, Tower)
    names = [name for name in net.layout.layers if name != net.layout.output]
    slopes: dict[str, Tensor] = {}
    masks = net.draw_masks(MaskKey.whole(seed=seed, step=updates, rows=len(labels_n)))

    def seen(x: Tensor, activation: Activation) -> None:
        slopes[names[len(slopes)]] = relative_slopes(activation, x)

    with _recorded(tower, seen):
        loss = cross_entropy(net(images, masks).float(), labels_n)
    if not math.isfinite(loss.item()):
        raise DataError(f"the loss of {net.config.activation} is not finite, nor are its gradients")
    parameters = dict(net.named_parameters())
    found = torch.autograd.grad(loss, list(parameters.values()))
    gradients = net.canonical(dict(zip(parameters, found, strict=True)))
    weights = net.canonical_state()
    return NetState(
        activation=net.config.activation,
        updates=updates,
        photographs=len(labels_n),
        loss=loss.item(),
        layers=tuple(
            _layer_state(
                name, slopes.get(name), gradients[f"{name}.weight"], weights[f"{name}.weight"]
            )
            for name in net.layout.layers
        ),
    )


def relative_slopes(activation: Activation, x: Tensor) -> Tensor:
    """Return the slope of an activation at each value, as a share of its steepest slope."""
    line = torch.linspace(-8, 8, 1601, dtype=torch.float64)
    return _slopes(activation, x) / float(_slopes(activation, line).max())


def _slopes(activation: Activation, x: Tensor) -> Tensor:
    with torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        (slopes,) = torch.autograd.grad(activation(leaf.clone()).sum(), leaf)
    return slopes


@contextmanager
def _recorded(tower: Tower, seen: Callable[[Tensor, Activation], None]) -> Iterator[None]:
    """Call ``seen`` with what each activation of a forward pass gets, in order, and with itself."""
    activation, rectifies = tower.activation, tower.rectifies

    def recording(x: Tensor) -> Tensor:
        seen(x, activation)
        return activation(x)

    tower.activation, tower.rectifies = recording, False  # not fused into the LRN
    try:
        yield
    finally:
        tower.activation, tower.rectifies = activation, rectifies


def _layer_state(name: str, slopes: Tensor | None, gradient: Tensor, weight: Tensor) -> LayerState:
    saturated = None if slopes is None else slopes < SATURATED
    return LayerState(
        layer=name,
        saturated=None if saturated is None else float(saturated.double().mean()),
        dead=None
        if saturated is None
        else float(saturated.transpose(0, 1).flatten(1).all(1).double().mean()),
        slope=None if slopes is None else float(slopes.double().mean()),
        gradient_norm=float(gradient.double().norm()),
        weight_norm=float(weight.double().norm()),
    )
