"""Same source, spec and seed: the same bytes, in whatever way the build is run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.conftest import files_of, imgprep


@pytest.mark.parametrize("jobs", [1, 3])
def test_number_of_workers_does_not_matter(
    mini: Path, built: Path, tmp_path: Path, jobs: int
) -> None:
    ran = imgprep(
        "build-shards", mini, tmp_path / "out", "--jobs", jobs, "--shard-images", 20, afresh=True
    )
    assert ran.code == 0, ran.err
    assert files_of(tmp_path / "out") == files_of(built)


@pytest.mark.parametrize(("variable", "value"), [("IMGPREP_JPEG", "full"), ("IMGPREP_KERNEL", "c")])
def test_the_fast_code_gives_the_bytes_of_the_plain_code(
    mini: Path,
    built: Path,
    tmp_path: Path,
    variable: str,
    value: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(variable, value)
    ran = imgprep("build-shards", mini, tmp_path / "out", "--jobs", 2, "--shard-images", 20)
    assert ran.code == 0, ran.err
    assert files_of(tmp_path / "out") == files_of(built)
    monkeypatch.setenv(variable, "turbo")
    ran = imgprep("build-shards", mini, tmp_path / "other")
    assert ran.code == 2
    assert f"{variable} must be " in ran.err
    assert "got 'turbo'" in ran.err
    assert not (tmp_path / "other").exists()


def test_place_of_the_source_does_not_matter(mini: Path, built: Path, tmp_path: Path) -> None:
    shutil.copytree(mini, tmp_path / "moved")  # new place; copytree keeps the times
    ran = imgprep("build-shards", tmp_path / "moved", tmp_path / "out", "--shard-images", 20)
    assert ran.code == 0, ran.err
    assert files_of(tmp_path / "out") == files_of(built)


def test_seed_changes_the_order_and_not_the_statistics(
    mini: Path, built: Path, tmp_path: Path
) -> None:
    arguments = ("--shard-images", 20, "--seed", 7)
    ran = imgprep("build-shards", mini, tmp_path / "out", *arguments, afresh=True)
    assert ran.code == 0, ran.err
    ours, theirs = files_of(tmp_path / "out"), files_of(built)
    assert ours["train-000000.tar"] != theirs["train-000000.tar"]
    for name in ("mean_image.npy", "pixel_sum.npy", "rgb_pca.json", "labels.json"):
        assert ours[name] == theirs[name]
    assert ours["dataset_info.json"] != theirs["dataset_info.json"]


def test_shards_record_no_clock(built: Path, mini: Path, tmp_path: Path) -> None:
    """Marker and index of a build at another time have the same bytes."""
    assert imgprep("build-shards", mini, tmp_path / "out", "--shard-images", 20).code == 0
    assert (tmp_path / "out" / "dataset_info.json").read_bytes() == (
        built / "dataset_info.json"
    ).read_bytes()
