"""What a run's page is made of: confusion, best labels, features and neighbours."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from tests.nets import CLASSES, SOURCE, batch, make_net
from train.show.confusion import Confusion, ConfusionCounter
from train.show.guesses import GuessKeeper
from train.show.neighbours import Features, features_of, nearest


def scores(rows: int, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    probability = torch.randn(rows, classes, generator=draw).softmax(1)
    return probability, torch.randint(classes, (rows,), generator=draw)


def counted(probability: Tensor, labels: Tensor, *, size: int) -> Confusion:
    counter = ConfusionCounter()
    for first in range(0, len(labels), size):
        counter.add(probability[first : first + size], labels[first : first + size])
    return counter.total()


@given(rows=st.integers(1, 60), classes=st.integers(2, 9), seed=st.integers(0, 99))
def test_every_image_is_counted_once_in_its_row(rows: int, classes: int, seed: int) -> None:
    probability, labels = scores(rows, classes, seed)
    found = counted(probability, labels, size=7)
    assert found.images == rows
    expected = np.zeros((classes, classes), np.int64)
    for true, taken in zip(labels.tolist(), probability.argmax(1).tolist(), strict=True):
        expected[true, taken] += 1
    np.testing.assert_array_equal(found.table_kk, expected)
    np.testing.assert_array_equal(found.class_images(), np.bincount(labels, minlength=classes))
    wrong = float((probability.argmax(1) != labels).float().mean())
    errors = np.nan_to_num(found.errors())
    assert (errors * found.class_images()).sum() / rows == pytest.approx(wrong)
    assert sum(pair.images for pair in found.pairs(classes**2)) == round(wrong * rows)


@given(rows=st.integers(1, 60), classes=st.integers(2, 9), seed=st.integers(0, 99))
def test_the_worst_come_first(rows: int, classes: int, seed: int) -> None:
    found = counted(*scores(rows, classes, seed), size=100)
    errors = found.errors()
    worst = found.worst(classes)
    assert [errors[label] for label in worst] == sorted(errors[errors > 0], reverse=True)
    pairs = found.pairs(5)
    assert [pair.images for pair in pairs] == sorted((p.images for p in pairs), reverse=True)
    assert all(pair.true != pair.taken_for for pair in pairs)
    for label in worst:
        mistakes = found.mistakes(label, classes)
        assert sum(pair.images for pair in mistakes) == round(errors[label] * mistakes[0].of)
    shown = found.involved(3)
    assert (len(shown) <= 3, len(set(shown))) == (True, len(shown))
    assert shown[: len(worst)] == worst[:3]
    among = found.among(shown)
    assert among.shape == (len(shown), len(shown) + 1)
    np.testing.assert_array_equal(among.sum(1), found.class_images()[shown])


def test_ties_go_to_the_lower_label_and_empty_classes_are_not_worst() -> None:
    found = counted(torch.full((3, 4), 0.25), torch.tensor([0, 1, 1]), size=3)
    assert found.table_kk[1].tolist() == [2, 0, 0, 0]
    assert np.isnan(found.errors()[2:]).all()
    assert found.worst(4) == [1]
    with pytest.raises(ValueError, match="nothing was counted"):
        ConfusionCounter().total()


def test_the_best_labels_are_kept_in_the_order_asked_for() -> None:
    probability, labels = scores(20, 8, 3)
    keeper = GuessKeeper([17, 2, 11, 99])
    for first in range(0, 20, 6):
        part = slice(first, first + 6)
        keeper.add(np.arange(20)[part], probability[part], labels[part])
    found = keeper.total()
    assert [each.record for each in found] == [17, 2, 11]
    for each in found:
        order = np.argsort(-probability[each.record].numpy(), kind="stable")
        assert [guess.label for guess in each.best] == order[:5].tolist()
        expected = probability[each.record][order[:5].tolist()].tolist()
        assert [guess.probability for guess in each.best] == expected
        place = order.tolist().index(each.label) + 1
        assert each.place == (place if place <= 5 else None)


@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("dropout", ["vanilla", "inverted"])
def test_fc8_of_the_features_is_the_network(columns: bool, dropout: str) -> None:
    """On one device and on two; and the two have the same features."""
    settings = {"width_divisor": 8, "dropout": dropout, **SOURCE}
    net = make_net(columns=columns, settings=settings)
    images, _ = batch(3)
    features = net.forward_features(images, None)
    assert features.shape == (3, net.layout.hidden_units)
    torch.testing.assert_close(net.classify(features), net(images, None), rtol=0, atol=0)
    whole = make_net(columns=False, settings=settings)
    torch.testing.assert_close(features, whole.forward_features(images, None))


@dataclass(frozen=True)
class Batch:
    images_v: list[Tensor]
    labels_n: Tensor
    record_n: NDArray[np.int64] = field(default_factory=lambda: np.arange(2))


def test_features_of_batches_are_those_of_the_whole() -> None:
    net = make_net(columns=False).float()
    images, labels = batch(5)
    parts = [
        Batch([images[k : k + 2], images[:1]], labels[k : k + 2], np.arange(k, min(5, k + 2)))
        for k in range(0, 5, 2)
    ]
    told: list[int] = []
    found = features_of(net, parts, told.append)
    assert told == [2, 2, 1]
    assert found.record_n.tolist() == list(range(5))
    assert found.labels_n.tolist() == labels.tolist()
    assert (found.vectors_nd.dtype, len(found)) == (np.dtype(np.float32), 5)
    expected = net.forward_features(images.float(), None).detach().numpy()
    np.testing.assert_allclose(found.vectors_nd, expected, rtol=1e-4, atol=1e-5)


def features(rows: int, seed: int, first: int = 0) -> Features:
    vectors = np.random.default_rng(seed).normal(size=(rows, 12)).astype(np.float32)
    return Features(np.arange(first, first + rows), np.arange(rows) % CLASSES, 100 + vectors)


@given(rows=st.integers(1, 40), count=st.integers(1, 8), seed=st.integers(0, 50))
def test_neighbours_are_the_nearest(rows: int, count: int, seed: int) -> None:
    pool, asked = features(rows, seed, first=500), features(3, seed + 1000)
    for n, each in enumerate(nearest(asked, pool, count)):
        apart = pool.vectors_nd.astype(np.float64) - asked.vectors_nd[n]
        expected = np.sort(np.linalg.norm(apart, axis=1))[:count]
        assert [near.distance for near in each.nearest] == pytest.approx(expected.tolist())
        assert each.record == n
        for near in each.nearest:
            assert near.label == (near.record - 500) % CLASSES
    for n, each in enumerate(nearest(pool, pool, 1)):
        assert (each.nearest[0].record, each.nearest[0].distance) == (500 + n, 0.0)
