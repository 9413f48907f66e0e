"""``rgb_pca.json`` keeps the exact sums, and the report shows them beside published figures."""

from __future__ import annotations

import copy
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgprep.colour.moments import Moments, MomentsAccumulator, RgbMoments
from imgprep.colour.pca import SIGN_CONVENTION, fit_pca
from imgprep.colour.published import AUTHOR_2014, LIGHTING, PUBLISHED_PCAS, PublishedPca
from imgprep.colour.stats import (
    load_moments,
    moments_from_json,
    rgb_moments_from_json,
    rgb_pca_json,
    stats_report,
)
from imgprep.errors import FormatError
from tests.conftest import imgprep
from tests.fuzzing import changed_dataset, original
from tests.trees import Shape, make_class_folders

SIZE_PX = 16


def photo_moments(seed: int = 0, images: int = 3) -> Moments:
    rng = np.random.default_rng(seed)
    axes = np.array([[0.58, 0.58, 0.58], [0.7, 0.0, -0.7], [0.4, -0.8, 0.4]])
    accumulator = MomentsAccumulator(SIZE_PX)
    for _ in range(images):
        colours = 120 + (rng.normal(size=(SIZE_PX, SIZE_PX, 3)) * (60, 20, 8)) @ axes
        accumulator.add(np.clip(np.rint(colours), 0, 255).astype(np.uint8))
    return accumulator.moments()


def published_moments(theirs: PublishedPca) -> RgbMoments:
    """Moments of many pixels whose covariance is the one that ``theirs`` implies."""
    vectors = np.array(theirs.eigenvectors)
    covariance = (vectors * np.square(theirs.stdevs)) @ vectors.T
    images = 2**30
    n = images * SIZE_PX**2
    total = 127 * n
    (rr, rg, rb), (_, gg, gb), (_, _, bb) = (
        [round(x * n) + 127 * total for x in row] for row in covariance.tolist()
    )
    return RgbMoments(images, SIZE_PX, (total,) * 3, (rr, gg, bb, rg, rb, gb))


@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_json_round_trip_is_exact(seed: int, images: int) -> None:
    moments = photo_moments(seed, images)
    pca = fit_pca(moments)
    value = json.loads(json.dumps(rgb_pca_json(moments, pca)))
    assert moments_from_json(value, moments.pixel_sum_hwc) == moments
    assert rgb_moments_from_json(value) == moments.rgb
    assert value["eigenvalues"] == pca.eigenvalues.tolist()
    assert value["eigenvectors"] == pca.eigenvectors.tolist()
    assert value["rgb_covariance"] == moments.rgb_covariance().tolist()
    assert value["rgb_mean"] == moments.rgb_mean().tolist()


def test_json_keeps_integers_above_two_to_the_53() -> None:
    n = 1_281_167 * 256**2
    s, q = 255 * n - 1, 255**2 * (n - 1) + 254**2
    assert q > 2**52
    rgb = RgbMoments(1_281_167 * 4, 256, (4 * s,) * 3, (4 * q + 1,) * 6)
    value = json.loads(json.dumps(rgb_pca_json(rgb, fit_pca(rgb))))
    assert value["rgb_second_moment"][0][0] % 2 == 1
    assert value["rgb_second_moment"][0][0] > 2**53
    assert rgb_moments_from_json(value) == rgb


def test_json_states_version_scale_and_solver() -> None:
    moments = photo_moments()
    value = rgb_pca_json(moments, fit_pca(moments))
    assert value["schema_version"] == 1
    assert (value["images"], value["size_px"], value["pixels"]) == (3, SIZE_PX, 3 * SIZE_PX**2)
    assert value["sign_convention"] == SIGN_CONVENTION
    assert value["solver"] == "scikit-learn"
    assert "0-255" in value["scale"]


