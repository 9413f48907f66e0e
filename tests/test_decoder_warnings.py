"""Images that are used although their decoder warned are counted, and named in the report."""

from __future__ import annotations

import json
from pathlib import Path

from imgprep.build.report import SPLIT_WARNINGS_MAX, BuildReport
from imgprep.dataset.markers import SHARD_WARNINGS_MAX, FileWarning, Marker
from tests.conftest import imgprep
from tests.trees import CLASSES, Shape, make_class_folders, tiny_jpeg


def test_a_file_with_a_decoder_warning_is_used_and_named_in_the_report(
    tmp_path: Path,
) -> None:
    folders = make_class_folders(tmp_path / "src", Shape(val_images=3))
    victims = {split: min((folders / split).rglob("*.JPEG")) for split in ("train", "val")}
    for victim in victims.values():
        victim.write_bytes(victim.read_bytes()[:-2])
    ran = imgprep("build-shards", folders, tmp_path / "out", "--shard-images", 4)
    assert ran.code == 0, ran.err
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    for split, victim in victims.items():
        (named,) = report["warnings"][split]
        assert named["where"].endswith(victim.name)
        assert named["cause"] == "the end marker (EOI) is missing"
        assert report["counts"][split]["decoder warnings"] == 1


def test_as_many_warnings_of_a_shard_are_named_as_its_marker_holds(tmp_path: Path) -> None:
    shape = Shape(
        classes=CLASSES[:2],
        train_per_class=SHARD_WARNINGS_MAX,
        val_images=2,
        image=lambda *_: tiny_jpeg("x", 1)[:-2],
    )
    source = make_class_folders(tmp_path / "src", shape)
    dest = tmp_path / "out"
    ran = imgprep(
        "build-shards", source, dest, "--split", "train", "--shard-images", 1000, "--size", 8
    )
    assert ran.code == 0, ran.err
    report = json.loads((dest / "report.json").read_text())
    assert report["counts"]["train"]["decoder warnings"] == 2 * SHARD_WARNINGS_MAX
    assert len(report["warnings"]["train"]) == SHARD_WARNINGS_MAX


def test_the_report_names_a_limited_number_of_warnings() -> None:
    named = tuple(FileWarning(where=f"{k}.JPEG", cause="x") for k in range(SHARD_WARNINGS_MAX))
    report = BuildReport()
    for number in range(SPLIT_WARNINGS_MAX // SHARD_WARNINGS_MAX + 2):
        report.add(
            Marker(
                split="val",
                number=number,
                build_sha256="",
                records=100,
                bytes=0,
                sha256="",
                idx_sha256="",
                counts={},
                skipped=(),
                warnings=named,
                rgb_second=None,
                pixel_sum_sha256=None,
            )
        )
    assert len(report.to_json()["warnings"]["val"]) == SPLIT_WARNINGS_MAX
