"""Dropout masks are equal for every division of batch and net; the two kinds of dropout."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.nets import CPU, SMALL, batch, make_net
from train.net import MaskKey
from train.net.randomness import keep_mask, torch_generator

SEED = 11


def whole(rows: int, step: int = 0) -> MaskKey:
    return MaskKey.whole(seed=SEED, step=step, rows=rows)


@given(rows=st.integers(1, 40), cuts=st.lists(st.integers(0, 40), max_size=4))
def test_any_division_of_the_batch_gets_the_rows_of_its_mask(rows: int, cuts: list[int]) -> None:
    expected = keep_mask(whole(rows), "x", 6, keep=0.5, device=CPU)
    edges = [0, *sorted(min(cut, rows) for cut in cuts), rows]
    parts = [
        keep_mask(
            MaskKey(seed=SEED, step=0, first_row=a, rows=b - a, global_rows=rows),
            "x",
            6,
            keep=0.5,
            device=CPU,
        )
        for a, b in itertools.pairwise(edges)
    ]
    assert torch.equal(torch.cat(parts), expected)


def test_a_mask_has_the_bits_of_a_generator_made_for_it() -> None:
    for step in (3, 4, 3):
        expected = torch.rand(9, 6, generator=torch_generator(SEED, step, "x", CPU)) < 0.5
        assert torch.equal(keep_mask(whole(9, step), "x", 6, keep=0.5, device=CPU), expected)


def test_columns_get_the_halves_of_the_grouped_masks() -> None:
    grouped, columns = make_net(columns=False), make_net(columns=True)
    one_gpu = make_net(columns=False, settings={**SMALL, "architecture": "one-gpu"})
    key = MaskKey(seed=SEED, step=7, first_row=2, rows=3, global_rows=9)
    expected = grouped.draw_masks(key)
    halves = columns.draw_masks(key)
    for name in ("fc6", "fc7"):
        (mask,) = expected[name]
        assert mask.shape == (3, grouped.layout.hidden_units)
        assert mask.dtype == torch.bool
        assert torch.equal(torch.cat(halves[name], 1), mask)
        assert torch.equal(one_gpu.draw_masks(key)[name][0], mask)


def test_every_seed_step_layer_and_column_has_its_own_mask() -> None:
    net = make_net(columns=True)
    masks = [
        mask
        for seed in (0, 1)
        for step in (0, 1, 2**40)
        for pair in net.draw_masks(MaskKey.whole(seed=seed, step=step, rows=8)).values()
        for mask in pair
    ]
    assert len({mask.numpy().tobytes() for mask in masks}) == len(masks) == 24


@pytest.mark.parametrize("keep", [0.2, 0.5, 1.0])
def test_masks_keep_the_given_fraction(keep: float) -> None:
    mask = keep_mask(whole(400), "x", 500, keep=keep, device=CPU)
    assert abs(mask.float().mean().item() - keep) < 5 * (keep * (1 - keep) / 200_000) ** 0.5 + 1e-9


def test_threads_do_not_change_masks_or_initial_weights() -> None:
    before = torch.get_num_threads()
    found = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        try:
            mask = keep_mask(whole(300), "x", 2048, keep=0.5, device=CPU)
            generator = torch_generator(1, 0, "w", CPU)
            weights = torch.empty(600_001).normal_(0, 1, generator=generator)
        finally:
            torch.set_num_threads(before)
        found.append((mask, weights))
    for mask, weights in found[1:]:
        assert torch.equal(mask, found[0][0])
        assert torch.equal(weights, found[0][1])


def test_drawing_does_not_use_the_global_generator_of_torch() -> None:
    before = torch.random.get_rng_state()
    make_net(columns=True).draw_masks(whole(2))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_rows_outside_the_batch_are_refused() -> None:
    for first, rows in ((0, 4), (3, 1), (-1, 2), (2, -1)):
        with pytest.raises(ValueError, match="are not within a batch of 3"):
            MaskKey(seed=0, step=0, first_row=first, rows=rows, global_rows=3)
    MaskKey(seed=0, step=0, first_row=3, rows=0, global_rows=3)


@pytest.mark.parametrize("columns", [False, True])
def test_vanilla_halves_at_test_and_inverted_doubles_in_training(columns: bool) -> None:
    keep = 0.25
    nets = {
        flavour: make_net(
            columns=columns, settings={**SMALL, "dropout": flavour, "dropout_keep": keep}
        )
        for flavour in ("vanilla", "inverted")
    }
    images, _ = batch(2)
    units = nets["vanilla"].layout.hidden_units
    shape = (2, units // 2) if columns else (2, units)
    ones = tuple(torch.ones(shape, dtype=torch.bool) for _ in range(2 if columns else 1))
    all_on = {"fc6": ones, "fc7": ones}
    with torch.no_grad():
        # With every unit left on, training of the one is test of the other.
        vanilla, inverted = nets["vanilla"], nets["inverted"]
        training = vanilla.forward_features(images, all_on)
        torch.testing.assert_close(training, inverted.forward_features(images))
        # One layer by one: fc7 reads a multiple of fc6, and is multiplied itself.
        features = vanilla.forward_features(images)
        state = vanilla.canonical_state()
        state["fc7.weight"] /= keep  # undoes the factor that fc6 leaves behind at test
        vanilla.load_canonical_state(state)
        torch.testing.assert_close(vanilla.forward_features(images), training * keep)
        assert not torch.allclose(features, training)
        # A mask in training takes units away, and divides the others when inverted.
        masks = inverted.draw_masks(whole(2))
        on = torch.cat(masks["fc7"], 1)
        dropped = inverted.forward_features(images, {"fc6": ones, "fc7": masks["fc7"]})
        state = inverted.canonical_state()
        state["fc7.weight"] /= keep  # undoes nothing yet: fc6 in training is divided too
        inverted.load_canonical_state(state)
        expected = inverted.forward_features(images) / keep * on
        torch.testing.assert_close(dropped, expected)


@pytest.mark.parametrize("columns", [False, True])
def test_the_net_is_a_pure_function(columns: bool) -> None:
    net = make_net(columns=columns)
    images, _ = batch(2)
    masks = net.draw_masks(whole(2))
    with torch.no_grad():
        first = net(images, masks)
        assert not torch.equal(first, net(images))
        net.eval()
        assert torch.equal(first, net(images, masks))
        assert not torch.equal(first, net(images, net.draw_masks(whole(2, step=1))))
