"""The layers of each architecture: sizes, groups, and where the columns meet; without torch.

Shapes are those of the whole net on one device, where the two columns of 2012 are the two groups
of a grouped convolution. A column owns one half of every layer's outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from train.config import Architecture, NetConfig
from train.errors import ConfigError

POOL_SIZE = 3
POOL_STRIDE = 2
CONV1_KERNEL = 11
CONV1_STRIDE = 4
HIDDEN_UNITS = 4096
FLOAT_BYTES = 4

_WIDTHS: Mapping[Architecture, tuple[int, ...]] = {
    "two-column": (96, 256, 384, 384, 256),
    "one-gpu": (48, 128, 192, 192, 256),  # half the filters in conv1 to conv4 (paper, 3.2)
    "conv6": (96, 256, 384, 384, 256, 256),
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
    """2 if conv2, conv4 and conv5 read only their own column, else 1."""
    image_px: int
    padding_px: int
    """Zeros to the right of and below the image, so that conv1's last window fits (3 for 224)."""
    sides: tuple[int, int, int, int]
    """Sides in pixels after conv1, pool1, pool2 and pool5."""

    @property
    def parameters(self) -> int:
        """Number of weights and biases: 60,965,224 for the paper's net with 1000 classes."""
        return sum(layer.parameters for layer in self.layers.values())

    @property
    def hidden_units(self) -> int:
        """Outputs of fc6, and also of fc7, over both columns."""
        return self.layers["fc7"].outputs

    def joints(self) -> dict[str, int]:
        """Values per image that a column sends at each joint, by the layer that reads them.

        At fc8 only the second column sends. Empty for a net with one column.
        """
        if self.columns == 1:
            return {}
        half = {name: layer.outputs // 2 for name, layer in self.layers.items()}
        _, _, pool2, pool5 = self.sides
        values = {"conv3": half["conv2"] * pool2**2}
        if "conv6" in self.layers:
            values["conv6"] = half["conv5"] * pool5**2
            values["fc6"] = half["conv6"] * pool5**2
        else:
            values["fc6"] = half["conv5"] * pool5**2
        return {**values, "fc7": half["fc6"], "fc8": half["fc7"]}

    def link_bytes_per_image(self) -> dict[str, int]:
        """Float32 bytes that one image sends forward at each joint; training sends as many back.

        Counts both directions; empty for a net with one column.
        """
        return {
            joint: values * FLOAT_BYTES * (1 if joint == "fc8" else 2)
            for joint, values in self.joints().items()
        }


def pooled(side: int) -> int:
    """Side after 3/2 max pooling; the published sides 55, 27, 13 divide without remainder."""
    return (side - POOL_SIZE) // POOL_STRIDE + 1


def net_layout(config: NetConfig, *, classes: int, image_px: int = 224) -> NetLayout:
    """Work out the layers that the settings ask for.

    Raises:
        ConfigError: the image is too small for them.
    """
    widths = tuple(width // config.width_divisor for width in _WIDTHS[config.architecture])
    hidden = HIDDEN_UNITS // config.width_divisor
    columns = 1 if config.architecture == "one-gpu" else 2
    # The source rounds up, so the last window reaches over the edge: 1 + ceil(213 / 4) = 55.
    conv1 = 1 + -(-(image_px - CONV1_KERNEL) // CONV1_STRIDE)
    pool1 = pooled(conv1)
    pool2 = pooled(pool1)
    pool5 = pooled(pool2)
    if pool5 < 1:
        raise ConfigError(f"images of {image_px} px are too small: the net needs at least 64 px")
    layers = [
        _conv("conv1", 3, widths[0], kernel=CONV1_KERNEL, stride=CONV1_STRIDE),
        _conv("conv2", widths[0], widths[1], kernel=5, padding=2, groups=columns),
        _conv("conv3", widths[1], widths[2]),
        _conv("conv4", widths[2], widths[3], groups=columns),
        _conv("conv5", widths[3], widths[4], groups=columns),
        *(_conv("conv6", widths[4], wide) for wide in widths[5:]),
        Layer(name="fc6", inputs=widths[-1] * pool5**2, outputs=hidden),
        Layer(name="fc7", inputs=hidden, outputs=hidden),
        Layer(name="fc8", inputs=hidden, outputs=classes, split=False),
    ]
    return NetLayout(
        layers={layer.name: layer for layer in layers},
        columns=columns,
        image_px=image_px,
        padding_px=(conv1 - 1) * CONV1_STRIDE + CONV1_KERNEL - image_px,
        sides=(conv1, pool1, pool2, pool5),
    )


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
