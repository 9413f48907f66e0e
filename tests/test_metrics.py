"""Top-1 and top-5: the tie rule against its definition, and sums that no split changes."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.processes import in_processes
from train.run.metrics import TopK, TopKCounter, credit_unit, topk_credit

Batch = tuple[list[list[float]], list[int]]


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    """Scores with many ties, and labels."""
    classes = draw(st.integers(2, 24))
    score = st.sampled_from([0.0, 0.25, 0.5, 1.0, float("nan"), float("inf")])
    row = st.lists(score, min_size=classes, max_size=classes)
    rows = draw(st.lists(row, min_size=1, max_size=12))
    labels = draw(st.lists(st.integers(0, classes - 1), min_size=len(rows), max_size=len(rows)))
    return rows, labels


def counted(rows: list[list[float]], labels: list[int], parts: int = 1) -> TopKCounter:
    scores_nk, labels_n = torch.tensor(rows), torch.tensor(labels)
    counter = TopKCounter(scores_nk.shape[1], torch.device("cpu"))
    chunks = zip(scores_nk.tensor_split(parts), labels_n.tensor_split(parts), strict=True)
    for scores, some in chunks:
        counter.add(scores, some)
    return counter


def credit_by_definition(row: list[float], label: int, top: int) -> Fraction:
    """The rule of the 2012 source, in exact arithmetic."""
    if any(map(math.isnan, row)):
        return Fraction(0)
    beaten_by = sum(score > row[label] for score in row)
    tied = sum(score == row[label] for score in row)
    return min(Fraction(1), Fraction(max(0, top - beaten_by), tied))


@given(batches())
def test_credit_is_the_rule_of_the_2012_source(batch: Batch) -> None:
    rows, labels = batch
    classes = len(rows[0])
    found = topk_credit(torch.tensor(rows), torch.tensor(labels)).tolist()
    for top, credits in zip((1, 5), found, strict=True):
        for row, label, credit in zip(rows, labels, credits, strict=True):
            exact = credit_by_definition(row, label, top) * credit_unit(classes)
            assert 0 <= exact - credit < 1
            if sum(score == row[label] for score in row) in {*range(17), classes}:
                assert exact == credit


def test_the_credit_of_a_tie_is_the_mean_over_all_ways_to_order_it() -> None:
    row = [3.0, 1.0, 1.0, 1.0, 0.0]
    for top, label in itertools.product((1, 2), range(5)):
        orders = [
            order
            for order in itertools.permutations(range(5))
            if all(row[a] >= row[b] for a, b in itertools.pairwise(order))
        ]
        mean = Fraction(sum(label in order[:top] for order in orders), len(orders))
        assert credit_by_definition(row, label, top) == mean


@given(batches(), st.integers(1, 5), st.randoms(use_true_random=False))
def test_sums_depend_neither_on_the_batches_nor_on_the_order(
    batch: Batch, parts: int, random: Random
) -> None:
    rows, labels = batch
    order = list(range(len(rows)))
    random.shuffle(order)
    once = counted(rows, labels).table_3k
    again = counted([rows[k] for k in order], [labels[k] for k in order], parts).table_3k
    assert torch.equal(once, again)


def test_without_ties_it_agrees_with_torch_topk() -> None:
    scores_nk = torch.randn(500, 40, generator=torch.Generator().manual_seed(3))
    labels_n = torch.arange(500) % 40
    total = counted(scores_nk.tolist(), labels_n.tolist(), 7).total()
    hits = scores_nk.topk(5).indices == labels_n[:, None]
    assert total.count == 500
    assert total.top1_error == (500 - int(hits[:, 0].sum())) / 500
    assert total.top5_error == (500 - int(hits.sum())) / 500
    assert total.class_counts() == [13] * 20 + [12] * 20
    for top in (1, 5):
        each = total.class_errors(top)
        overall = sum(
            count * error for count, error in zip(total.class_counts(), each, strict=True) if error
        )
        assert overall / 500 == pytest.approx((total.top1_error, total.top5_error)[top == 5])


def test_equal_scores_give_exactly_the_error_of_chance() -> None:
    labels = list(range(1000)) * 3
    total = counted([[0.0] * 1000] * 3000, labels).total()
    assert (total.top1_error, total.top5_error) == (0.999, 0.995)


def test_a_network_of_nans_is_always_wrong() -> None:
    total = counted([[float("nan")] * 7] * 9, [0] * 9).total()
    assert (total.count, total.top1_error, total.top5_error) == (9, 1.0, 1.0)


def test_with_fewer_than_five_classes_the_top5_error_is_zero() -> None:
    assert counted([[0.1, 0.2, 0.3, 0.4]], [0]).total().top5_error == 0


def test_no_images_have_no_error() -> None:
    empty = TopK(torch.zeros(3, 4, dtype=torch.int64))
    assert math.isnan(empty.top1_error)
    assert empty.class_errors(1) == [None] * 4


def test_the_counts_of_200_million_images_do_not_overflow() -> None:
    for classes in (1000, 997, 21_841):
        assert 200_000_000 * credit_unit(classes) < 2**63


SPLITS = (((0, 30), (30, 101)), ((0, 0), (0, 101)))
"""First and end row of each of two processes; in the second split one has no rows."""


def _two_processes(rank: int) -> None:
    scores_nk, labels_n = _tied_scores()
    expected = TopKCounter(scores_nk.shape[1], torch.device("cpu"))
    expected.add(scores_nk, labels_n)
    for split in SPLITS:
        counter = TopKCounter(scores_nk.shape[1], torch.device("cpu"))
        first, end = split[rank]
        for k in range(first, end, 4 + rank):
            stop = min(end, k + 4 + rank)
            counter.add(scores_nk[k:stop], labels_n[k:stop])
        found = counter.total(processes=2)
        assert found.count == 101
        assert torch.equal(found.table_3k, expected.table_3k)


def _tied_scores() -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(8)
    scores_nk = torch.randint(0, 4, (101, 30), generator=draw).float()
    return scores_nk, torch.randint(0, 30, (101,), generator=draw)


def test_two_processes_count_the_same_as_one() -> None:
    in_processes(2, _two_processes)
