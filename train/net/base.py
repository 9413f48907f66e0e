"""What the grouped net and the net of two columns have in common, and the one weight layout.

*Canonical* names and shapes are those of the grouped net on one device: ``conv1.weight``
(96, 3, 11, 11) to ``fc8.bias``. Both nets convert to and from it, so weights, gradients and
velocities of one fit the other. Column b's share of a canonical tensor is the second half of its
first dimension, for every tensor but those of fc8.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from train.config import NetConfig
from train.errors import CheckpointError
from train.net.layout import Plan
from train.net.randomness import MaskKey, keep_mask
from train.net.tower import Tower

Masks = dict[str, tuple[Tensor, ...]]
"""For fc6 and fc7: what dropout leaves on, bool (rows, units), one tensor for each device."""

DROPPED = ("fc6", "fc7")


@dataclass(frozen=True, slots=True)
class Role:
    """What a parameter is, for rates and decay by layer and by kind."""

    layer: str
    kind: Literal["weight", "bias"]


class Net(nn.Module, ABC):
    """AlexNet as a pure function: ``logits = net(images, masks)``.

    ``images`` are float (n, 3, px, px) on ``devices[0]``, on the scale 0-255 with the mean taken
    off; n may be 0. ``masks`` come from ``draw_masks`` in training; None means test time. The
    logits, float (n, classes), are on ``devices[0]``.
    """

    def __init__(
        self, plan: Plan, config: NetConfig, devices: Sequence[torch.device], towers: list[Tower]
    ) -> None:
        super().__init__()
        self.plan = plan
        self.config = config
        self.devices = tuple(devices)
        self.towers = nn.ModuleList(towers)

    def forward(self, images: Tensor, masks: Masks | None = None) -> Tensor:
        return self.classify(self.forward_features(images, masks))

    @abstractmethod
    def forward_features(self, images: Tensor, masks: Masks | None = None) -> Tensor:
        """What fc8 reads: fc7 after dropout, (n, 4096), on ``devices[0]``."""

    def classify(self, features: Tensor) -> Tensor:
        """fc8 of the features: logits (n, classes)."""
        tower = self.towers[0]
        assert isinstance(tower, Tower)
        return tower.run("fc8", features)

    def link_bytes_per_image(self) -> dict[str, int]:
        """Float32 bytes that one image sends forward at each joint; as many come back in training.

        Counts both directions; empty for a net on one device.
        """
        return {}

    @abstractmethod
    def draw_masks(self, key: MaskKey) -> Masks:
        """Dropout masks of these rows; the same for every division of the net and the batch."""

    def _halves(
        self, layer: str, key: MaskKey, device: torch.device, *columns: int
    ) -> list[Tensor]:
        """Masks of the halves of a layer. Each has a stream of its own, so that each device draws
        its half and nothing crosses."""
        units = self.plan.hidden_units // 2
        keep = self.config.dropout_keep
        return [
            keep_mask(key, f"dropout.{layer}.{column}", units, keep=keep, device=device)
            for column in columns
        ]

    def parameter_roles(self) -> dict[str, Role]:
        """Layer and kind of every parameter, by its name in ``named_parameters``."""
        return {name: _role(name) for name, _ in self.named_parameters()}

    def canonical(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors by parameter name, such as gradients, as canonical ones: new, on the CPU."""
        parts: dict[str, list[Tensor]] = {}
        for name, role in self.parameter_roles().items():  # towers in order: a before b
            value = tensors[name].detach().to("cpu", copy=True).contiguous()
            parts.setdefault(f"{role.layer}.{role.kind}", []).append(value)
        return {
            name: parts[name][0] if len(parts[name]) == 1 else torch.cat(parts[name])
            for name in canonical_shapes(self.plan)
        }

    def local(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inverse of ``canonical``: new tensors of each parameter's type, on its device.

        CheckpointError if a name or a shape is not that of this net.
        """
        check_state(tensors, self.plan)
        found = {}
        for name, parameter in self.named_parameters():
            role = _role(name)
            value = tensors[f"{role.layer}.{role.kind}"].detach()
            if len(self.towers) == 2 and self.plan.layers[role.layer].split:
                value = value.chunk(2)[int(name.split(".")[1])]
            found[name] = value.to(parameter.device, parameter.dtype, copy=True).contiguous()
        return found

    def canonical_state(self) -> dict[str, Tensor]:
        """All weights and biases by canonical name: copies, on the CPU."""
        return self.canonical(dict(self.named_parameters()))

    @torch.no_grad()
    def load_canonical_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Set all weights and biases. CheckpointError if a name or a shape does not fit."""
        local = self.local(tensors)
        for name, parameter in self.named_parameters():
            parameter.copy_(local[name])


def canonical_shapes(plan: Plan) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the canonical layout, in order."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, layer in plan.layers.items():
        shapes[f"{name}.weight"] = layer.weight_shape
        shapes[f"{name}.bias"] = (layer.outputs,)
    return shapes


def _role(parameter_name: str) -> Role:
    _, _, layer, kind = parameter_name.split(".")  # "towers.0.conv1.weight"
    assert kind in ("weight", "bias")
    return Role(layer, "weight" if kind == "weight" else "bias")


def check_state(tensors: Mapping[str, Tensor], plan: Plan) -> None:
    """Refuse weights of another net: before one is made, whose size a hostile file may claim.

    Raises:
        CheckpointError: a name or a shape is not that of the planned net.
    """
    shapes = canonical_shapes(plan)
    if tensors.keys() != shapes.keys():
        odd = ", ".join(sorted(tensors.keys() ^ shapes.keys()))
        raise CheckpointError(f"these weights are of another architecture: they differ in {odd}")
    for name, shape in shapes.items():
        if tuple(tensors[name].shape) != shape:
            raise CheckpointError(
                f"{name} is {tuple(tensors[name].shape)} where this net has {shape}: another "
                "number of classes, image size or width"
            )
