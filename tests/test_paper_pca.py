"""PCA in steps: power iteration and deflation find what scikit-learn finds."""

from __future__ import annotations

import xml.etree.ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from imgprep.colour.moments import Moments
from tests.test_pca import photo_like, rgb_of
from train.errors import DataError
from train.paper.pca_parts import climbs_table, pca_charts, pca_table
from train.paper.pca_steps import PcaSteps, best_climb, deflated, pca_steps, power_iteration

Pixels = NDArray[np.uint8]


def steps_of(pixels: Pixels) -> PcaSteps:
    return pca_steps(rgb_of(pixels), pixels[:300])


def grey(seed: int = 3) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (512, 1), dtype=np.uint8).repeat(3, 1)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_it_agrees_with_scikit_learn(seed: int) -> None:
    found = steps_of(photo_like(seed))
    assert len(found.climbs) == 3
    assert [climb.eigenvalue for climb in found.climbs] == pytest.approx(
        found.reference.eigenvalues, rel=1e-9
    )
    assert max(climb.angle_to_reference for climb in found.climbs) < 1e-6
    axes = np.array([climb.axis for climb in found.climbs])
    assert axes @ axes.T == pytest.approx(np.eye(3), abs=1e-9)


def test_every_step_climbs_along_unit_vectors() -> None:
    for each in steps_of(photo_like(1)).climbs:
        assert np.linalg.norm(each.path, axis=1) == pytest.approx(np.ones(each.steps + 1))
        rises = np.diff(each.variances)
        assert rises.min() >= -1e-9 * each.eigenvalue
        assert sorted(each.path[0].tolist()) == [0, 0, 1]


def test_deflation_removes_one_axis_and_nothing_else() -> None:
    found = steps_of(photo_like(2))
    first, second, _ = found.climbs
    covariance = rgb_of(photo_like(2)).covariance()
    left = deflated(covariance, first.axis)
    assert left @ first.axis == pytest.approx(np.zeros(3), abs=1e-6)
    assert np.trace(left) == pytest.approx(np.trace(covariance) - first.eigenvalue)
    assert found.after(1) @ first.axis == pytest.approx(np.zeros(300), abs=1e-9)
    assert found.after(1) @ second.axis == pytest.approx(found.after(0) @ second.axis)
    assert found.after(3) == pytest.approx(np.zeros((300, 3)), abs=1e-9)


def test_a_start_at_right_angles_to_the_axis_does_not_win() -> None:
    covariance = np.array([[1.5, 0.0, 0.0], [0.0, 1.0, 0.9], [0.0, 0.9, 1.0]])
    stuck, _ = power_iteration(covariance, np.array([1.0, 0.0, 0.0]))
    assert stuck[-1] == pytest.approx([1, 0, 0])
    path, variances = best_climb(covariance)
    assert variances[-1] == pytest.approx(1.9)
    assert path[-1] == pytest.approx(np.array([0, 1, 1]) / np.sqrt(2))


def test_equal_eigenvalues_end_and_are_not_unique() -> None:
    corners = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [255, 255, 0]], np.uint8)
    found = steps_of(corners.repeat(64, 0))
    assert [climb.is_unique for climb in found.climbs] == [False, False]
    assert "not unique" in pca_table(found).rows[0]
    assert found.missing == "The colours vary along 2 axes only."


def test_grey_photographs_have_no_second_axis() -> None:
    found = steps_of(grey())
    assert len(found.climbs) == 1
    assert found.climbs[0].axis == pytest.approx(np.ones(3) / np.sqrt(3))
    assert "there is no second colour axis" in found.missing
    assert len(pca_charts(found).items) == 3


def test_one_colour_and_no_images_are_a_sentence() -> None:
    with pytest.raises(DataError, match="the same colour: PCA has no axis"):
        steps_of(np.full((256, 3), 7, np.uint8))
    with pytest.raises(DataError, match="PCA of no images"):
        pca_steps(Moments.empty(16), np.zeros((0, 3), np.uint8))


def test_the_charts_and_tables_say_what_was_found() -> None:
    found = steps_of(photo_like(4))
    charts, result, path = pca_charts(found), pca_table(found), climbs_table(found)
    assert len(charts.items) == 5
    for chart in charts.items:
        assert xml.etree.ElementTree.fromstring(chart).get("role") == "img"
    assert pca_charts(found) == charts  # equal data, equal text
    for row, climb in zip(result.rows, found.climbs, strict=True):
        assert row[2] == f"{climb.eigenvalue:,.4f}"
    last = [row for row in path.rows if row[0] == "second"][-1]
    assert (last[1], last[-1]) == (str(found.climbs[1].steps), "100.000 %")
    assert found.missing == ""
