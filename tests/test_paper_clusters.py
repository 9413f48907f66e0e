"""Unsupervised learning: clusters, their agreement with the classes, and what is shown of them."""

from __future__ import annotations

import xml.etree.ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from train.errors import DataError
from train.paper.clusters import (
    COMPONENTS,
    NEAREST,
    cluster,
    cluster_all,
    information,
    principal_components,
    purity,
    small_pixels,
)
from train.paper.clusters_parts import clusters_chart, clusters_sheets, clusters_table

LABELS = np.repeat(np.arange(4), 12)


def heaps(apart: float, seed: int = 0) -> NDArray[np.float32]:
    """Vectors (48, 10) around one centre for each class, ``apart`` standard deviations apart."""
    random = np.random.default_rng(seed)
    centres = np.eye(4, 10) * apart
    return np.asarray(centres[LABELS] + random.normal(size=(48, 10)), np.float32)


def test_clusters_that_are_the_classes_are_perfect_under_any_names() -> None:
    assert purity((3 - LABELS) * 7, LABELS) == 1
    assert information((3 - LABELS) * 7, LABELS) == pytest.approx(1)


def test_one_cluster_says_nothing() -> None:
    everything = np.zeros(48, np.int64)
    assert purity(everything, LABELS) == 0.25
    assert information(everything, LABELS) == pytest.approx(0)


@given(st.lists(st.integers(0, 3), min_size=2, max_size=40), st.integers(0, 2**16))
def test_purity_is_counted_by_hand(clusters: list[int], seed: int) -> None:
    labels = np.random.default_rng(seed).integers(0, 3, len(clusters))
    found = np.array(clusters)
    by_hand = sum(np.bincount(labels[found == k]).max() for k in set(clusters))
    assert purity(found, labels) == pytest.approx(by_hand / len(clusters))


def test_heaps_far_apart_are_found_and_beat_chance() -> None:
    found = cluster("heaps", heaps(30.0), LABELS, seed=0)
    assert [found.purity, found.information] == pytest.approx([1, 1])
    assert found.chance_purity < 0.6
    assert found.chance_information < 0.3
    assert [each.photographs for each in found.clusters] == [12] * 4
    for each in found.clusters:
        assert len(each.nearest) == NEAREST
        assert {int(LABELS[at]) for at in each.nearest} == {each.most_frequent}


def test_noise_is_no_better_than_chance() -> None:
    found = cluster("noise", heaps(0.0), LABELS, seed=0)
    assert found.purity == pytest.approx(found.chance_purity, abs=0.15)
    assert [c.of_that_class / c.photographs for c in found.clusters] == sorted(
        (c.of_that_class / c.photographs for c in found.clusters), reverse=True
    )


def test_the_nearest_are_nearest_to_the_centre() -> None:
    vectors = heaps(30.0)
    found = cluster("heaps", vectors, LABELS, seed=1)
    for each in found.clusters:
        members = np.flatnonzero(each.most_frequent == LABELS)
        apart = np.linalg.norm(vectors - vectors[members].mean(0), axis=1)
        assert list(each.nearest) == members[np.argsort(apart[members])][:NEAREST].tolist()


def test_the_same_seed_gives_the_same_clusters() -> None:
    once, again = (cluster("x", heaps(2.0), LABELS, seed=5) for _ in range(2))
    assert once == again


def test_equal_vectors_are_one_cluster() -> None:
    found = cluster("dead net", np.zeros((48, 5), np.float32), LABELS, seed=0)
    assert [each.photographs for each in found.clusters] == [48]
    assert [found.purity, found.information] == pytest.approx([0.25, 0])


def test_principal_components_keep_distances_of_a_flat_cloud() -> None:
    flat = heaps(5.0) @ np.random.default_rng(1).normal(size=(10, 300)).astype(np.float32)
    found = principal_components(flat, seed=0)
    assert found.shape == (48, min(48, COMPONENTS))
    apart = np.linalg.norm(flat[0] - flat[1])
    assert np.linalg.norm(found[0] - found[1]) == pytest.approx(apart, rel=1e-3)


def photographs() -> list[NDArray[np.uint8]]:
    random = np.random.default_rng(2)
    return list(random.integers(0, 256, (48, 96, 96, 3), dtype=np.uint8))


def test_small_pixels_are_block_means() -> None:
    (first, *_) = pictures = photographs()
    found = small_pixels(pictures)
    assert found.shape == (48, 3 * 32 * 32)
    assert found[0, :3] == pytest.approx(first[:3, :3].mean((0, 1)), abs=1)


def test_bad_input_is_a_sentence() -> None:
    with pytest.raises(DataError, match="at least two classes"):
        cluster_all({"x": heaps(1.0)}, np.zeros(48, np.int64), seed=0)
    broken = heaps(1.0)
    broken[3, 4] = np.nan
    with pytest.raises(DataError, match="fc7: some values are not finite"):
        cluster_all({"fc7": broken}, LABELS, seed=0)


def test_the_charts_tables_and_sheets_say_what_was_found() -> None:
    found = cluster_all({"pixels": heaps(0.5), "fc7": heaps(30.0)}, LABELS, seed=0)
    names = ["tench", "<b>", "dog", "cat"]
    chart, table = clusters_chart(found), clusters_table(found)
    assert "fc7: purity 1.00" in "".join(xml.etree.ElementTree.fromstring(chart.svg).itertext())
    assert [row[0] for row in table.rows] == ["pixels", "fc7"]
    assert table.rows[1][2] == "100.00 %"
    assert "48 photographs" in table.caption
    pixels, fc7 = clusters_sheets(found, photographs(), names, LABELS)
    assert (len(pixels.rows), len(fc7.rows)) == (4, 4)
    assert sorted(name for name, _ in fc7.rows) == sorted(
        f"12 photographs, 12 of {name}" for name in names
    )
    for title, pictures in fc7.rows:
        name = title.split(" of ")[1]
        assert [each.alt for each in pictures] == [f"Photograph of the class {name}"] * NEAREST
