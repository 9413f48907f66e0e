"""No operation of the net of two columns mixes its devices, although both are the CPU here."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.logical import LogicalDevices, MixedDevicesError, check_devices
from tests.nets import CPU, SMALL, SMALL_PX, SOURCE, batch
from train.config import NetConfig
from train.net import MaskKey, Masks, net_layout
from train.net.columns import ColumnNet, Pair
from train.net.init import initial_state
from train.net.link import Link

KEY = MaskKey.whole(seed=0, step=0, rows=2)


def column_net(kind: type[ColumnNet] = ColumnNet, **settings: Any) -> ColumnNet:
    config = NetConfig(**{**SMALL, **settings})
    layout = net_layout(config, classes=7, image_px=SMALL_PX)
    net = kind(layout, config, [CPU, CPU])
    net.load_canonical_state(initial_state(layout, config, seed=0))
    return net


def checked(net: ColumnNet, dtype: torch.dtype = torch.float64) -> LogicalDevices:
    images, labels = batch(2)
    return check_devices(net.to(dtype), images.to(dtype), labels, KEY)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "settings",
    [{}, SOURCE, {"architecture": "conv6"}, {"dropout": "inverted", "activation": "sigmoid"}],
)
def test_the_columns_meet_only_on_the_link(dtype: torch.dtype, settings: dict[str, Any]) -> None:
    mode = checked(column_net(**settings), dtype)
    joints = 4 if settings.get("architecture") == "conv6" else 3
    assert mode.crossings == 1 + 2 * (2 * joints + 1)  # the images; each joint there and back
    assert mode.operations > 100


class ForgetsToSend(ColumnNet):
    """Joins the activations of b without sending them to a."""

    def _join(self, joint: str, pair: Pair) -> Pair:
        if joint != "fc7":
            return super()._join(joint, pair)
        from_a = self.link.send(pair[0], joint, 0, 1)
        return torch.cat([pair[0], pair[1]], 1), torch.cat([from_a, pair[1]], 1)


class ForgetsTheLastSend(ColumnNet):
    """Classifies what is still on the other device."""

    def forward_features(self, images: Tensor, masks: Masks | None = None) -> Tensor:
        features = super().forward_features(images, masks)
        tower = self.columns[1]
        bias = tower.get_parameter("fc7.bias")
        return features + bias.mean()


class ForgetsTheImages(ColumnNet):
    """The second column reads the first one's images."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.link = NoDelivery(self.link.devices)


class NoDelivery(Link):
    """Passes the images on without moving them."""

    def deliver(self, images: Tensor) -> Tensor:
        return images


class ForgetsTheGradient(ColumnNet):
    """Sends activations forward, but does not send their gradients back."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.link = OneWay(self.link.devices)


class OneWay(Link):
    """Does not send gradients back."""

    def send(self, tensor: Tensor, joint: str, source: int, target: int) -> Tensor:
        class Send(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, value: Tensor) -> Tensor:
                return link.move(value, joint, source, target, link.forward_bytes)

            @staticmethod
            def backward(ctx: Any, gradient: Tensor) -> Tensor:
                return gradient

        link = self
        result = Send.apply(tensor)  # type: ignore[no-untyped-call]
        assert isinstance(result, Tensor)
        return result


class ForgetsAMask(ColumnNet):
    """Both masks are drawn on the first device."""

    def draw_masks(self, key: MaskKey) -> Masks:
        return {name: (pair[0], pair[0]) for name, pair in super().draw_masks(key).items()}


@pytest.mark.parametrize(
    "broken",
    [ForgetsToSend, ForgetsTheLastSend, ForgetsTheImages, ForgetsTheGradient, ForgetsAMask],
)
def test_a_forgotten_transfer_is_found(broken: type[ColumnNet]) -> None:
    with pytest.raises(MixedDevicesError):
        checked(column_net(broken))


def test_a_forgotten_transfer_is_found_in_the_forward_and_in_the_backward_pass() -> None:
    with pytest.raises(MixedDevicesError, match=r"aten\.cat"):
        checked(column_net(ForgetsToSend))
    # The gradient on the wrong device is found when the column's own is added to it.
    with pytest.raises(MixedDevicesError, match=r"reads tensors of both devices"):
        checked(column_net(ForgetsTheGradient))


def test_the_mode_finds_plain_mixing() -> None:
    net = column_net()
    mode = LogicalDevices(net)
    a, b = torch.ones(3), nn.Parameter(torch.ones(3))
    mode.place(0, [a])
    mode.place(1, [b])
    with mode:
        view = a[1:].relu()
        other = b.detach().view(3)[1:]
        with pytest.raises(MixedDevicesError):
            view + other
        with pytest.raises(MixedDevicesError):
            view.copy_(other)
        fresh = torch.zeros(2)
        fresh += other
        with pytest.raises(MixedDevicesError):
            fresh * view
