"""A folder that is not a source, or only half of one, is explained with what may help."""

from __future__ import annotations

import os
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from imgprep.errors import SourceError, UsageError
from imgprep.sources.scan import scan_source
from tests.conftest import imgprep
from tests.trees import (
    Shape,
    make_archives,
    make_class_folders,
    make_devkit,
    tar_bytes,
    tiny_jpeg,
    write_files,
)

TRAIN, VAL = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"


def renamed_splits(root: Path) -> None:
    make_class_folders(root)
    (root / "train").rename(root / "Training")
    (root / "val").rename(root / "Val")


def one_folder_above(root: Path) -> None:
    make_class_folders(root / "imagenet")
    write_files(root / "notes", {"a.txt": b"x"})


HINTS: dict[Callable[[Path], object], str] = {
    renamed_splits: "What may help: rename Training to train; rename Val to val. Known",
    one_folder_above: "/imagenet is a source: use it as SOURCE. Known",
    lambda root: write_files(root, {f"{TRAIN}.gz": b"x"}): f"unpack {TRAIN}.gz first",
    lambda root: write_files(root, {"imagenet.zip": b"x"}): "unpack imagenet.zip first",
    lambda root: write_files(root, {"ILSVRC2012_img_train (1).tar": b"x"}): (
        f"rename ILSVRC2012_img_train (1).tar to {TRAIN}"
    ),
    lambda root: write_files(root, {"train-0.parquet": b"x"}): "reads images, not Parquet files",
    lambda root: write_files(root, {"train-00000-of-01024": b"x"}): "not TFRecord files",
}


@pytest.mark.parametrize("make", HINTS, ids=HINTS.values())
def test_what_may_help_is_named(make: Callable[[Path], object], tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(UsageError) as caught:
        scan_source(tmp_path)
    assert HINTS[make] in str(caught.value)


def test_nothing_is_guessed_where_nothing_helps(tmp_path: Path) -> None:
    write_files(tmp_path, {"notes.txt": b"x"})
    with pytest.raises(UsageError) as caught:
        scan_source(tmp_path)
    assert "What may help" not in str(caught.value)


def emptied(path: Path) -> None:
    path.mkdir()


def a_file(path: Path) -> None:
    path.write_bytes(b"x")


def a_broken_link(path: Path) -> None:
    path.symlink_to("unmounted")


@pytest.mark.parametrize("put", [emptied, a_file, a_broken_link])
def test_train_without_classes_never_leaves_val_alone(
    put: Callable[[Path], None], tmp_path: Path
) -> None:
    make_class_folders(tmp_path)
    shutil.rmtree(tmp_path / "train")
    assert set(scan_source(tmp_path).splits) == {"val"}
    put(tmp_path / "train")
    with pytest.raises(UsageError, match=r"train contains no class folders: complete it"):
        scan_source(tmp_path)


@pytest.mark.parametrize("put", [emptied, a_file, a_broken_link])
def test_val_that_is_left_out_is_named(put: Callable[[Path], None], tmp_path: Path) -> None:
    make_class_folders(tmp_path, val="none")
    put(tmp_path / "val")
    scan = scan_source(tmp_path)
    assert set(scan.splits) == {"train"}
    assert "val contains neither class folders nor images, and is left out" in scan.evidence


@pytest.mark.parametrize("name", [TRAIN, VAL])
@pytest.mark.parametrize("put", [emptied, a_broken_link])
def test_an_archive_that_is_not_a_file_stops_the_scan(
    put: Callable[[Path], None], name: str, tmp_path: Path
) -> None:
    make_archives(tmp_path)
    (tmp_path / name).unlink()
    put(tmp_path / name)
    with pytest.raises(UsageError, match=f"{name} is not a file, or a link whose target"):
        scan_source(tmp_path)


@pytest.mark.parametrize("prefix", ["", "train/n01440764/"])
def test_a_train_tar_that_was_repacked_is_named(prefix: str, tmp_path: Path) -> None:
    members = [(f"{prefix}{number}.JPEG", b"x") for number in range(5)]
    write_files(tmp_path, {TRAIN: tar_bytes(members)})
    with pytest.raises(SourceError, match=f"contains no class tars, but {prefix}0.JPEG"):
        scan_source(tmp_path)


def test_a_devkit_of_another_set_stops_the_scan(tmp_path: Path) -> None:
    make_archives(tmp_path)
    make_devkit(tmp_path, Shape(classes=("n1", "n2", "n3")))
    with pytest.raises(SourceError, match=r"which lists 3 classes such as 'n1': it belongs to"):
        scan_source(tmp_path)


@pytest.mark.parametrize(
    ("in_train", "in_val"),
    [(unicodedata.normalize("NFC", "café"), unicodedata.normalize("NFD", "café")), ("Cat", "cat")],
)
def test_a_class_name_in_two_forms_is_explained(in_train: str, in_val: str, tmp_path: Path) -> None:
    for split, name in (("train", in_train), ("val", in_val)):
        write_files(tmp_path / split / name, {"a.jpg": tiny_jpeg(name, 1)})
    with pytest.raises(SourceError, match="in another Unicode form or in other letter case"):
        scan_source(tmp_path)


def make_tiny_imagenet(root: Path) -> Path:
    """The shape of tiny-imagenet-200."""
    for name in Shape().classes:
        write_files(root / "train" / name / "images", {f"{name}_0.JPEG": tiny_jpeg(name, 0)})
        write_files(root / "train" / name, {f"{name}_boxes.txt": b"x"})
    write_files(root / "val" / "images", {"val_0.JPEG": tiny_jpeg("v", 0)})
    write_files(root / "val", {"val_annotations.txt": b"x"})
    write_files(root / "test" / "images", {"test_0.JPEG": tiny_jpeg("t", 0)})
    return root


@pytest.mark.parametrize("inside", ["", "train"])
def test_images_one_folder_deeper_are_explained_and_the_fix_works(
    inside: str, tmp_path: Path
) -> None:
    root = make_tiny_imagenet(tmp_path / "tiny imagenet") / inside
    ran = imgprep("scan", root)
    assert ran.code == 2
    assert "images are one folder deeper than expected" in ran.err
    command = ran.err.strip().splitlines()[-1].replace("LINKS", str(tmp_path / "links"))
    assert os.waitstatus_to_exitcode(os.system(command)) == 0
    scan = scan_source(tmp_path / "links")
    assert scan.labels.names == Shape().classes
    assert len(scan.splits["train"]) == 3
    assert scan.problem_counts == {}