@pytest.mark.parametrize(
    ("field", "wrong", "message"),
    [
        ("schema_version", 2, "schema version 2"),
        ("images", 3.0, "images is 3.0, not an integer"),
        ("images", None, "images is None"),
        ("images", True, "images is True"),
        ("images", -3, "number of images is -3"),
        ("size_px", 0, "side is 0 pixels"),
        ("pixels", 7, "states 7 pixels; 3 images"),
        ("rgb_sum", [1, 2], "rgb_sum"),
        ("rgb_sum", [1, 2, "3"], "rgb_sum"),
        ("rgb_sum", [1, 2, 10**9], "cannot come from"),
        ("rgb_second_moment", [[1, 2, 3]], "rgb_second_moment"),
        ("rgb_second_moment", "x", "rgb_second_moment"),
        ("rgb_second_moment", [[1, 2, 3], [4, 5, 6], [7, 8, 9]], "not symmetric"),
        ("rgb_second_moment", [[1, 2, 3], [2, 5, 6], [3, 6, None]], "rgb_second_moment"),
    ],
)
def test_malformed_json_is_rejected(field: str, wrong: object, message: str) -> None:
    moments = photo_moments()
    value = copy.deepcopy(rgb_pca_json(moments, fit_pca(moments)))
    value[field] = wrong
    with pytest.raises(FormatError, match=message):
        rgb_moments_from_json(value)


@pytest.mark.parametrize("value", [None, [], "text", {}])
def test_other_json_is_rejected(value: object) -> None:
    with pytest.raises(FormatError, match=r"rgb_pca\.json"):
        rgb_moments_from_json(value)


def test_pixel_sum_of_another_build_is_refused() -> None:
    ours, other = photo_moments(0), photo_moments(1)
    value = rgb_pca_json(ours, fit_pca(ours))
    with pytest.raises(FormatError, match="different builds"):
        moments_from_json(value, other.pixel_sum_hwc)


def test_a_dataset_without_training_images_has_no_statistics(tmp_path: Path) -> None:
    source = make_class_folders(tmp_path / "source", Shape(val_images=6))
    ran = imgprep("build-shards", source, tmp_path / "dest", "--split", "val", "--size", 16)
    assert ran.code == 0, ran.err
    ran = imgprep("stats", tmp_path / "dest")
    assert ran.code == 1
    assert "no statistics: the dataset was built without a training split" in ran.err


@pytest.mark.parametrize("name", ["rgb_pca.json", "pixel_sum.npy"])
def test_statistics_are_read_only_if_their_hash_is_in_the_index(name: str) -> None:
    content = bytearray(original(name))
    digit = content.index(b"7", len(content) // 3) if name.endswith("json") else len(content) - 9
    content[digit] ^= 1  # a valid file with another number
    with (
        changed_dataset(name, bytes(content), forged=False) as folder,
        pytest.raises(FormatError, match=f"{name}: not the file that the index describes"),
    ):
        load_moments(folder)


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "pickle", "npz", "other"])
def test_a_damaged_pixel_sum_is_refused_even_if_the_index_has_its_hash(damage: str) -> None:
    whole, stream = original("pixel_sum.npy"), io.BytesIO()
    if damage == "pickle":
        np.save(stream, np.array([{}], dtype=object), allow_pickle=True)
    elif damage == "npz":
        np.savez(stream, photo_moments().pixel_sum_hwc)
    elif damage == "other":
        np.save(stream, photo_moments(seed=1).pixel_sum_hwc)
    else:
        stream.write({"empty": b"", "cut": whole[:500], "text": b"not an array"}[damage])
    with (
        changed_dataset("pixel_sum.npy", stream.getvalue(), forged=True) as folder,
        pytest.raises(FormatError, match=re.escape(str(folder))),
    ):
        load_moments(folder)


@pytest.mark.parametrize("theirs", PUBLISHED_PCAS, ids=lambda theirs: str(theirs.key))
def test_published_components_compared_with_themselves_agree(theirs: PublishedPca) -> None:
    report = stats_report(published_moments(theirs))
    side = next(side for side in report.comparisons if side.theirs is theirs)
    # The published axes have four or five decimals and are not exactly orthogonal.
    np.testing.assert_allclose(side.stdev_ratio, 1.0, rtol=1e-4)
    assert side.angle_degrees.max() < 0.05
    np.testing.assert_allclose(report.stdev_rgb, theirs.stdev_rgb, rtol=1e-9)


def test_published_figures_on_their_usual_scales() -> None:
    np.testing.assert_allclose(
        np.square(np.array(LIGHTING.stdevs) / 255), [0.2175, 0.0188, 0.0045], rtol=1e-12
    )
    np.testing.assert_allclose(LIGHTING.stdevs, [118.9, 35.0, 17.1], atol=0.05)
    np.testing.assert_allclose(AUTHOR_2014.stdev_rgb, [74.0, 72.0, 77.0], atol=0.06)
    for theirs in PUBLISHED_PCAS:
        vectors = np.array(theirs.eigenvectors)
        np.testing.assert_allclose(vectors.T @ vectors, np.eye(3), atol=2e-4)


