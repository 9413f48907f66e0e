"""Estimates of disk and time: the check before a build, and the dry run."""

from __future__ import annotations

from pathlib import Path

import pytest

from imgprep.build.build_time import BUILD_WORK, expected_seconds
from imgprep.build.estimate import check_space, record_bytes_guess
from imgprep.errors import DestinationError
from imgprep.processors import processors
from imgprep.spec import ImageSpec
from imgprep.storage.local import LocalStore
from tests.conftest import imgprep

SPECS = (
    ImageSpec(),
    ImageSpec(quality=75),
    ImageSpec(subsampling="444"),
    ImageSpec(encoding="png"),
    ImageSpec(encoding="raw"),
    ImageSpec(size_px=128),
)


@pytest.mark.parametrize("spec", SPECS)
def test_the_guess_is_near_the_size_of_photographs(
    mini: Path, tmp_path: Path, spec: ImageSpec
) -> None:
    arguments = ("--size", spec.size_px, "--encoding", spec.encoding, "--quality", spec.quality)
    ran = imgprep(
        "build-shards", mini, tmp_path, *arguments, "--subsampling", spec.subsampling,
        "--dry-run", "--json",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    measured = ran.json["total_bytes"] / ran.json["images"]
    assert 0.5 < measured / record_bytes_guess(spec) < 1.25


def test_more_jobs_than_processors_do_not_shorten_the_time(mini: Path, tmp_path: Path) -> None:
    ran = imgprep("build-shards", mini, tmp_path, "--dry-run", "--json", "--jobs", 500)
    assert ran.json["jobs"] == processors()


def test_the_expected_time_counts_all_work_of_a_build() -> None:
    alone = expected_seconds(1000, image_seconds=0.002, workers=1)
    assert alone == pytest.approx(1000 * 0.002 * BUILD_WORK)
    assert expected_seconds(1000, image_seconds=0.002, workers=4) == pytest.approx(alone / 4)


def test_a_build_that_cannot_fit_is_refused_before_it_starts(tmp_path: Path) -> None:
    spec = ImageSpec(encoding="raw")
    fits = int(LocalStore(tmp_path).free_bytes() / record_bytes_guess(spec))
    check_space(tmp_path / "not" / "yet" / "there", spec, fits // 2, 1)
    with pytest.raises(DestinationError, match=r"needed for .* images, .* free"):
        check_space(tmp_path, spec, 2 * fits, 1)


def test_free_space_is_that_of_the_file_system_to_be_written(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b" / "c"
    assert abs(LocalStore(deep).free_bytes() - LocalStore(tmp_path).free_bytes()) < 2**30
