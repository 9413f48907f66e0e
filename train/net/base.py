"""What the grouped net and the net of two columns share, and the canonical form of the weights.

*Canonical* names and shapes are those of the grouped net on one device: ``conv1.weight``
(96, 3, 11, 11) to ``fc8.bias``. Both nets convert to and from them, so weights, gradients and
velocities of one fit the other. Column b owns the second half of the first dimension of every
canonical tensor except those of fc8.
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
from train.net.layout import NetLayout
from train.net.randomness import MaskKey, keep_mask
from train.net.tower import Tower

Masks = dict[str, tuple[Tensor, ...]]
"""Masks of the layers with dropout: True keeps a unit, bool (rows, units), one per device."""


@dataclass(frozen=True, slots=True)
class Role:
    """Layer and kind of a parameter, for rates and decay."""

    layer: str
    kind: Literal["weight", "bias"]


class Net(nn.Module, ABC):
    """AlexNet as a pure function: ``logits = net(images, masks)``.

    ``images`` are floats (n, 3, px, px) on ``devices[0]``, on the scale 0-255 with the mean
    subtracted; n may be 0. ``masks`` come from ``draw_masks`` in training; None means test time.
    The logits, floats (n, classes), are on ``devices[0]``.
    """

    def __init__(
        self,
        layout: NetLayout,
        config: NetConfig,
        devices: Sequence[torch.device],
        towers: list[Tower],
    ) -> None:
        super().__init__()
        self.layout = layout
        self.config = config
        self.devices = tuple(devices)
        self.towers = nn.ModuleList(towers)

    def forward(self, images: Tensor, masks: Masks | None = None) -> Tensor:
        return self.classify(self.forward_features(images, masks))

    @abstractmethod
    def forward_features(self, images: Tensor, masks: Masks | None = None) -> Tensor:
        """Compute the input of the last layer: fc7 after dropout, (n, 4096), on ``devices[0]``."""

    def classify(self, features: Tensor) -> Tensor:
        """Apply the last layer to the features: logits (n, classes)."""
        tower = self.towers[0]
        assert isinstance(tower, Tower)
        return tower.run(self.layout.output, features)

    def link_bytes_per_image(self) -> dict[str, int]:
        """Float32 bytes that one image sends forward at each joint; training sends as many back.

        Counts both directions; empty for a net on one device.
        """
        return {}

    @abstractmethod
    def draw_masks(self, key: MaskKey) -> Masks:
        """Draw the dropout masks of these rows; equal however the net and the batch are split."""

    def _column_masks(
        self, layer: str, key: MaskKey, device: torch.device, *columns: int
    ) -> list[Tensor]:
        """Masks of some columns' halves of a layer. Each half has its own random stream, so that
        each device draws its half and nothing crosses the link."""
        units = self.layout.hidden_units // 2
        keep = self.config.dropout_keep
        return [
            keep_mask(key, f"dropout.{layer}.{column}", units, keep=keep, device=device)
            for column in columns
        ]

    def parameter_roles(self) -> dict[str, Role]:
        """Layer and kind of every parameter, by its name in ``named_parameters``."""
        return {name: _role(name) for name, _ in self.named_parameters()}

    def host_tensors(self) -> dict[str, Tensor]:
        """Make uninitialised tensors of all canonical names, of the parameters' types, on the CPU;
        pinned if the net is on a GPU."""
        types = {f"{role.layer}.{role.kind}": name for name, role in self.parameter_roles().items()}
        parameters, pinned = dict(self.named_parameters()), self.devices[0].type == "cuda"
        return {
            name: torch.empty(shape, dtype=parameters[types[name]].dtype, pin_memory=pinned)
            for name, shape in canonical_shapes(self.layout).items()
        }

    def canonical(
        self, tensors: Mapping[str, Tensor], *, into: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Convert tensors by parameter name, such as gradients, to canonical copies on the CPU.

        ``into`` takes tensors of ``host_tensors`` for the copies. Where these are pinned, the
        copies are only queued: wait for the devices before you read them.
        """
        result = self.host_tensors() if into is None else into
        filled: dict[str, int] = {}
        with torch.no_grad():
            for name, role in self.parameter_roles().items():  # towers in order: a before b
                key, value = f"{role.layer}.{role.kind}", tensors[name].detach()
                start = filled.get(key, 0)
                filled[key] = start + len(value)
                result[key][start : filled[key]].copy_(value, non_blocking=into is not None)
        return result

    def local(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Invert ``canonical``: new tensors of each parameter's type, on its device.

        Raises:
            CheckpointError: a name or a shape is not that of this net.
        """
        check_state(tensors, self.layout)
        local = {}
        for name, parameter in self.named_parameters():
            role = _role(name)
            value = tensors[f"{role.layer}.{role.kind}"].detach()
            if len(self.towers) == 2 and self.layout.layers[role.layer].split:
                value = value.chunk(2)[int(name.split(".")[1])]
            local[name] = value.to(parameter.device, parameter.dtype, copy=True).contiguous()
        return local

    def canonical_state(self) -> dict[str, Tensor]:
        """Return copies of all weights and biases by canonical name, on the CPU."""
        return self.canonical(dict(self.named_parameters()))

    @torch.no_grad()
    def load_canonical_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Set all weights and biases.

        Raises:
            CheckpointError: a name or a shape is not that of this net.
        """
        local = self.local(tensors)
        for name, parameter in self.named_parameters():
            parameter.copy_(local[name])


def canonical_shapes(layout: NetLayout) -> dict[str, tuple[int, ...]]:
    """Canonical names and shapes of all weights and biases, in order."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, layer in layout.layers.items():
        shapes[f"{name}.weight"] = layer.weight_shape
        shapes[f"{name}.bias"] = (layer.outputs,)
    return shapes


def _role(parameter_name: str) -> Role:
    _, _, layer, kind = parameter_name.split(".")  # "towers.0.conv1.weight"
    assert kind in ("weight", "bias")
    return Role(layer, "weight" if kind == "weight" else "bias")


def check_state(tensors: Mapping[str, Tensor], layout: NetLayout) -> None:
    """Refuse weights of another net before building one, whose size a hostile file may dictate.

    Raises:
        CheckpointError: a name or a shape is not that of the net of ``layout``.
    """
    shapes = canonical_shapes(layout)
    if tensors.keys() != shapes.keys():
        odd = ", ".join(sorted(tensors.keys() ^ shapes.keys()))
        raise CheckpointError(f"these weights belong to another architecture: they differ in {odd}")
    for name, shape in shapes.items():
        if tuple(tensors[name].shape) != shape:
            raise CheckpointError(
                f"{name} has shape {tuple(tensors[name].shape)}, but this net needs {shape}: the "
                "number of classes, the image size or the width differs"
            )
