"""A layout is recognised, or rejected with what was found; every image gets its own label."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from imgprep.errors import SourceError, UsageError
from imgprep.sources.layouts import LAYOUT_NAMES, load_layouts
from imgprep.sources.manifest import SourceScan
from imgprep.sources.reader import SourceReader
from imgprep.sources.scan import scan_source
from tests.conftest import imgprep
from tests.layouts import SHAPE, WHOLE, archives, archives_unpacked_once, folders, kaggle_above
from tests.trees import (
    make_archives,
    make_class_folders,
    make_kaggle,
    tar_bytes,
    tiny_jpeg,
    val_name,
    words,
    write_files,
)


def contents(scan: SourceScan, split: str) -> dict[bytes, str]:
    """Class name by image bytes, read back through the manifest."""
    manifest = scan.splits[split]
    with SourceReader(scan.root, manifest) as reader:
        reader.will_need(range(len(manifest)))
        names = scan.labels.names
        return {reader.read(i): names[manifest.label(i)] for i in range(len(manifest))}


TRAIN = {data: name for name, files in SHAPE.train().items() for data in files.values()}
VAL = {data: SHAPE.val_class(number) for number, data in enumerate(SHAPE.val().values(), 1)}


@pytest.mark.parametrize("forced", [False, True])
@pytest.mark.parametrize("build", WHOLE, ids=lambda build: build.__name__)
def test_every_layout_gives_every_image_its_class(
    build: Callable[[Path], Path], forced: bool, tmp_path: Path
) -> None:
    scan = scan_source(build(tmp_path), WHOLE[build] if forced else None)
    assert scan.layout == WHOLE[build]
    assert scan.evidence
    assert scan.problem_counts == {}
    assert contents(scan, "train") == TRAIN
    assert contents(scan, "val") == VAL
    assert scan.labels.names == SHAPE.classes


def test_every_layout_is_registered_offered_and_tested() -> None:
    assert tuple(load_layouts()) == LAYOUT_NAMES
    elsewhere = {"cifar", "ilsvrc2010", "fall2011", "shards"}  # tests of their own
    assert set(WHOLE.values()) | elsewhere == set(LAYOUT_NAMES)
    assert f"[{'|'.join(LAYOUT_NAMES)}]" in imgprep("scan", "--help").out


@pytest.mark.parametrize("inside", [".", "ILSVRC", "ILSVRC/Data", "ILSVRC/Data/CLS-LOC"])
def test_a_relative_root_finds_kaggle_tables_above(
    inside: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_kaggle(tmp_path)
    monkeypatch.chdir(tmp_path / inside)
    scan = scan_source(Path())
    assert scan.layout == "kaggle"
    assert contents(scan, "val") == VAL


def test_words_and_devkit_ids_are_kept(tmp_path: Path) -> None:
    by_devkit = scan_source(make_archives(tmp_path / "a")).labels
    assert [entry.devkit_id for entry in by_devkit.classes] == [3, 2, 1]
    assert [entry.words for entry in by_devkit.classes] == [words(n) for n in SHAPE.classes]
    by_kaggle = scan_source(kaggle_above(tmp_path / "k")).labels
    assert [entry.words for entry in by_kaggle.classes] == [words(n) for n in SHAPE.classes]
    make_class_folders(tmp_path / "c", val="none")
    write_files(tmp_path / "c", {"synset_words.txt": b"n01440764 tench, Tinca tinca\n"})
    by_words = scan_source(tmp_path / "c").labels
    assert [entry.words for entry in by_words.classes] == ["tench, Tinca tinca", None, None]


def test_train_alone_and_val_alone(tmp_path: Path) -> None:
    train = scan_source(make_archives(tmp_path / "t", val=False))
    assert set(train.splits) == {"train"}
    assert contents(train, "train") == TRAIN
    make_archives(tmp_path / "v")
    (tmp_path / "v" / "ILSVRC2012_img_train.tar").unlink()
    val = scan_source(tmp_path / "v")
    assert set(val.splits) == {"val"}
    assert val.problem_counts == {}
    assert contents(val, "val") == VAL


def test_single_folder_of_class_folders_is_train(tmp_path: Path) -> None:
    make_class_folders(tmp_path, val="none")
    write_files(tmp_path / "train", {"README.txt": b"hello"})
    scan = scan_source(tmp_path / "train")
    assert set(scan.splits) == {"train"}
    assert contents(scan, "train") == TRAIN
    assert scan.oddities["files beside the class folders, ignored"] == 1
    assert scan.splits["train"].where(0) == "n01440764/n01440764_1.JPEG"


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    for name in ("bus", "car", "train"):
        write_files(tmp_path / name, {"1.jpg": tiny_jpeg(name, 1)})
    assert scan_source(tmp_path).labels.names == ("bus", "car", "train")


@pytest.mark.parametrize("val", ["val", "validation"])
def test_flat_train_and_val_never_become_two_classes(val: str, tmp_path: Path) -> None:
    write_files(tmp_path / "train", {"a.jpg": tiny_jpeg("a", 1)})
    write_files(tmp_path / val, {"b.jpg": tiny_jpeg("b", 1)})
    with pytest.raises((UsageError, SourceError)):
        scan_source(tmp_path)


def test_flat_val_is_never_labelled_by_its_folder(tmp_path: Path) -> None:
    make_class_folders(tmp_path, val="flat")
    with pytest.raises(SourceError, match=r"val cannot be labelled.*LOC_val_solution"):
        scan_source(tmp_path)


def test_a_val_tar_without_labels_is_rejected(tmp_path: Path) -> None:
    make_archives(tmp_path)
    (tmp_path / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    with pytest.raises(SourceError, match=r"ILSVRC2012_devkit_t12\.tar\.gz"):
        scan_source(tmp_path)


def test_two_layouts_are_a_usage_error_with_both_findings(tmp_path: Path) -> None:
    make_archives(tmp_path)
    make_class_folders(tmp_path)
    with pytest.raises(UsageError) as caught:
        scan_source(tmp_path)
    text = str(caught.value)
    assert "--layout archives: found ILSVRC2012_img_train.tar (" in text
    assert "--layout class-folders: found train/ with 3 class folders" in text
    assert scan_source(tmp_path, "archives").layout == "archives"
    assert scan_source(tmp_path, "class-folders").layout == "class-folders"


def test_an_unknown_layout_is_reported_with_the_content_and_the_known_layouts(
    tmp_path: Path,
) -> None:
    write_files(tmp_path, {"notes.txt": b"x"})
    with pytest.raises(UsageError) as caught:
        scan_source(tmp_path)
    for part in ("notes.txt", "--layout", "archives", "class-folders", "kaggle"):
        assert part in str(caught.value)


def test_wrong_arguments_are_usage_errors(tmp_path: Path) -> None:
    root = make_archives(tmp_path)
    with pytest.raises(
        UsageError, match=f"must be one of {', '.join(LAYOUT_NAMES)}; got 'tfrecord'"
    ):
        scan_source(root, "tfrecord")
    with pytest.raises(UsageError, match="does not have layout kaggle"):
        scan_source(root, "kaggle")
    with pytest.raises(UsageError, match="is a file; give the folder"):
        scan_source(root / "ILSVRC2012_img_train.tar")
    with pytest.raises(UsageError, match="absent does not exist"):
        scan_source(root / "absent")


def test_val_and_validation_together_are_rejected(tmp_path: Path) -> None:
    make_class_folders(tmp_path)
    write_files(tmp_path / "validation" / "n01440764", {"x.jpg": tiny_jpeg("x", 1)})
    with pytest.raises(UsageError, match="both val and validation"):
        scan_source(tmp_path)


@pytest.mark.parametrize("build", [archives, folders, archives_unpacked_once])
def test_result_does_not_depend_on_threads(build: Callable[[Path], Path], tmp_path: Path) -> None:
    root = build(tmp_path)
    write_files(root / "train" / "n01440764", {"empty.jpg": b""})
    (root / "train" / "n02085620").mkdir(parents=True, exist_ok=True)
    layout = WHOLE[build]
    scans = [scan_source(root, layout, threads=threads) for threads in (1, 2, 7, None)]
    assert len({str(scan.identity()) for scan in scans}) == 1
    assert len({scan.problems for scan in scans}) == 1


def test_order_does_not_depend_on_the_listing(tmp_path: Path) -> None:
    identities = []
    for turn in range(3):
        root = tmp_path / str(turn)
        files = [(n, f, data) for n, some in SHAPE.train().items() for f, data in some.items()]
        random.Random(turn).shuffle(files)
        for class_name, file_name, data in files:
            write_files(root / class_name, {file_name: data})
            os.utime(root / class_name / file_name, (1, 1))
        scan = scan_source(root)
        manifest = scan.splits["train"]
        pairs = [(manifest.label(i), manifest.name_bytes(i)) for i in range(len(manifest))]
        assert pairs == sorted(pairs)
        identities.append(scan.identity())
    assert identities[0] == identities[1] == identities[2]


def test_identity_names_what_changed(tmp_path: Path) -> None:
    root = make_class_folders(tmp_path)
    before = scan_source(root).identity()
    path = root / "train" / "n01440764" / "n01440764_1.JPEG"
    os.utime(path, (5, 5))
    touched = scan_source(root).identity()
    assert {key for key in before if before[key] != touched[key]} == {"train.modified_sha256"}
    path.rename(path.with_name("n01440764_0.JPEG"))
    renamed = scan_source(root).identity()
    assert {key for key in before if touched[key] != renamed[key]} == {"train.names_sha256"}


def test_progress_counts_up(tmp_path: Path) -> None:
    seen: list[int] = []
    scan_source(make_archives(tmp_path), progress=seen.append)
    assert seen == [3, 6, 9, 6]


def test_flat_val_is_matched_by_number_whatever_the_order(tmp_path: Path) -> None:
    make_archives(tmp_path)
    members = list(SHAPE.val().items())
    random.Random(1).shuffle(members)
    renamed = [(f"val/{name.replace('.JPEG', '.png')}", data) for name, data in members]
    (tmp_path / "ILSVRC2012_img_val.tar").write_bytes(tar_bytes(renamed))
    assert contents(scan_source(tmp_path), "val") == VAL
    assert renamed[0][0] != f"val/{val_name(1)}"
