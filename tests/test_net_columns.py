"""Two columns equal the grouped net: same numbers, same canonical weights; bytes sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.nets import (
    CPU,
    SMALL,
    SMALL_PX,
    SOURCE,
    batch,
    gradients,
    largest_difference,
    loss_of,
    make_net,
)
from tests.processes import in_processes
from train.config import NetConfig, OptimConfig
from train.errors import CheckpointError
from train.net import MaskKey, Net, build_net
from train.net.base import canonical_shapes
from train.net.columns import ColumnNet
from train.optim.schedule import Rates
from train.optim.sgd import Sgd

RATES = Rates(lr_weights=0.01, lr_biases=0.02)
JOINTS = {"conv3": 173_056, "fc6": 36_864, "fc7": 16_384, "fc8": 8_192}


@dataclass(frozen=True)
class Trained:
    """Results of some updates, by canonical name."""

    losses: list[float]
    first_gradients: dict[str, Tensor]
    velocities: dict[str, Tensor]
    weights: dict[str, Tensor]


def updates(net: Net, steps: int, image_px: int) -> Trained:
    sgd = Sgd(net, OptimConfig(weight_decay=0.01))
    losses: list[float] = []
    first: dict[str, Tensor] = {}
    for step in range(steps):
        loss = loss_of(net, step=step, image_px=image_px)
        torch.autograd.backward(loss)
        losses.append(loss.item())
        first = first or gradients(net)
        sgd.step(RATES)
        sgd.zero_grad()
    return Trained(losses, first, net.canonical(sgd.velocities()), net.canonical_state())


def assert_equal_to_grouped(settings: dict[str, Any], image_px: int, steps: int) -> None:
    grouped = make_net(columns=False, settings=settings, image_px=image_px)
    columns = make_net(columns=True, settings=settings, image_px=image_px, seed=99)
    start = grouped.canonical_state()
    columns.load_canonical_state(start)
    images, _ = batch(3, image_px)
    key = MaskKey.whole(seed=3, step=0, rows=3)
    for masks in ((None, None), (grouped.draw_masks(key), columns.draw_masks(key))):
        with torch.no_grad():
            logits = grouped(images, masks[0])
            assert (logits - columns(images, masks[1])).abs().max() < 1e-9
            assert logits.std(0).max() > 1e-4, (
                "the logits do not depend on the images, so nothing is tested"
            )
    expected = updates(grouped, steps, image_px)
    found = updates(columns, steps, image_px)
    assert max(expected.losses) < 100, "these updates diverge, so nothing is tested"
    assert found.losses == pytest.approx(expected.losses, abs=1e-9)
    assert largest_difference(found.first_gradients, expected.first_gradients) < 1e-9
    assert largest_difference(found.velocities, expected.velocities) < 1e-9
    assert largest_difference(found.weights, expected.weights) < 1e-9
    assert min(float((expected.weights[name] - start[name]).abs().max()) for name in start) > 0


def test_a_net_of_the_papers_width_in_columns_equals_the_grouped_net() -> None:
    """All widths of the paper; at 224 pixels an eighth of them, to save time."""
    assert_equal_to_grouped(SOURCE, 64, steps=2)
    assert_equal_to_grouped(
        {**SOURCE, **SMALL, "init_sd": 0.03, "init_sd_conv345": 0.1}, 224, steps=2
    )


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"architecture": "conv6"},
        SOURCE,
        {"dropout": "inverted", "dropout_keep": 0.8, "activation": "tanh"},
        {"lrn": False, "activation": "leaky-relu", "init_sd": 0.02, "init_sd_conv345": 0.05},
        {"pool_size": 2},
        {"leave_out": "conv3"},
        {"leave_out": "conv5", "architecture": "conv6"},
        {"leave_out": "fc6"},
    ],
)
def test_columns_equal_the_grouped_net(settings: dict[str, Any]) -> None:
    spread = {"init_sd": 0.05, "init_sd_conv345": 0.1}
    assert_equal_to_grouped({**SMALL, **spread, **settings}, SMALL_PX, steps=5)


@pytest.mark.parametrize("settings", [SMALL, {**SMALL, "architecture": "conv6"}])
@pytest.mark.parametrize("columns", [False, True])
def test_the_canonical_state_survives_a_round_trip_bit_for_bit(
    settings: dict[str, Any], columns: bool
) -> None:
    net = make_net(columns=columns, settings=settings)
    state = net.canonical_state()
    assert {name: tuple(value.shape) for name, value in state.items()} == canonical_shapes(
        net.layout
    )
    assert list(state) == list(canonical_shapes(net.layout))
    values = {name: torch.randn_like(value) for name, value in state.items()}
    other = make_net(columns=not columns, settings=settings)
    other.load_canonical_state(values)
    net.load_canonical_state(other.canonical_state())
    for name, value in net.canonical_state().items():
        assert torch.equal(value, values[name])
        assert value.is_contiguous()
    local = net.local(values)
    assert local.keys() == dict(net.named_parameters()).keys() == net.parameter_roles().keys()
    assert largest_difference(net.canonical(local), values) == 0


def test_the_canonical_state_is_a_copy() -> None:
    for columns in (False, True):
        net = make_net(columns=columns)
        for value in net.canonical_state().values():
            value.zero_()
        assert all(net.canonical_state()[f"conv{k}.weight"].any() for k in range(1, 6))


def test_each_column_owns_its_half() -> None:
    net = make_net(columns=True)
    state = net.canonical_state()
    parts = dict(net.named_parameters())
    assert "towers.1.fc8.weight" not in parts
    assert torch.equal(parts["towers.0.fc8.weight"], state["fc8.weight"])
    for name in ("conv1.weight", "conv2.weight", "conv3.bias", "fc6.weight", "fc7.bias"):
        a, b = state[name].chunk(2)
        assert torch.equal(parts[f"towers.0.{name}"], a)
        assert torch.equal(parts[f"towers.1.{name}"], b)
    roles = net.parameter_roles()
    assert (roles["towers.1.fc7.bias"].layer, roles["towers.1.fc7.bias"].kind) == ("fc7", "bias")


def test_weights_of_another_net_are_refused() -> None:
    net = make_net(columns=True)
    state = net.canonical_state()
    with pytest.raises(CheckpointError, match=r"another architecture.* conv6\.bias"):
        net.load_canonical_state({**state, "conv6.bias": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="another architecture"):
        net.load_canonical_state({})
    other = make_net(columns=False, classes=9).canonical_state()
    with pytest.raises(
        CheckpointError, match=r"fc8\.weight has shape \(9, 512\), but this net needs"
    ):
        net.load_canonical_state(other)
    assert largest_difference(net.canonical_state(), state) == 0


def test_bytes_over_the_link_are_those_of_2012() -> None:
    config = NetConfig(init_sd=0.01, init_sd_conv345=0.03)
    net = build_net(config, classes=10, devices=[CPU, CPU], columns=True, seed=0)
    assert isinstance(net, ColumnNet)
    assert net.link_bytes_per_image() == JOINTS
    assert sum(JOINTS.values()) == 234_496
    rows = 2
    masks = net.draw_masks(MaskKey.whole(seed=0, step=0, rows=rows))
    logits = net(torch.randn(rows, 3, 224, 224), masks)
    assert net.link.forward_bytes == {joint: rows * JOINTS[joint] for joint in JOINTS}
    assert not net.link.backward_bytes
    torch.autograd.backward(logits.sum())
    assert net.link.backward_bytes == net.link.forward_bytes
    assert 2 * sum(net.link.forward_bytes.values()) == rows * 468_992
    net.link.reset()
    with torch.no_grad():
        net(torch.randn(1, 3, 224, 224))
    assert net.link.forward_bytes == JOINTS
    assert not net.link.backward_bytes


def test_conv6_is_a_joint_and_one_device_sends_nothing() -> None:
    settings = {**SMALL, "architecture": "conv6"}
    net = make_net(columns=True, settings=settings)
    assert isinstance(net, ColumnNet)
    net(batch(1)[0])
    expected = {joint: 2 * count for joint, count in net.link_bytes_per_image().items()}
    assert net.link.forward_bytes == expected  # twice: this net is in double precision
    assert list(expected) == ["conv3", "conv6", "fc6", "fc7", "fc8"]
    assert make_net(columns=False).link_bytes_per_image() == {}


@pytest.mark.parametrize(
    ("leave_out", "joints"),
    [
        ("conv3", ["conv4", "fc6", "fc7", "fc8"]),
        ("conv4", ["conv3", "fc6", "fc7", "fc8"]),
        ("conv5", ["conv3", "fc6", "fc7", "fc8"]),
        ("fc6", ["conv3", "fc7", "fc8"]),
        ("fc7", ["conv3", "fc6", "fc8"]),
    ],
)
def test_without_a_layer_the_columns_meet_at_the_next(leave_out: str, joints: list[str]) -> None:
    net = make_net(columns=True, settings={**SMALL, "leave_out": leave_out})
    assert isinstance(net, ColumnNet)
    net(batch(1)[0])
    expected = {joint: 2 * count for joint, count in net.link_bytes_per_image().items()}
    assert net.link.forward_bytes == expected  # twice: this net is in double precision
    assert list(expected) == joints


def _train_in_a_process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    net = make_net(columns=True)
    module = torch.nn.parallel.DistributedDataParallel(net)
    images, labels = batch(5)
    sgd = Sgd(net, OptimConfig())
    rows = slice(0, 2) if rank == 0 else slice(2, 5)
    for step in range(3):
        count = rows.stop - rows.start
        key = MaskKey(seed=3, step=step, first_row=rows.start, rows=count, global_rows=5)
        logits = module(images[rows], net.draw_masks(key))
        loss = torch.nn.functional.cross_entropy(logits, labels[rows], reduction="sum")
        torch.autograd.backward(loss * 2 / 5)  # the processes' gradients are averaged
        sgd.step(RATES)
        sgd.zero_grad()
    torch.save(net.canonical_state(), f"{folder}/{rank}.pt")


def test_two_processes_of_two_columns_equal_one_process(tmp_path: Any) -> None:
    """DistributedDataParallel around the net of two columns."""
    in_processes(2, _train_in_a_process, str(tmp_path))
    net = make_net(columns=False)
    images, labels = batch(5)
    sgd = Sgd(net, OptimConfig())
    for step in range(3):
        logits = net(images, net.draw_masks(MaskKey.whole(seed=3, step=step, rows=5)))
        torch.autograd.backward(torch.nn.functional.cross_entropy(logits, labels))
        sgd.step(RATES)
        sgd.zero_grad()
    expected = net.canonical_state()
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert largest_difference(found, expected) < 1e-12


def test_no_column_waits_for_a_layer_of_the_other_before_its_input_is_sent() -> None:
    """The order of layers and copies, forward and back, as one process queues them."""
    net = make_net(columns=True)
    assert isinstance(net, ColumnNet)
    order: list[str] = []
    for column, tower in zip("ab", net.columns, strict=True):
        for name, module in tower.named_children():
            if name.startswith(("conv", "fc")):
                module.register_forward_pre_hook(
                    lambda module, inputs, what=f"{column} {name}": order.append(what)
                )
                weight: Any = module.get_parameter("weight")
                weight.register_post_accumulate_grad_hook(
                    lambda parameter, what=f"{column} {name}": order.append(what)
                )
    net.link.observer = lambda tensor, source, target: order.append(f"{'ab'[source]} sends")
    images, labels = batch(2)
    loss = torch.nn.functional.cross_entropy(net(images), labels)
    exchange = ["b sends", "a sends"]
    assert order == [
        *("a sends", "a conv1", "b conv1", "a conv2", "b conv2", *exchange),
        *("a conv3", "a conv4", "a conv5", "b conv3", "b conv4", "b conv5", *exchange),
        *("a fc6", "b fc6", *exchange, "a fc7", "b fc7", "b sends", "a fc8"),
    ]
    order.clear()
    torch.autograd.backward(loss)
    layers = [{"fc8"}, {"fc7"}, {"fc6"}, {"conv3", "conv4", "conv5"}, {"conv1", "conv2"}]
    copies = [["a sends"], exchange, exchange, exchange]
    for names, sent in zip(layers, [*copies, []], strict=True):
        part = [order.pop(0) for _ in range(1 if names == {"fc8"} else 2 * len(names))]
        assert {what.split()[1] for what in part} == names
        assert sorted(order.pop(0) for _ in sent) == sorted(sent)
    assert order == []
