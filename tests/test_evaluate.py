"""Evaluation: means of probabilities, each record once, equal for any batches and processes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tests.processes import in_processes
from train.config import InputConfig, NetConfig
from train.errors import DataError
from train.net import build_net
from train.run.evaluate import Evaluation, evaluate, evaluate_together
from train.run.metrics import TopKCounter
from train.show.measure import input_view

RECORDS, CLASSES, SIDE, VIEWS = 23, 7, 6, 3


@dataclass(frozen=True)
class Batch:
    images_v: Tensor | list[Tensor]
    labels_n: Tensor
    record_n: NDArray[np.int64]


class Linear(nn.Module):
    """Logits by one matrix, computed row by row so that the batch size changes no bit."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(3 * SIDE**2, CLASSES, generator=draw))

    def forward(self, images: Tensor, masks: None) -> Tensor:
        assert masks is None
        rows = [image.flatten()[None] @ self.weight for image in images]
        return torch.cat(rows) if rows else torch.zeros(0, CLASSES)


def images_and_labels() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(4)
    images = torch.randn(VIEWS, RECORDS, 3, SIDE, SIDE, generator=draw)
    return images, torch.randint(0, CLASSES, (RECORDS,), generator=draw)


def batches(size: int, first: int = 0, end: int = RECORDS) -> list[Batch]:
    images, labels = images_and_labels()
    return [
        Batch(images[:, k : min(end, k + size)], labels[k : min(end, k + size)], records)
        for k in range(first, end, size)
        for records in (np.arange(k, min(end, k + size)),)
    ]


def by_hand(nets: Sequence[nn.Module], views: int) -> Tensor:
    """Mean probabilities computed directly, float64 (RECORDS, CLASSES)."""
    images, _ = images_and_labels()
    every = [net(view, None).double().softmax(1) for net in nets for view in images[:views]]
    return torch.stack(every).mean(0)


@pytest.mark.parametrize("nets", [(Linear(1),), (Linear(1), Linear(2), Linear(3))])
@pytest.mark.parametrize("views", [1, VIEWS])
def test_probabilities_are_averaged_over_views_and_networks(
    nets: Sequence[nn.Module], views: int
) -> None:
    cut = [replace(batch, images_v=batch.images_v[:views]) for batch in batches(5)]
    found = evaluate(nets, cut, count=RECORDS)
    expected, labels = by_hand(nets, views), images_and_labels()[1]
    ranks = (expected > expected.gather(1, labels[:, None])).sum(1)
    assert found.top1_error == int((ranks >= 1).sum()) / RECORDS
    assert found.top5_error == int((ranks >= 5).sum()) / RECORDS
    losses = -expected.gather(1, labels[:, None]).log()
    assert found.loss == pytest.approx(losses.mean().item(), rel=1e-5)
    assert (found.count, found.views, found.networks) == (RECORDS, views, len(nets))


def test_each_network_is_measured_with_the_average() -> None:
    nets = (Linear(1), Linear(2), Linear(3))
    found = evaluate(nets, batches(5), count=RECORDS)
    assert [one.to_json() for one in found.each] == [
        evaluate((net,), batches(5), count=RECORDS).to_json() for net in nets
    ]
    assert evaluate(nets[:1], batches(5), count=RECORDS).each == ()
    value = found.to_json()
    assert [one["networks"] for one in value["each"]] == [1, 1, 1]
    named = replace(
        found, each=tuple(replace(one, name=f"{n}.pt") for n, one in enumerate(found.each))
    )
    *alone, average = named.render().splitlines()
    assert [line.split(":")[0] for line in alone] == ["0.pt", "1.pt", "2.pt"]
    assert "3 networks averaged" in average


def test_networks_may_see_the_same_records_through_different_loaders() -> None:
    def larger(batch: Batch) -> Batch:
        return replace(batch, images_v=[2 * view for view in batch.images_v])

    parts = batches(5)
    found = evaluate_together(
        [((Linear(1),), parts), ((Linear(2),), map(larger, parts))], count=RECORDS
    )
    first, second = (
        evaluate((Linear(1),), parts, count=RECORDS),
        evaluate((Linear(2),), map(larger, parts), count=RECORDS),
    )
    assert [one.to_json() for one in found.each] == [first.to_json(), second.to_json()]
    images, labels = images_and_labels()
    mean = [
        net(scale * view, None).double().softmax(1)
        for net, scale in ((Linear(1), 1), (Linear(2), 2))
        for view in images
    ]
    expected = torch.stack(mean).mean(0)
    ranks = (expected > expected.gather(1, labels[:, None])).sum(1)
    assert found.top1_error == int((ranks >= 1).sum()) / RECORDS


@pytest.mark.parametrize("size", [1, 4, RECORDS])
def test_the_batch_size_does_not_change_the_result(size: int) -> None:
    whole, parts = (evaluate((Linear(1),), batches(k), count=RECORDS) for k in (RECORDS, size))
    assert whole.to_json(per_class=True) == parts.to_json(per_class=True)


def test_views_can_be_a_list_or_a_stacked_tensor() -> None:
    listed = [replace(each, images_v=list(each.images_v)) for each in batches(5)]
    one, other = (evaluate((Linear(1),), each, count=RECORDS) for each in (batches(5), listed))
    assert one.to_json() == other.to_json()