def test_report_json_has_both_scales_and_survives_json() -> None:
    moments = photo_moments()
    report = stats_report(moments)
    value: dict[str, Any] = json.loads(json.dumps(report.to_json(), allow_nan=False))
    np.testing.assert_allclose(np.square(value["stdevs_255"]), value["eigenvalues_255"])
    np.testing.assert_allclose(np.square(value["stdevs_01"]), value["eigenvalues_01"])
    np.testing.assert_allclose(np.array(value["mean_rgb_01"]) * 255, value["mean_rgb_255"])
    np.testing.assert_allclose(np.array(value["stdev_rgb_01"]) * 255, value["stdev_rgb_255"])
    np.testing.assert_allclose(
        np.square(value["stdev_rgb_255"]), np.diag(moments.rgb_covariance()), rtol=1e-12
    )
    assert sum(value["explained_variance_ratio"]) == pytest.approx(1)
    assert value["angle_to_scikit_learn_degrees"] is None
    assert [side["key"] for side in value["published"]["pca"]] == ["author-2014", "lighting"]
    assert all(side["source"] for side in value["published"]["pca"])


def test_gradient_ascent_reports_its_angle_to_scikit_learn() -> None:
    report = stats_report(photo_moments(), "gradient-ascent")
    value = report.to_json()
    assert value["solver"] == "gradient-ascent"
    assert max(value["angle_to_scikit_learn_degrees"]) < 1e-6
    text = report.render()
    assert "by gradient-ascent" in text
    assert "gradient steps" in text
    assert "scikit-learn" in text


GOLDEN = """\
RGB PCA of 1,073,741,824 images of 16x16: all 274,877,906,944 pixels

Components, by scikit-learn                    PC1           PC2           PC3
  standard deviation  0-255                121.780        37.094        19.721
                      0-1                  0.47757       0.14547       0.07734
  eigenvalue          0-255               14830.26       1375.97        388.91
                      0-1                  0.22807       0.02116       0.00598
  explained variance  %                      89.37          8.29          2.34
  eigenvector         R                    +0.5635       +0.7126       +0.4180
                      G                    +0.5762       +0.0235       -0.8170
                      B                    +0.5920       -0.7012       +0.3973

Compared with published values                 PC1           PC2           PC3
  standard deviation  ours                  121.78         37.09         19.72
                      author-2014           121.78         37.09         19.72
                      lighting              118.92         34.96         17.11
  ours / theirs       author-2014            1.000         1.000         1.000
  ours / theirs       lighting               1.024         1.061         1.153
  angle, degrees      author-2014             0.00          0.00          0.00
  angle, degrees      lighting                0.59          1.69          1.65

Colour                                           R             G             B
  mean                ours, 0-1             0.4980        0.4980        0.4980
                      ours, 0-255           127.00        127.00        127.00
                      author-2014           127.30        119.72        104.91
                      common                123.67        116.28        103.53
  standard deviation  ours, 0-1             0.2902        0.2823        0.3021
                      ours, 0-255            74.00         72.00         77.04
                      author-2014            74.00         72.00         77.04
                      lighting               72.35         70.46         73.88
                      common                 58.40         57.12         57.38

Signs:"""


def test_report_of_the_authors_components_is_as_expected() -> None:
    text = stats_report(published_moments(AUTHOR_2014)).render()
    assert text.startswith(GOLDEN)


@pytest.mark.parametrize("solver", ["scikit-learn", "gradient-ascent"])
def test_report_fits_a_terminal(solver: Any) -> None:
    text = stats_report(photo_moments(), solver).render()
    assert max(len(line) for line in text.splitlines()) <= 80
    assert all(line == line.rstrip() for line in text.splitlines())


def test_report_warns_where_axes_are_not_unique() -> None:
    accumulator = MomentsAccumulator(8)
    accumulator.add(np.full((8, 8, 3), 9, dtype=np.uint8))
    report = stats_report(accumulator.moments())
    assert "PC1, PC2, PC3: equal variances" in report.render()
    json.dumps(report.to_json(), allow_nan=False)
    assert "equal variances" not in stats_report(photo_moments()).render()


def test_report_of_no_images_is_refused() -> None:
    with pytest.raises(FormatError, match="no images"):
        stats_report(Moments.empty(8))
