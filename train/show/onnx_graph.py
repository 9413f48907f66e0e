"""The network as an ONNX graph, written node by node.

Exporters trace torch code, and our fast response norm is not torch code. ONNX has that norm as an
operator, so the whole net is forty standard nodes that any runtime reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from train.config import NetConfig
from train.net.layout import NetLayout
from train.net.norms import SPATIAL_CONSTANTS, SPATIAL_SIDE

OPSET = 17
IR_VERSION = 8
ACTIVATIONS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "relu": ("Relu", {}),
    "tanh": ("Tanh", {}),
    "sigmoid": ("Sigmoid", {}),
    "leaky-relu": ("LeakyRelu", {"alpha": 0.01}),
}


def onnx_model(
    layout: NetLayout, config: NetConfig, state: Mapping[str, Tensor], about: Mapping[str, str]
) -> bytes:
    """Serialise a model from ``images`` float32 (n, 3, px, px) to ``logits`` (n, classes).

    ``state`` holds weights and biases by canonical name, ``about`` becomes the model's metadata.
    """
    graph = _Graph(layout, config, state)
    graph.build()
    px, classes = layout.image_px, layout.layers[layout.output].outputs
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "alexnet",
            [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, px, px])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", classes])],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="imgprep",
    )
    helper.set_model_props(model, dict(about))
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


class _Graph:
    """Nodes and constants, added from the input on; ``self._x`` names the newest value."""

    def __init__(self, layout: NetLayout, config: NetConfig, state: Mapping[str, Tensor]) -> None:
        self._layout = layout
        self._config = config
        self._state = state
        self._x = "images"
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def build(self) -> None:
        """Add all layers, in the order of ``train.net.tower``."""
        config = self._config
        if config.architecture == "cifar4":
            self._build_cifar()
            return
        self._layer("conv1")
        if config.first_layer == "conv-lrn-pool-relu":
            self._channel_norm()
            self._pool()
            self._activate()
        else:
            self._activate()
            self._channel_norm()
            self._pool()
        self._layer("conv2")
        self._activate()
        self._channel_norm()
        if config.spatial_norm:
            self._spatial_norm()
        self._pool()
        for name in self._layout.body:
            self._layer(name)
            self._activate()
        self._pool()
        if "conv6" in self._layout.layers:
            self._layer("conv6")
            self._activate()
        self._node("Flatten", self._x, axis=1)
        for name in self._layout.hidden:
            self._layer(name)
            self._activate()
            if config.dropout == "vanilla":
                keep = self._constant(f"{name}.keep", np.float32(config.dropout_keep))
                self._node("Mul", self._x, keep)
        self._layer(self._layout.output, output="logits")

    def _build_cifar(self) -> None:
        """Add all layers, in the order of ``train.net.cifar``."""
        self._layer("conv1")
        self._pool("MaxPool", ceil_mode=1)
        self._activate()
        self._channel_norm()
        self._layer("conv2")
        self._activate()
        self._pool("AveragePool", ceil_mode=1)
        self._channel_norm()
        self._layer("conv3")
        self._activate()
        self._pool("AveragePool", ceil_mode=1)
        self._node("Flatten", self._x, axis=1)
        self._layer(self._layout.output, output="logits")

    def _node(self, kind: str, *inputs: str, output: str | None = None, **options: Any) -> str:
        name = output or f"value{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **options))
        self._x = name
        return name

    def _constant(self, name: str, value: Any) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def _layer(self, name: str, output: str | None = None) -> None:
        layer = self._layout.layers[name]
        parts = [
            self._constant(part, self._state[part].float().numpy())
            for part in (f"{name}.weight", f"{name}.bias")
        ]
        if not layer.is_conv:
            self._node("Gemm", self._x, *parts, transB=1, output=output)
            return
        # Top, left, bottom, right: conv1 is padded below and on the right only.
        more = self._layout.padding_px if name == "conv1" else 0
        pads = [layer.padding, layer.padding, layer.padding + more, layer.padding + more]
        self._node(
            "Conv",
            self._x,
            *parts,
            kernel_shape=[layer.kernel] * 2,
            strides=[layer.stride] * 2,
            pads=pads,
            group=layer.groups,
        )

    def _activate(self) -> None:
        kind, options = ACTIVATIONS[self._config.activation]
        self._node(kind, self._x, **options)

    def _pool(self, kind: str = "MaxPool", **options: Any) -> None:
        size, stride = self._config.pool_size, self._config.pool_stride
        self._node(kind, self._x, kernel_shape=[size] * 2, strides=[stride] * 2, **options)

    def _channel_norm(self) -> None:
        """LRN within each column. ONNX divides alpha by the size, as torch does."""
        config = self._config
        if not config.lrn:
            return
        whole, parts = self._x, [self._x]
        if self._layout.columns > 1:
            parts = [f"{whole}.column{k}" for k in range(self._layout.columns)]
            self.nodes.append(helper.make_node("Split", [whole], parts, axis=1))
        alpha = config.lrn_alpha * (1 if config.lrn_alpha_divided else config.lrn_size)
        normed = [
            self._node(
                "LRN",
                part,
                size=config.lrn_size,
                alpha=alpha,
                beta=config.lrn_beta,
                bias=config.lrn_k,
            )
            for part in parts
        ]
        if len(normed) > 1:
            self._node("Concat", *normed, axis=1)

    def _spatial_norm(self) -> None:
        """x / (k + alpha * sum of the 5x5 squares)^beta; the sum is a mean times 25."""
        x = self._x
        self._node("Mul", x, x)
        self._node(
            "AveragePool",
            self._x,
            kernel_shape=[SPATIAL_SIDE] * 2,
            pads=[SPATIAL_SIDE // 2] * 4,
            count_include_pad=1,
        )
        scale = self._constant(
            "spatial.alpha", np.float32(SPATIAL_CONSTANTS.alpha * SPATIAL_SIDE**2)
        )
        self._node("Mul", self._x, scale)
        self._node("Add", self._x, self._constant("spatial.k", np.float32(SPATIAL_CONSTANTS.k)))
        self._node(
            "Pow", self._x, self._constant("spatial.beta", np.float32(-SPATIAL_CONSTANTS.beta))
        )
        self._node("Mul", x, self._x)