def test_no_autograd_graph_is_kept() -> None:
    grad_modes = []

    def net(images: Tensor, masks: None) -> Tensor:
        grad_modes.append(torch.is_grad_enabled())
        return Linear(1)(images, masks)  # type: ignore[no-any-return]

    evaluate((net,), batches(8), count=RECORDS)
    assert not any(grad_modes)


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        (batches(5)[:-1], "3 were not measured"),
        ([*batches(5), batches(5)[0]], "5 more than once"),
        ([replace(batches(RECORDS)[0], record_n=np.arange(1, RECORDS + 1))], "beyond the 23"),
        ([], "23 were not measured"),
    ],
)
def test_missing_and_repeated_records_are_an_error(loader: list[Batch], message: str) -> None:
    with pytest.raises(DataError, match=message):
        evaluate((Linear(1),), loader, count=RECORDS)


def test_an_empty_split_is_an_error() -> None:
    with pytest.raises(DataError, match="nothing to measure"):
        evaluate((Linear(1),), [], count=0)


def test_a_network_of_nans_is_always_wrong_and_its_loss_is_nan() -> None:
    def net(images: Tensor, masks: None) -> Tensor:
        return torch.full((len(images), CLASSES), math.nan)

    found = evaluate((net,), batches(5), count=RECORDS)
    assert (found.top1_error, found.top5_error) == (1.0, 1.0)
    assert math.isnan(found.loss)
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["loss"] is None


def test_a_probability_that_rounds_to_0_has_a_finite_loss() -> None:
    def net(images: Tensor, masks: None) -> Tensor:
        return torch.tensor([[1e4, *[0.0] * (CLASSES - 1)]]).expand(len(images), CLASSES)

    assert 0 < evaluate((net,), batches(5), count=RECORDS).loss < 88


def test_errors_per_class_add_up_and_are_printed() -> None:
    found = evaluate((Linear(1),), batches(5), count=RECORDS)
    table = found.to_json(per_class=True)["per_class"]
    assert sum(row["count"] for row in table) == RECORDS
    wrong = sum(row["count"] * row["top1_error"] for row in table if row["count"])
    assert wrong == pytest.approx(RECORDS * found.top1_error)
    assert len(found.render(per_class=True).splitlines()) == 1 + CLASSES
    assert "centre crop" not in found.render()
    assert f"{VIEWS} views" in found.render()


def test_a_class_without_images_has_no_error() -> None:
    counter = TopKCounter(3, torch.device("cpu"))
    counter.add(torch.eye(3)[:2], torch.tensor([0, 1]))
    found = Evaluation(counter.total(), 0.5, 1, 1)
    assert found.to_json(per_class=True)["per_class"][2]["top1_error"] is None
    assert found.render(per_class=True).splitlines()[3].endswith("0 images")


def _ranks(rank: int) -> None:
    pair = (Linear(1), Linear(2))
    whole = evaluate(pair, batches(5), count=RECORDS).to_json()
    assert (
        evaluate(
            pair, batches(4, *((0, 0), (0, RECORDS))[rank]), count=RECORDS, processes=2
        ).to_json()
        == whole
    )
    alone = evaluate((Linear(1),), batches(5), count=RECORDS).to_json(per_class=True)
    for split in (((0, 11), (11, RECORDS)), ((0, 0), (0, RECORDS))):
        part = batches(4 + rank, *split[rank])
        found = evaluate((Linear(1),), part, count=RECORDS, processes=2)
        assert found.to_json(per_class=True) == alone
    part = batches(4, *((0, 11), (13, RECORDS))[rank])
    with pytest.raises(DataError, match="2 were not measured"):
        evaluate((Linear(1),), part, count=RECORDS, processes=2)


def test_two_processes_measure_the_same_as_one() -> None:
    in_processes(2, _ranks)


def test_the_real_network_has_the_same_error_whole_and_in_columns() -> None:
    cpu, images = torch.device("cpu"), torch.randn(2, 6, 3, 96, 96) * 50
    config = NetConfig(width_divisor=16, init_sd_conv345=0.03)

    def loader() -> Iterator[Batch]:
        yield Batch(images, torch.arange(6) % 4, np.arange(6))

    found = [
        evaluate(
            (build_net(config, classes=4, devices=devices, columns=columns, seed=1, image_px=96),),
            loader(),
            count=6,
        )
        for devices, columns in (((cpu,), False), ((cpu, cpu), True))
    ]
    assert found[0].top1_error == found[1].top1_error
    assert found[0].loss == pytest.approx(found[1].loss, abs=1e-5)


def test_networks_share_a_loader_only_if_it_gives_all_of_them_the_right_input() -> None:
    plain = InputConfig(mean="channel")
    changes: list[dict[str, Any]] = [
        {"crop_px": 96},
        {"mean": "centre"},
        {"mean_rgb": (1.0, 2.0, 3.0)},
        {"sd_rgb": (1.0, 2.0, 3.0)},
        {"dtype": "float16"},
        {"memory_format": "channels-first"},
    ]
    views = [input_view(plain), *(input_view(replace(plain, **each)) for each in changes)]
    assert len(set(views)) == len(views)
    assert input_view(replace(plain, crop="centre", flip=False, threads=3)) == views[0]
