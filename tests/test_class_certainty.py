"""Clutter never becomes a class, and a class list that may be wrong stops a build."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from imgprep.errors import SourceError, UsageError
from imgprep.sources.classes import check_classes
from imgprep.sources.clutter import CLUTTER, is_clutter, is_clutter_path
from imgprep.sources.scan import scan_source
from imgprep.sources.scan_report import ScanReport
from tests.conftest import imgprep
from tests.test_bad_input import check_labels
from tests.trees import (
    Shape,
    make_archives,
    make_class_folders,
    make_devkit,
    tar_bytes,
    tiny_jpeg,
    write_files,
)

ANIMALS = Shape(classes=("ant", "bee", "cat"))
NOT_IMAGES = ("@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found",
              "@Recycle", "@Recently-Snapshot", "#snapshot", "__MACOSX", ".Trash-1000", ".git",
              "RECYCLER", "FOUND.000", "@tmp", "__pycache__", ".ipynb_checkpoints", "~snapshot",
              "lost+FOUND", "aaa~")  # fmt: skip


@pytest.mark.parametrize("val", ["folders", "none"])
@pytest.mark.parametrize("name", NOT_IMAGES)
def test_clutter_beside_the_classes_is_not_a_class(name: str, val: str, tmp_path: Path) -> None:
    make_class_folders(tmp_path, ANIMALS, val=val)
    for split in tmp_path.iterdir():
        write_files(split / name / "ant", {"thumb.jpg": tiny_jpeg("x", 1)})
        write_files(split / name, {"thumb.jpg": tiny_jpeg("x", 1)})
        write_files(split / "ant" / name, {"thumb.jpg": tiny_jpeg("x", 1)})
    scan = scan_source(tmp_path)
    assert scan.labels.names == ANIMALS.classes
    assert scan.problem_counts == {}
    assert scan.class_doubts == ()
    assert scan.oddities["hidden or clutter files, ignored"] == (4 if val == "folders" else 2)
    assert len(scan.splits["train"]) == 9


@pytest.mark.parametrize("name", NOT_IMAGES)
def test_clutter_in_a_tar_is_not_an_image(name: str, tmp_path: Path) -> None:
    inner = tar_bytes(
        [("a.JPEG", b"1"), (f"{name}/a.JPEG/SYNOPHOTO_THUMB_M.jpg", b"2"), (f"x/{name}", b"3")]
    )
    outer = [("ant.tar", inner), (f"{name}/bee.tar", inner)]
    (tmp_path / "ILSVRC2012_img_train.tar").write_bytes(tar_bytes(outer))
    scan = scan_source(tmp_path)
    assert scan.labels.names == ("ant",)
    assert len(scan.splits["train"]) == 1
    assert scan.problem_counts == {}


def test_names_that_are_not_clutter() -> None:
    for name in (b"recycle", b"snapshot", b"n01440764", b"a.JPEG", b"@home", b"#1", b"trash", b"..",
                 b"temp", b"backup", b"thumbs", b"cat~1.jpg", b"$10", b"found.jpg"):  # fmt: skip
        assert not is_clutter(name)
    assert not is_clutter_path(b"./a/../b.JPEG")
    assert all(is_clutter(name.upper()) for name in CLUTTER)
    for path in (b"a.jpg:Zone.Identifier", b"._a.jpg", b"#a.jpg#", b"a.jpg~", b"~$a.doc",
                 b"ant/@eaDir/a.jpg", b"a.jpg@SynoEAStream", b"ant_$folder$"):  # fmt: skip
        assert is_clutter_path(path)


def notes_folder(root: Path) -> str:
    write_files(root / "train" / "bats" / "empty", {})
    return "train/bats: contains no file that is named like an image; as a class it takes label 1"


def folder_of_texts(root: Path) -> str:
    write_files(root / "train" / "annotations", {"ant.xml": b"<a/>", "bee.xml": b"<a/>"})
    return "as a class it takes label 0 and moves the labels after it by one"


def broken_class_link(root: Path) -> str:
    (root / "train" / "bat").symlink_to("nowhere")
    return "train/bat: the target of the link does not exist; it may be a class"


def looping_class_link(root: Path) -> str:
    (root / "train" / "bat").symlink_to("bat")
    return "train/bat: the target of the link does not exist; it may be a class"


DOUBTFUL = [notes_folder, folder_of_texts, broken_class_link, looping_class_link]


@pytest.mark.parametrize("policy", ["fail", "skip"])
@pytest.mark.parametrize("make", DOUBTFUL, ids=lambda make: make.__name__)
def test_an_uncertain_class_stops_a_build_under_either_policy(
    make: Callable[[Path], str], policy: str, tmp_path: Path
) -> None:
    source = make_class_folders(tmp_path / "source", ANIMALS)
    says = make(source)
    dest = tmp_path / "out"
    ran = imgprep("build-shards", source, dest, "--on-error", policy, "--jobs", 1)
    assert ran.code == 1
    assert says in ran.err
    assert "Traceback" not in ran.err
    assert not dest.exists()
    order = imgprep("scan", source, "--json").json["order_sha256"][:12]
    assert f"--label-order {order}" in ran.err


@pytest.mark.parametrize("make", DOUBTFUL, ids=lambda make: make.__name__)
def test_confirmed_classes_are_built(make: Callable[[Path], str], tmp_path: Path) -> None:
    source = make_class_folders(tmp_path / "source", ANIMALS)
    make(source)
    scan = scan_source(source)
    order = scan.labels.order_sha256
    options = ("--size", 16, "--jobs", 1, "--on-error", "skip", "--label-order")
    wrong = imgprep("build-shards", source, tmp_path / "out", *options, "0" * 12)
    assert wrong.code == 2
    assert order[:12] in wrong.err
    ran = imgprep("build-shards", source, tmp_path / "out", *options, order[:12])
    assert ran.code == 3, ran.err
    labels = json.loads((tmp_path / "out" / "labels.json").read_bytes())
    assert [entry["name"] for entry in labels["classes"]] == list(scan.labels.names)
    check_labels(tmp_path / "out")


def test_a_label_order_is_checked_where_the_classes_are_certain(tmp_path: Path) -> None:
    scan = scan_source(make_class_folders(tmp_path, ANIMALS))
    check_classes(scan, None)
    check_classes(scan, scan.labels.order_sha256.upper())
    for wrong in ("", scan.labels.order_sha256[:11], "0" * 64):
        with pytest.raises(UsageError, match=r"the 3 classes of .* have the order"):
            check_classes(scan, wrong)


def test_classes_are_evident_by_images_by_the_other_split_or_by_a_list(tmp_path: Path) -> None:
    make_class_folders(tmp_path, ANIMALS)
    for path in (tmp_path / "train" / "ant").iterdir():
        path.write_bytes(b"")  # Empty files, but named like images.
    for path in (tmp_path / "train" / "bee").iterdir():
        path.unlink()  # Val still has images of this class.
    (tmp_path / "train" / "dog").mkdir()
    (tmp_path / "train" / "n00000001").mkdir()
    assert [one.where for one in scan_source(tmp_path).class_doubts] == ["train/dog"]
    write_files(tmp_path, {"synset_words.txt": b"dog a dog\n"})
    scan = scan_source(tmp_path)
    assert scan.class_doubts == ()
    assert scan.problem_counts == {"empty-class": 4, "empty-file": 3}
    assert scan.labels.names == (*ANIMALS.classes, "dog", "n00000001")


def test_images_whose_names_have_no_ending_are_evidence(tmp_path: Path) -> None:
    for name in ANIMALS.classes:
        write_files(tmp_path / "train" / name, {"0001": tiny_jpeg(name, 1)})
    assert scan_source(tmp_path).class_doubts == ()


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_cut_train_tar_is_certain_only_with_the_official_list(
    share: float, tmp_path: Path
) -> None:
    make_archives(tmp_path, Shape(train_per_class=12), val=False)
    path = tmp_path / "ILSVRC2012_img_train.tar"
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(SourceError, match="may be lost"):
        check_classes(scan_source(tmp_path), None)
    make_devkit(tmp_path, Shape())
    # With one or two of the three classes it is a subset, to which the list does not apply.
    assert (scan_source(tmp_path).class_doubts == ()) == (share > 0.8)


@pytest.mark.parametrize(
    ("name", "kind", "lost"),
    [
        ("../bat.tar", tarfile.REGTYPE, True),
        ("bat.tar", tarfile.SYMTYPE, True),
        ("bat.tar.gz", tarfile.REGTYPE, True),
        ("README", tarfile.REGTYPE, False),
        ("docs", tarfile.DIRTYPE, False),
    ],
)
def test_members_of_the_train_tar_that_may_be_classes(
    name: str, kind: bytes, lost: bool, tmp_path: Path
) -> None:
    odd = tarfile.TarInfo(name)
    odd.type = kind
    one = tar_bytes([("a.JPEG", b"1")])
    members = [(tarfile.TarInfo("ant.tar"), one), (odd, b""), (tarfile.TarInfo("cat.tar"), one)]
    (tmp_path / "ILSVRC2012_img_train.tar").write_bytes(tar_bytes(members))
    assert bool(scan_source(tmp_path).class_doubts) == lost


def test_a_class_tar_whose_link_is_broken_is_reported(tmp_path: Path) -> None:
    write_files(tmp_path, {"n01440764.tar": tar_bytes([("a.JPEG", b"1")])})
    (tmp_path / "n01443537.tar").symlink_to("nowhere")
    scan = scan_source(tmp_path)
    assert scan.problem_counts == {"broken-link": 1}
    assert [one.where for one in scan.class_doubts] == ["n01443537.tar"]


def test_a_class_beside_the_official_list_is_noted(tmp_path: Path) -> None:
    make_archives(tmp_path)
    path = tmp_path / "ILSVRC2012_img_train.tar"
    inner = {f"{name}.tar": tar_bytes(files.items()) for name, files in Shape().train().items()}
    inner["goldfinch.tar"] = tar_bytes([("a.JPEG", b"1")])
    path.write_bytes(tar_bytes(inner.items()))
    scan = scan_source(tmp_path)
    assert scan.labels.names[0] == "goldfinch"
    assert scan.notes == (
        "1 class is not in ILSVRC2012_devkit_t12.tar.gz, such as 'goldfinch': the labels after it "
        "differ from those of ILSVRC2012",
    )
    assert scan.notes[0] in ScanReport.from_scan(scan).render()


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (("0", "1", "10", "2"), "label 2 is class 10, not 2; pad the names with zeros"),
        (("8", "9"), ""),
        (("08", "09", "10"), ""),
        (("a", "10", "9"), ""),
    ],
)
def test_numbers_out_of_numeric_order_are_noted(
    names: tuple[str, ...], says: str, tmp_path: Path
) -> None:
    make_class_folders(tmp_path, Shape(classes=names), val="none")
    ran = imgprep("scan", tmp_path)
    assert ran.code == 0
    assert ("class names are numbers" in ran.out) == bool(says)
    assert says in ran.out


def test_train_alone_does_not_need_a_val_that_can_be_labelled(tmp_path: Path) -> None:
    source = make_archives(tmp_path / "source", Shape(train_per_class=12))
    reference = tmp_path / "whole"
    options = ("--split", "train", "--size", 16, "--jobs", 1)
    assert imgprep("build-shards", source, reference, *options).code == 0
    devkit = source / "ILSVRC2012_devkit_t12.tar.gz"
    kept = devkit.read_bytes()
    devkit.unlink()
    assert imgprep("build-shards", source, tmp_path / "all", "--jobs", 1).code == 1
    ran = imgprep("build-shards", source, tmp_path / "train", *options)
    assert ran.code == 0, ran.err
    assert "val is left out: ILSVRC2012_img_val.tar cannot be labelled" in ran.err
    shards = sorted(path.name for path in reference.glob("train-*.tar"))
    assert shards
    for name in shards:
        assert (reference / name).read_bytes() == (tmp_path / "train" / name).read_bytes()
    devkit.write_bytes(kept)
    with (source / "ILSVRC2012_img_val.tar").open("r+b") as file:
        file.truncate(3000)
    ran = imgprep("build-shards", source, tmp_path / "cut", *options)
    assert ran.code == 0, ran.err
    assert "number 00000003 is missing" in ran.err


def test_train_alone_ignores_problems_of_val(tmp_path: Path) -> None:
    make_class_folders(tmp_path, ANIMALS)
    write_files(tmp_path / "val" / "ant", {"empty.JPEG": b""})
    assert scan_source(tmp_path).problem_counts == {"empty-file": 1}
    assert scan_source(tmp_path, split="train").problem_counts == {}
    write_files(tmp_path / "val" / "dog", {"a.JPEG": tiny_jpeg("dog", 1)})
    with pytest.raises(SourceError, match="'dog'"):
        scan_source(tmp_path)
    scan = scan_source(tmp_path, split="train")
    assert set(scan.splits) == {"train"}
    assert scan.labels.names == ANIMALS.classes


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda root: make_class_folders(root), 0),
        (lambda root: (make_class_folders(root) / "train" / "bat").mkdir(), 3),
        (lambda root: write_files(make_class_folders(root) / "val" / "n1", {"a.jpg": b""}), 1),
        (lambda root: write_files(make_class_folders(root) / "train" / "a", {"a.jpg": b""}), 3),
        (lambda root: write_files(root, {"ILSVRC2012_img_train.tar": b""}), 3),
        (lambda root: write_files(root, {"ILSVRC2012_img_train.tar": bytes(10240)}), 3),
    ],
)
def test_scan_exits_with_3_where_a_build_would_stop(
    make: Callable[[Path], object], code: int, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    make(source)
    assert imgprep("scan", source).code == code
    built = imgprep("build-shards", source, tmp_path / "out", "--jobs", 1, "--size", 16)
    assert (built.code == 0) == (code == 0)
