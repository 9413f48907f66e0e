"""The steps that bench_step times, each a function that makes one step and returns its seconds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

CLASSES = 1000
PX = 224
LRN_SHAPE = (96, 55, 55)
Seconds = dict[str, float]
"""Seconds by phase: ``forward``, ``backward`` and, of a whole step, ``update``."""


def our_net(variant: str) -> Any:
    """One of our networks, on the CPU."""
    import torch

    from train.config import NetConfig
    from train.net import build_net

    source: dict[str, Any] = {
        "first_layer": "conv-lrn-pool-relu",
        "lrn_alpha_divided": True,
        "spatial_norm": True,
    }
    settings: dict[str, Any] = {
        "paper": {},
        "columns": {},
        "no-lrn": {"lrn": False},
        "source": source,
        "source-no-lrn": {**source, "lrn": False, "spatial_norm": False},
    }[variant]
    columns = variant == "columns"
    cpu = torch.device("cpu")
    devices = [cpu, cpu] if columns else [cpu]
    return build_net(
        NetConfig(**settings), classes=CLASSES, devices=devices, columns=columns, seed=0
    )


def stock_net(*, lrn: bool = True, width_divisor: int = 1) -> Any:
    """The paper's network in torch's own layers; its LRN splits the columns without a copy."""
    import torch
    from torch import nn

    class ColumnLrn(nn.LocalResponseNorm):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            columns = x.reshape(2 * len(x), x.shape[1] // 2, *x.shape[2:])
            return super().forward(columns).reshape(x.shape)

    def norm() -> nn.Module:
        return ColumnLrn(5, alpha=5e-4, beta=0.75, k=2.0) if lrn else nn.Identity()

    def relu() -> nn.Module:
        return nn.ReLU(inplace=True)

    a, b, c, d = (width // width_divisor for width in (96, 256, 384, 4096))
    return nn.Sequential(
        *(nn.ZeroPad2d((0, 3, 0, 3)), nn.Conv2d(3, a, 11, 4), relu(), norm(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(a, b, 5, padding=2, groups=2), relu(), norm(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(b, c, 3, padding=1), relu()),
        *(nn.Conv2d(c, c, 3, padding=1, groups=2), relu()),
        *(nn.Conv2d(c, b, 3, padding=1, groups=2), relu(), nn.MaxPool2d(3, 2), nn.Flatten()),
        *(nn.Linear(36 * b, d), relu(), nn.Dropout(), nn.Linear(d, d), relu()),
        *(nn.Dropout(), nn.Linear(d, CLASSES)),
    )


def torchvision_net(width_divisor: int = 1) -> Any:
    """torchvision's AlexNet, layer by layer: one column, other widths, no LRN."""
    from torch import nn

    def relu() -> nn.Module:
        return nn.ReLU(inplace=True)

    a, b, c, d, e = (width // width_divisor for width in (64, 192, 384, 256, 4096))
    return nn.Sequential(
        *(nn.Conv2d(3, a, 11, 4, padding=2), relu(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(a, b, 5, padding=2), relu(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(b, c, 3, padding=1), relu(), nn.Conv2d(c, d, 3, padding=1), relu()),
        *(nn.Conv2d(d, d, 3, padding=1), relu(), nn.MaxPool2d(3, 2), nn.Flatten()),
        *(nn.Dropout(), nn.Linear(36 * d, e), relu()),
        *(nn.Dropout(), nn.Linear(e, e), relu(), nn.Linear(e, CLASSES)),
    )


def synthetic(batch: int, layout: Any) -> tuple[Any, Any]:
    """Random images with the range of centred pixels, and random labels."""
    import torch

    images = (torch.randn(batch, 3, PX, PX) * 60).contiguous(memory_format=layout)
    return images, torch.randint(CLASSES, (batch,))


def net_step(variant: str, batch: int) -> Callable[[], Seconds]:
    """A training step of a network; it returns the seconds of its three phases."""
    import torch
    from torch.nn.functional import cross_entropy

    from train.net import MaskKey, Net

    stock = variant == "stock-out-of-the-box"
    others: dict[str, Callable[[], Any]] = {
        "stock-out-of-the-box": stock_net,
        "torchvision": torchvision_net,
    }
    net = others.get(variant, lambda: our_net(variant))()
    layout = torch.contiguous_format if stock else torch.channels_last
    images, labels = synthetic(batch, layout)
    sgd = torch.optim.SGD(net.parameters(), 1e-4, momentum=0.9, weight_decay=5e-4, fused=True)
    count = 0

    def logits() -> Any:
        if not isinstance(net, Net):
            return net(images)
        return net(images, net.draw_masks(MaskKey.whole(seed=0, step=count, rows=batch)))

    def step() -> Seconds:
        nonlocal count
        count += 1
        sgd.zero_grad()
        marks = [time.perf_counter()]
        loss = cross_entropy(logits(), labels)
        marks.append(time.perf_counter())
        torch.autograd.backward(loss)
        marks.append(time.perf_counter())
        sgd.step()
        marks.append(time.perf_counter())
        a, b, c, d = marks
        return {"forward": b - a, "backward": c - b, "update": d - c}

    return step


def lrn_step(variant: str, batch: int) -> Callable[[], Seconds]:
    """Forward and backward of the first LRN alone, each side in its fastest layout."""
    return lrn_block(variant, (batch, *LRN_SHAPE), "cpu")


def lrn_block(variant: str, shape: tuple[int, int, int, int], device: str) -> Callable[[], Seconds]:
    """Forward and backward of an LRN of (images, channels, height, width) in two columns."""
    import torch
    from torch.nn.functional import local_response_norm

    from train.net.kernels.constants import NormConstants
    from train.net.norms import ChannelNorm

    ours = ChannelNorm(NormConstants(k=2.0, alpha=1e-4, beta=0.75), size=5, groups=2)
    if variant == "lrn-stock":  # columns as images: the same numbers without a copy
        shape = (2 * shape[0], shape[1] // 2, *shape[2:])
    layout = torch.channels_last if variant == "lrn" else torch.contiguous_format
    x = (torch.randn(shape, device=device) * 60).contiguous(memory_format=layout).requires_grad_()
    upstream = torch.randn(shape, device=device).contiguous(memory_format=layout)

    def step() -> Seconds:
        x.grad = None
        marks = [time.perf_counter()]
        y = ours(x) if variant == "lrn" else local_response_norm(x, 5, 5e-4, 0.75, 2.0)
        marks.append(time.perf_counter())
        y.backward(upstream)
        marks.append(time.perf_counter())
        return {"forward": marks[1] - marks[0], "backward": marks[2] - marks[1]}

    return step


def layer_times(batch: int, rounds: int) -> dict[str, Seconds]:
    """Seconds of each part of the paper's network, timed alone on the output of the part before."""
    import torch
    from torch.nn.functional import cross_entropy

    net = our_net("paper")
    (tower,) = net.tower
    images, labels = synthetic(batch, torch.channels_last)
    mask = torch.rand(batch, 4096) < 0.5
    act = tower.activation
    parts: list[tuple[str, Callable[[Any], Any]]] = [
        ("conv1", tower.conv1_output),
        ("relu lrn pool 1", tower.after_conv1),
        ("conv2", lambda x: tower.run("conv2", x)),
        ("relu lrn pool 2", tower.after_conv2),
        *((f"conv{k} relu", lambda x, k=k: act(tower.run(f"conv{k}", x))) for k in (3, 4, 5)),
        ("pool 5", lambda x: torch.nn.functional.max_pool2d(x, 3, 2).flatten(1)),
        ("fc6", lambda x: tower.hidden("fc6", x, mask)),
        ("fc7", lambda x: tower.hidden("fc7", x, mask)),
        ("fc8 loss", lambda x: cross_entropy(tower.run("fc8", x), labels)),
    ]
    times: dict[str, dict[str, list[float]]] = {}
    for _ in range(rounds + 1):
        x = images
        for name, part in parts:
            x = x.detach().requires_grad_(name != "conv1")
            start = time.perf_counter()
            y = part(x)
            middle = time.perf_counter()
            torch.autograd.backward(y, torch.ones_like(y))
            end = time.perf_counter()
            found = times.setdefault(name, {"forward": [], "backward": []})
            found["forward"].append(middle - start)
            found["backward"].append(end - middle)
            x = y
    return {
        name: {phase: statistics.median(values[1:]) for phase, values in phases.items()}
        for name, phases in times.items()
    }
