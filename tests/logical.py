"""Two devices where there is one: a mode that knows on which device a tensor should be.

Every operation's inputs must belong to one device, or to none; what it makes belongs there too.
Only the net's link may make a tensor of the one from a tensor of the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from train.net.columns import ColumnNet
from train.net.randomness import MaskKey


class MixedDevicesError(AssertionError):
    """An operation read tensors of both devices."""


class LogicalDevices(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the memory of tensors through all operations, including the backward pass."""

    def __init__(self, net: ColumnNet) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._owners: dict[int, int] = {}
        self._held: list[Any] = []  # so that no memory is given to another tensor meanwhile
        self._net = net
        self.operations = 0
        self.crossings = 0
        for name, parameter in net.named_parameters():
            self.place(int(name.split(".")[1]), [parameter])

    def place(self, device: int, tensors: Iterable[Tensor]) -> None:
        """Assign tensors to a device."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self._held.append(storage)
            self._owners[storage._cdata] = device

    def owner(self, tensor: Tensor) -> int | None:
        """Return the device of a tensor; None if it does not depend on an assigned one."""
        return self._owners.get(tensor.untyped_storage()._cdata)

    def __enter__(self) -> LogicalDevices:
        self._net.link.observer = self._arrived
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]
        self._net.link.observer = None

    def _arrived(self, moved: Tensor, source: int, target: int) -> None:
        if self.owner(moved) != source:
            raise MixedDevicesError(f"sent from {source}, but it was on {self.owner(moved)}")
        self.crossings += 1
        self.place(target, [moved])

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        inputs = [leaf for leaf in tree_leaves((args, kwargs or {})) if isinstance(leaf, Tensor)]
        owners = {self.owner(tensor) for tensor in inputs} - {None}
        if len(owners) > 1:
            raise MixedDevicesError(f"{func} reads tensors of both devices")
        result = func(*args, **(kwargs or {}))
        self.operations += 1
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        for owner in owners:
            assert owner is not None
            self.place(owner, [each for each in (*inputs, *outputs) if self.owner(each) is None])
        return result


def check_devices(net: ColumnNet, images: Tensor, labels: Tensor, key: MaskKey) -> LogicalDevices:
    """Run a training step; MixedDevicesError if an operation mixes the devices."""
    mode = LogicalDevices(net)
    masks = net.draw_masks(key)
    mode.place(0, [images, labels])
    for pair in masks.values():
        for device in (0, 1):
            mode.place(device, [pair[device]])
    with mode:
        torch.autograd.backward(functional.cross_entropy(net(images, masks), labels))
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None
        if mode.owner(parameter.grad) != int(name.split(".")[1]):
            raise MixedDevicesError(f"the gradient of {name} is on {mode.owner(parameter.grad)}")
    return mode
