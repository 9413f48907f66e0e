"""The only connection between the devices: activations forward, their gradients back."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Observer = Callable[[Tensor, int, int], None]
"""Called with each tensor that arrived, the column that sent it and the column that got it."""


class Link:
    """Sends tensors between the columns and counts their bytes, by joint.

    With an ``observer`` a tensor is copied even where both columns are on one device, so that the
    arriving tensor is not the one that was sent, as between two GPUs.
    """

    def __init__(self, devices: tuple[torch.device, torch.device]) -> None:
        self.devices = devices
        self.forward_bytes: Counter[str] = Counter()
        self.backward_bytes: Counter[str] = Counter()
        self.input_bytes: Counter[str] = Counter()
        self.observer: Observer | None = None
        self._lock = threading.Lock()  # autograd runs one thread per GPU

    def reset(self) -> None:
        """Set all counts to 0."""
        self.forward_bytes.clear()
        self.backward_bytes.clear()
        self.input_bytes.clear()

    def send(self, tensor: Tensor, joint: str, source: int, target: int) -> Tensor:
        """Send a tensor to the device of column ``target``; its gradient returns the same way."""
        result = _Send.apply(tensor, self, joint, source, target)  # type: ignore[no-untyped-call]
        assert isinstance(result, Tensor)
        return result

    def deliver(self, images: Tensor) -> Tensor:
        """Copy the input from the first column to the second; it needs no gradient.

        Its bytes are counted apart: the image goes to both columns, they do not exchange it.
        """
        return self.move(images.detach(), "images", 0, 1, self.input_bytes)

    def move(
        self, tensor: Tensor, joint: str, source: int, target: int, counter: Counter[str]
    ) -> Tensor:
        """Copy, count and report a tensor, without gradient."""
        with self._lock:
            counter[joint] += tensor.numel() * tensor.element_size()
        if self.observer is None and self.devices[source] == self.devices[target]:
            return tensor.view_as(tensor)
        if self.devices[source] == self.devices[target]:
            moved = tensor.clone()
        else:
            moved = tensor.to(self.devices[target], non_blocking=True)
        if self.observer is not None:
            self.observer(moved, source, target)
        return moved


class _Send(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, tensor: Tensor, link: Link, joint: str, source: int, target: int
    ) -> Tensor:
        ctx.link, ctx.joint, ctx.ends = link, joint, (source, target)
        return link.move(tensor, joint, source, target, link.forward_bytes)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        source, target = ctx.ends
        link: Link = ctx.link
        moved = link.move(gradient, ctx.joint, target, source, link.backward_bytes)
        return moved, None, None, None, None
