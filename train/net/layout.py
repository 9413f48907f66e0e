"""The layers of each architecture: sizes, groups, and where the columns meet; without torch.

Shapes are those of the whole net on one device, where the two columns of 2012 are the two groups
of a grouped convolution. A column owns one half of every layer's outputs.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace

from train.config import Architecture, NetConfig
from train.errors import ConfigError

CONV1_KERNEL = 11
CONV1_STRIDE = 4
HIDDEN_UNITS = 4096
FLOAT_BYTES = 4
BODY = ("conv3", "conv4", "conv5")
HIDDEN = ("fc6", "fc7")

_WIDTHS: Mapping[Architecture, tuple[int, ...]] = {
    "two-column": (96, 256, 384, 384, 256),
    "one-gpu": (48, 128, 192, 192, 256),  # half the filters in conv1 to conv4 (paper, 3.2)
    "conv6": (96, 256, 384, 384, 256, 256),
    "cifar4": (32, 32, 64),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """A layer with weights. ``inputs`` and ``outputs`` count channels (conv) or units (fc)."""

    name: str
    inputs: int
    outputs: int
    kernel: int = 1
    """Side of the filters in pixels; 1 for a fully connected layer."""
    stride: int = 1
    padding: int = 0
    groups: int = 1
    is_conv: bool = False
    split: bool = True
    """Its outputs are divided between the columns; the first device holds all of fc8."""

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the torch weight: (outputs, inputs of a group[, kernel, kernel])."""
        fan = (self.outputs, self.inputs // self.groups)
        return (*fan, self.kernel, self.kernel) if self.is_conv else fan

    @property
    def parameters(self) -> int:
        """Number of weights and biases together."""
        fan_in = self.inputs // self.groups * (self.kernel**2 if self.is_conv else 1)
        return self.outputs * (fan_in + 1)

    def half(self) -> Layer:
        """Return the layer of one column: half the outputs, from the inputs of one group."""
        if not self.split:
            return self
        inputs = self.inputs // self.groups
        return replace(self, inputs=inputs, outputs=self.outputs // 2, groups=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class NetLayout:
    """The layers and sizes of a whole net."""

    layers: Mapping[str, Layer]
    columns: int
    """2 if conv2, and all convolutions after the first joint, read only their own column; else 1.
    """
    image_px: int
    padding_px: int
    """Zeros to the right of and below the image, so that conv1's last window fits (3 for 224)."""
    sides: tuple[int, int, int, int]
    """Sides in pixels after conv1, pool1, pool2 and pool5 (of ``cifar4``: pool3)."""

    @property
    def parameters(self) -> int:
        """Number of weights and biases: 60,965,224 for the paper's net with 1000 classes."""
        return sum(layer.parameters for layer in self.layers.values())

    @property
    def body(self) -> tuple[str, ...]:
        """Convolutions between the second and the last pooling; the columns meet at the first."""
        return tuple(name for name in BODY if name in self.layers)

    @property
    def hidden(self) -> tuple[str, ...]:
        """Fully connected layers with dropout."""
        return tuple(name for name in HIDDEN if name in self.layers)

    @property
    def output(self) -> str:
        """Name of the last layer, whose outputs are the logits."""
        return list(self.layers)[-1]

    @property
    def hidden_units(self) -> int:
        """Outputs of each hidden layer over both columns, which the last layer reads."""
        return self.layers[self.output].inputs

    def joints(self) -> dict[str, int]:
        """Values per image that a column sends at each joint, by the layer that reads them.

        At fc8 only the second column sends. Empty for a net with one column.
        """
        if self.columns == 1:
            return {}
        half = {name: layer.outputs // 2 for name, layer in self.layers.items()}
        _, _, pool2, pool5 = self.sides
        values = {self.body[0]: half["conv2"] * pool2**2}
        last = self.body[-1]
        if "conv6" in self.layers:
            values["conv6"] = half[last] * pool5**2
            last = "conv6"
        values[self.hidden[0]] = half[last] * pool5**2
        for reader, sender in zip((*self.hidden[1:], self.output), self.hidden, strict=True):
            values[reader] = half[sender]
        return values

    def link_bytes_per_image(self) -> dict[str, int]:
        """Float32 bytes that one image sends forward at each joint; training sends as many back.

        Counts both directions; empty for a net with one column.
        """
        return {
            joint: values * FLOAT_BYTES * (1 if joint == "fc8" else 2)
            for joint, values in self.joints().items()
        }


def pooled(side: int, size: int = 3, stride: int = 2) -> int:
    """Side after max pooling; the published sides 55, 27, 13 divide without remainder."""
    return (side - size) // stride + 1


def net_layout(config: NetConfig, *, classes: int, image_px: int = 224) -> NetLayout:
    """Work out the layers that the settings ask for.

    Raises:
        ConfigError: the image is too small for them.
    """
    sides = _sides(config, image_px)
    if sides[-1] < 1:
        least = next(px for px in itertools.count(image_px) if _sides(config, px)[-1] >= 1)
        raise ConfigError(
            f"images of {image_px} px are too small: the net needs at least {least} px"
        )
    make = _cifar_layers if config.architecture == "cifar4" else _layers
    layers = {layer.name: layer for layer in make(config, classes, sides[-1])}
    conv1 = layers["conv1"]
    return NetLayout(
        layers=layers,
        columns=config.columns,
        image_px=image_px,
        padding_px=(sides[0] - 1) * conv1.stride + conv1.kernel - image_px - 2 * conv1.padding,
        sides=sides,
    )


def _sides(config: NetConfig, image_px: int) -> tuple[int, int, int, int]:
    size, stride = config.pool_size, config.pool_stride
    if config.architecture == "cifar4":  # its windows may reach over the edge: 32, 16, 8, 4
        sides = [image_px]
        for _ in range(3):
            last = sides[-1]
            sides.append(1 + -(-(last - size) // stride) if last >= size else 0)
        return sides[0], sides[1], sides[2], sides[3]
    # The source rounds up, so the last window reaches over the edge: 1 + ceil(213 / 4) = 55.
    conv1 = 1 + -(-(image_px - CONV1_KERNEL) // CONV1_STRIDE)
    pool1 = pooled(conv1, size, stride)
    pool2 = pooled(pool1, size, stride)
    return conv1, pool1, pool2, pooled(pool2, size, stride)


def _layers(config: NetConfig, classes: int, last_side: int) -> list[Layer]:
    widths = [width // config.width_divisor for width in _WIDTHS[config.architecture]]
    units = HIDDEN_UNITS // config.width_divisor
    columns = config.columns
    layers = [
        _conv("conv1", 3, widths[0], kernel=CONV1_KERNEL, stride=CONV1_STRIDE),
        _conv("conv2", widths[0], widths[1], kernel=5, padding=2, groups=columns),
    ]
    width, groups = widths[1], 1  # the first layer of the body reads both columns
    for name, outputs in zip(BODY, widths[2:5], strict=True):
        if name != config.leave_out:
            layers.append(_conv(name, width, outputs, groups=groups))
            width, groups = outputs, columns
    for outputs in widths[5:]:
        layers.append(_conv("conv6", width, outputs))
        width = outputs
    inputs = width * last_side**2
    for name in HIDDEN:
        if name != config.leave_out:
            layers.append(Layer(name=name, inputs=inputs, outputs=units))
            inputs = units
    layers.append(Layer(name="fc8", inputs=inputs, outputs=classes, split=False))
    return layers


def _cifar_layers(config: NetConfig, classes: int, last_side: int) -> list[Layer]:
    layers, width = [], 3
    for number, outputs in enumerate(_WIDTHS["cifar4"], 1):
        outputs //= config.width_divisor
        layers.append(_conv(f"conv{number}", width, outputs, kernel=5, padding=2))
        width = outputs
    inputs = width * last_side**2
    return [*layers, Layer(name="fc4", inputs=inputs, outputs=classes, split=False)]


def _conv(
    name: str,
    inputs: int,
    outputs: int,
    *,
    kernel: int = 3,
    stride: int = 1,
    padding: int | None = None,
    groups: int = 1,
) -> Layer:
    if padding is None:
        padding = 1 if kernel == 3 else 0
    return Layer(
        name=name,
        inputs=inputs,
        outputs=outputs,
        kernel=kernel,
        stride=stride,
        padding=padding,
        groups=groups,
        is_conv=True,
    )
