"""A small source in every arrangement that is supported, and the layout of each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.trees import (
    Shape,
    kaggle_solution,
    make_archives,
    make_class_folders,
    make_devkit,
    make_kaggle,
    tar_bytes,
    write_files,
)

SHAPE = Shape()


def archives(root: Path) -> Path:
    return make_archives(root)


def archives_unpacked_once(root: Path) -> Path:
    write_files(root, {f"{n}.tar": tar_bytes(files.items()) for n, files in SHAPE.train().items()})
    write_files(root, {"ILSVRC2012_img_val.tar": tar_bytes(SHAPE.val().items())})
    make_devkit(root, SHAPE)
    return root


def archives_with_kaggle_truth(root: Path) -> Path:
    make_archives(root)
    (root / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    write_files(root, {"LOC_val_solution.csv": kaggle_solution(SHAPE)})
    return root


def folders(root: Path) -> Path:
    return make_class_folders(root)


def folders_validation(root: Path) -> Path:
    make_class_folders(root)
    (root / "val").rename(root / "validation")
    return root


def folders_flat_devkit(root: Path) -> Path:
    make_class_folders(root, val="flat")
    make_devkit(root, SHAPE, packed=False)
    return root


def folders_flat_kaggle(root: Path) -> Path:
    make_class_folders(root, val="flat")
    write_files(root, {"LOC_val_solution.csv": kaggle_solution(SHAPE)})
    return root


def kaggle_above(root: Path) -> Path:
    make_kaggle(root)
    return root


def kaggle_ilsvrc(root: Path) -> Path:
    make_kaggle(root)
    return root / "ILSVRC"


def kaggle_cls_loc(root: Path) -> Path:
    return make_kaggle(root)


WHOLE: dict[Callable[[Path], Path], str] = {
    archives: "archives",
    archives_unpacked_once: "archives",
    archives_with_kaggle_truth: "archives",
    folders: "class-folders",
    folders_validation: "class-folders",
    folders_flat_devkit: "class-folders",
    folders_flat_kaggle: "class-folders",
    kaggle_above: "kaggle",
    kaggle_ilsvrc: "kaggle",
    kaggle_cls_loc: "kaggle",
}
