"""ILSVRC2010 with its test split, ImageNet of fall 2011, and a val split carved from train."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from imgprep.errors import SourceError, UsageError
from imgprep.sources.challenges import ILSVRC2010
from imgprep.sources.scan import scan_source
from imgprep.sources.scan_report import ScanReport, judge
from imgprep.sources.selection import Selection, read_class_list
from imgprep.sources.take import Take
from tests.conftest import files_of, imgprep
from tests.other_archives import (
    DEVKIT_2010,
    TEST_TRUTH_2010,
    Shape2010,
    devkit_2010,
    make_fall2011,
    make_ilsvrc2010,
)
from tests.reading import labels_of_shards, source_of
from tests.training import fit, train
from tests.trees import (
    CLASSES,
    make_archives,
    make_class_folders,
    tar_bytes,
    tiny_jpeg,
    write_files,
)

SHAPE = Shape2010()


def test_ilsvrc2010_has_labels_for_three_splits(tmp_path: Path) -> None:
    scan = scan_source(make_ilsvrc2010(tmp_path))
    assert scan.layout == "ilsvrc2010"
    assert scan.problem_counts == {}
    assert scan.evidence[-1] == f"found {DEVKIT_2010} (3 classes, 6 val labels, 9 test labels)"
    assert scan.labels.names == CLASSES
    assert [entry.devkit_id for entry in scan.labels.classes] == [3, 2, 1]
    assert {name: len(rows) for name, rows in scan.splits.items()} == {
        "train": 9, "val": 6, "test": 9,
    }  # fmt: skip
    for split in ("val", "test"):
        manifest = scan.splits[split]
        for number in range(1, len(manifest) + 1):
            assert manifest.name(number - 1) == f"{split}/ILSVRC2010_{split}_{number:08d}.JPEG"
            assert CLASSES[manifest.label(number - 1)] == SHAPE.class_of(split, number)
    verdicts = [split.verdict for split in ScanReport.from_scan(scan).splits]
    assert verdicts == ["a subset of ILSVRC2010, or another set"] * 3


def test_the_scan_says_that_patched_images_are_not_read(tmp_path: Path) -> None:
    root = make_ilsvrc2010(tmp_path)
    write_files(root, {"patch_images.tar": b""})
    scan = scan_source(root)
    said = "patch_images.tar is not read: the images that it replaces are those of the archives"
    assert said in scan.evidence
    assert len(scan.splits["train"]) == 9


def test_the_counts_of_ilsvrc2010_are_known() -> None:
    found = judge("test", 150_000, 1000, (150, 150), "any", ILSVRC2010)
    assert found == "matches ILSVRC2010"
    found = judge("train", 1_261_405, 1000, (668, 3047), "any", ILSVRC2010)
    assert found == "differs from ILSVRC2010: 1 image fewer"


def test_unpacked_ilsvrc2010_is_a_layout_of_class_folders(tmp_path: Path) -> None:
    for name, files in SHAPE.train().items():
        write_files(tmp_path / "train" / name, files)
    for split in ("val", "test"):
        files = {name.partition("/")[2]: data for name, data in SHAPE.flat(split).items()}
        write_files(tmp_path / split, files)
    for path, data in devkit_2010(SHAPE).items():
        write_files((tmp_path / path).parent, {Path(path).name: data})
    write_files(tmp_path, {TEST_TRUTH_2010: SHAPE.truth("test")})
    scan = scan_source(tmp_path)
    assert scan.layout == "class-folders"
    packed = scan_source(make_ilsvrc2010(tmp_path / "packed"))
    for split, manifest in scan.splits.items():
        other = packed.splits[split].rows
        assert manifest.rows["label"].tolist() == other["label"].tolist()
        assert manifest.rows["size_bytes"].tolist() == other["size_bytes"].tolist()


def test_a_test_split_without_labels_is_left_out_or_refused(tmp_path: Path) -> None:
    root = make_ilsvrc2010(tmp_path, truth=False)
    scan = scan_source(root)
    assert list(scan.splits) == ["train", "val"]
    assert scan.notes == (f"test is left out: its labels are not known without {TEST_TRUTH_2010}",)
    with pytest.raises(SourceError, match=f"cannot be labelled: put {TEST_TRUTH_2010} beside"):
        scan_source(root, split="test")
    write_files(root, {TEST_TRUTH_2010: SHAPE.truth("test")[:-2]})
    with pytest.raises(SourceError, match=r"has 9 test images, but .* has labels for 8"):
        scan_source(root, split="test")
    assert list(scan_source(root, split="val").splits) == ["train", "val"]
    other = make_archives(tmp_path / "other")
    ran = imgprep("scan", other, "--split", "test")
    assert ran.code == 2
    assert f"{other} has no test split whose labels are known" in ran.err


def test_a_test_split_is_built_verified_and_evaluated(tmp_path: Path) -> None:
    root = make_ilsvrc2010(tmp_path / "source", Shape2010(train_per_class=12))
    dest = tmp_path / "out"
    ran = imgprep("build-shards", root, dest, "-q")
    assert ran.code == 0, ran.err
    verified = imgprep("verify", dest, "--decode")
    assert verified.code == 0
    assert "36 train records, 6 val records, 9 test records" in verified.out
    sources, labels = source_of(dest, "test"), labels_of_shards(dest, "test")
    for key, source in sources.items():
        number = int(source.partition("_test_")[2][:8])
        assert CLASSES[labels[key]] == SHAPE.class_of("test", number)
    alone = imgprep("build-shards", root, tmp_path / "alone", "-q", "--split", "test")
    assert alone.code == 0, alone.err
    for path in dest.glob("test-*"):
        if path.suffix in (".tar", ".idx"):
            assert (tmp_path / "alone" / path.name).read_bytes() == path.read_bytes()
    fit(dest, tmp_path / "run", "--epochs", 1)
    checkpoint = next((tmp_path / "run").rglob("*.pt"))
    found = train("evaluate", checkpoint, dest, "--split", "test", "--device", "cpu", "--json")
    assert found.code == 0, found.err
    assert json.loads(found.out)["count"] == 9


def test_both_challenges_in_one_folder_need_a_choice(tmp_path: Path) -> None:
    make_ilsvrc2010(make_archives(tmp_path))
    with pytest.raises(UsageError, match="fits more than one layout") as caught:
        scan_source(tmp_path)
    assert "--layout archives: found ILSVRC2012_img_train.tar" in str(caught.value)
    assert "--layout ilsvrc2010: found ILSVRC2010_images_train.tar" in str(caught.value)
    assert scan_source(tmp_path, "archives").labels.classes[0].devkit_id == 3
    assert len(scan_source(tmp_path, "ilsvrc2010").splits["test"]) == 9


def test_fall_2011_is_one_tar_of_class_tars(tmp_path: Path) -> None:
    scan = scan_source(make_fall2011(tmp_path))
    assert scan.layout == "fall2011"
    assert scan.labels.names == CLASSES
    assert {name: len(rows) for name, rows in scan.splits.items()} == {"train": 24}
    assert [split.verdict for split in ScanReport.from_scan(scan).splits] == [""]
    part = Take(selection=Selection(only=read_class_list(CLASSES[1])), val_per_class=2)
    scan = scan_source(tmp_path, take=part)
    assert {name: len(rows) for name, rows in scan.splits.items()} == {"train": 6, "val": 2}


def test_val_is_carved_by_the_seed_and_the_class_alone(tmp_path: Path) -> None:
    counts = {CLASSES[0]: 8, CLASSES[1]: 3, CLASSES[2]: 20, "n03000001": 1}
    root = make_fall2011(tmp_path, counts)
    whole = scan_source(root).splits["train"]
    picked = {}
    for seed in (0, 1):
        scan = scan_source(root, take=Take(val_per_class=3, seed=seed))
        train_rows, val_rows = scan.splits["train"], scan.splits["val"]
        assert val_rows.split == "val"
        found = [[rows.where(i) for i in range(len(rows))] for rows in (train_rows, val_rows)]
        assert sorted(found[0] + found[1]) == sorted(whole.where(i) for i in range(len(whole)))
        by_class = [sum(name in where for where in found[1]) for name in sorted(counts)]
        assert by_class == [3, 1, 3, 0]
        assert scan.notes == (
            "7 images of train became val: 3 of each class; 2 classes have fewer than 6 and gave "
            "half",
        )
        assert scan.identity()["val_per_class"] == 3
        picked[seed] = found[1]
    assert picked[0] != picked[1]
    fewer = Take(selection=Selection(without=read_class_list(CLASSES[1])), val_per_class=3)
    part = scan_source(root, take=fewer).splits["val"]
    others = [part.where(i) for i in range(len(part))]
    assert others == [where for where in picked[0] if CLASSES[1] not in where]


def test_class_folders_without_val_get_one_and_build_it(tmp_path: Path) -> None:
    root = make_class_folders(tmp_path / "source", val="none")
    command = ["build-shards", root, tmp_path / "out", "-q", "--size", 16]
    ran = imgprep(*command, "--val-per-class", 1, "--seed", 5)
    assert ran.code == 0, ran.err
    info = json.loads((tmp_path / "out/dataset_info.json").read_bytes())
    assert info["source"]["val_per_class"] == 1
    assert {name: split["records"] for name, split in info["splits"].items()} == {
        "train": 6,
        "val": 3,
    }
    assert imgprep("verify", tmp_path / "out", "--decode").code == 0
    before = files_of(tmp_path / "out")
    ran = imgprep(*command, "--val-per-class", 1, "--seed", 5)
    assert ran.code == 0
    assert files_of(tmp_path / "out") == before
    refused = imgprep(*command, "--seed", 5)
    assert refused.code == 1
    assert "source.val_per_class: was 1, is nothing" in refused.err
    make_class_folders(tmp_path / "both")
    refused = imgprep("scan", tmp_path / "both", "--val-per-class", 1)
    assert refused.code == 2
    assert f"{tmp_path}/both has one: leave the option out" in refused.err


def test_a_val_split_is_taken_from_classes_of_any_name(tmp_path: Path) -> None:
    for name in (b"caf\xe9", b"plain"):
        folder = tmp_path / "source" / os.fsdecode(name)
        write_files(folder, {f"{n}.jpg": tiny_jpeg("a", n) for n in range(4)})
    ran = imgprep("scan", tmp_path / "source", "--val-per-class", 1, "--json")
    assert ran.code == 0, ran.err
    assert [split["images"] for split in ran.json["splits"]] == [6, 2]


def test_an_archive_without_classes_is_a_finding_also_with_a_val_split(tmp_path: Path) -> None:
    (tmp_path / "fall11_whole.tar").write_bytes(tar_bytes([("words.txt", b"none")]))
    ran = imgprep("scan", tmp_path, "--val-per-class", 1)
    assert ran.code != 0
    assert "Traceback" not in ran.err
