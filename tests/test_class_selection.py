"""A build or a scan of some classes: published lists, ids, files, and the bytes that are read."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from imgprep.errors import SourceError, UsageError
from imgprep.sources.reader import SourceReader
from imgprep.sources.scan import scan_source
from imgprep.sources.selection import LIST_NAMES, Selection, read_class_list
from imgprep.sources.take import Take
from tests.conftest import REPOSITORY, imgprep
from tests.layouts import WHOLE
from tests.objectstore import ObjectStore
from tests.reading import labels_of_shards
from tests.remote_source import put_tree
from tests.trees import (
    CLASSES,
    Shape,
    make_archives,
    make_class_folders,
    make_devkit,
    tar_bytes,
    val_name,
    write_files,
)

TRAIN = "ILSVRC2012_img_train.tar"
TWO = f"{CLASSES[2]},{CLASSES[0]}"
LISTS = {
    "imagenet-100": (100, "d61d354b64beb3ce2c2c9cf04a874298362dc9fcd589e15ee34c5e4592145746"),
    "imagenette": (10, "7fd320a0db9278e1d61bad4b60fa16be117f8d8adcfe4d03fb5c95672bae6033"),
    "imagewoof": (10, "ff9b3d8146a9fdff9a87fc5904098ff96dc362fd40aa5f9203156680d911da00"),
}


def take(only: str = "", without: str = "") -> Take:
    return Take(
        selection=Selection(
            only=read_class_list(only) if only else None,
            without=read_class_list(without) if without else None,
        )
    )


@pytest.mark.parametrize("name", LIST_NAMES)
def test_published_lists_are_complete(name: str) -> None:
    found = read_class_list(name)
    names = sorted(found.classes)
    count, sha256 = LISTS[name]
    assert (found.name, len(names), found.sha256) == (name, count, sha256)
    assert hashlib.sha256("\n".join(names).encode()).hexdigest() == sha256
    assert all(len(each) == 9 and each[0] == "n" and each[1:].isdigit() for each in names)


@pytest.mark.parametrize("build", WHOLE, ids=lambda build: build.__name__)
def test_every_layout_gives_the_chosen_classes_alone(
    build: Callable[[Path], Path], tmp_path: Path
) -> None:
    root = build(tmp_path)
    whole = scan_source(root)
    for chosen in (take(TWO), take(without=CLASSES[1])):
        part = scan_source(root, take=chosen)
        assert part.labels.names == (CLASSES[0], CLASSES[2])
        assert part.problem_counts == {}
        assert part.class_doubts == ()
        assert part.source_classes == 3
        for split, manifest in part.splits.items():
            rows = whole.splits[split]
            expected = [
                (rows.where(i), {0: 0, 2: 1}[rows.label(i)])
                for i in range(len(rows))
                if rows.label(i) != 1
            ]
            assert expected
            assert [
                (manifest.where(i), manifest.label(i)) for i in range(len(manifest))
            ] == expected


def test_images_of_the_chosen_classes_are_those_that_are_read(tmp_path: Path) -> None:
    shape = Shape()
    for root in (make_archives(tmp_path / "a"), make_class_folders(tmp_path / "f", val="none")):
        scan = scan_source(root, take=take(TWO))
        for split, manifest in scan.splits.items():
            content = shape.val()
            for name in shape.classes:
                content |= shape.train()[name]
            with SourceReader(root, manifest) as reader:
                for i in range(len(manifest)):
                    assert reader.read(i) == content[manifest.name(i)], split


COUNT_BYTES = """
import sys
from pathlib import Path
from imgprep.sources.reader import SourceReader
from imgprep.sources.scan import scan_source
from tests.test_class_selection import TWO, take

def bytes_read():
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["rchar"])

chosen = take(TWO)
scan_source(sys.argv[1])  # imports what a scan needs
before = bytes_read()
scan = scan_source(sys.argv[1], take=chosen)
for manifest in scan.splits.values():
    with SourceReader(scan.root, manifest) as reader:
        for i in range(len(manifest)):
            reader.read(i)
print(bytes_read() - before)
"""


def large_archives(root: Path) -> Path:
    """Nine classes of 4 images of 120 to 600 KB, with 36 validation images."""

    def noise(name: str, number: int) -> bytes:
        return np.random.default_rng(number).bytes(120_000 + 120_000 * (number % 5))

    classes = (*CLASSES, *(f"n0300000{at}" for at in range(6)))
    shape = Shape(classes=classes, train_per_class=4, val_images=36, image=noise)
    return make_archives(root, shape)


def test_only_the_bytes_of_the_chosen_classes_are_read(tmp_path: Path) -> None:
    root = large_archives(tmp_path)
    scan = scan_source(root, take=take(TWO))
    stored = sum(manifest.total_bytes for manifest in scan.splits.values())
    assert {name: len(rows) for name, rows in scan.splits.items()} == {"train": 8, "val": 8}
    assert 4 * stored < sum(path.stat().st_size for path in root.iterdir())
    ran = subprocess.run(
        [sys.executable, "-c", COUNT_BYTES, str(root)],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        check=True,
    )
    assert stored < int(ran.stdout) <= 1.02 * stored


def test_a_store_sends_only_headers_of_the_chosen_classes(s3: ObjectStore, tmp_path: Path) -> None:
    url = put_tree(s3, large_archives(tmp_path), "ilsvrc")
    path = f"/{s3.bucket}/ilsvrc/{TRAIN}"
    sent = []
    for options in ([], ["--classes", TWO]):
        s3.proxy.served.clear()
        ran = imgprep("scan", url, "--json", *options)
        assert ran.code == 0, ran.err
        sent.append(s3.proxy.served[path])
    # Nine headers of class tars, then those of 4 images and an end in each class tar.
    assert sent[1] < 0.45 * sent[0]


def test_a_build_records_the_list_and_refuses_another(tmp_path: Path) -> None:
    root = make_archives(tmp_path / "source")
    write_files(tmp_path, {"two.txt": f"# ours\n{CLASSES[2]}\r\n\n{CLASSES[0]}\n".encode()})
    build = ["build-shards", root, tmp_path / "out", "--size", 16, "-q"]
    ran = imgprep(*build, "--classes", tmp_path / "two.txt")
    assert ran.code == 0, ran.err
    info = json.loads((tmp_path / "out/dataset_info.json").read_bytes())
    order = info["label_order_sha256"]
    assert info["source"]["selection.classes"] == "file"
    assert info["source"]["selection.classes_sha256"] == order
    assert info["classes"] == 2
    for split in ("train", "val"):
        labels = labels_of_shards(tmp_path / "out", split)
        assert set(labels.values()) == {0, 1}
    assert imgprep("verify", tmp_path / "out", "--decode").code == 0
    assert imgprep(*build, "--classes", tmp_path / "two.txt").code == 0
    for other in ([], ["--exclude", CLASSES[0]], ["--classes", CLASSES[1]]):
        refused = imgprep(*build, *other)
        assert refused.code == 1
        assert f"{tmp_path}/out was started with other classes:" in refused.err
        assert "selection.classes: was file, is " in refused.err
        assert "names_sha256" not in refused.err
        assert "Give the same --classes and --exclude" in refused.err


def test_ids_and_a_file_of_the_same_classes_make_the_same_shards(tmp_path: Path) -> None:
    root = make_class_folders(tmp_path / "source")
    write_files(tmp_path, {"ids": f"{CLASSES[0]}\n{CLASSES[2]}\n".encode()})
    prints = []
    for name, option in (("a", ["--classes", TWO]), ("b", ["--exclude", CLASSES[1]])):
        ran = imgprep("build-shards", root, tmp_path / name, "--size", 16, "-q", *option)
        assert ran.code == 0, ran.err
        info = json.loads((tmp_path / name / "dataset_info.json").read_bytes())
        prints.append(info["fingerprint"])
    assert prints[0] == prints[1]
    source = json.loads((tmp_path / "b/dataset_info.json").read_bytes())["source"]
    assert source["selection.exclude"] == "ids"
    assert "selection.classes" not in source


def test_scan_and_dry_run_say_what_is_selected(tmp_path: Path) -> None:
    root = make_archives(tmp_path / "source")
    scan = imgprep("scan", root, "--classes", TWO, "--split", "train")
    assert scan.code == 0, scan.err
    assert "classes   2 (order sha256 " in scan.out
    assert "selection 2 classes by id, of 3 in the source" in scan.out
    assert "\ntrain " in scan.out
    assert "\nval " not in scan.out
    dry = imgprep("build-shards", root, tmp_path / "out", "--exclude", TWO, "--dry-run")
    assert dry.code == 0, dry.err
    assert "selection all classes, without 2 classes by id\n" in dry.out
    assert "classes   1\n" in dry.out
    assert "images    5 (3 train, 2 val)\n" in dry.out
    assert "all classes, without 2 classes by id, of 3 in the source" in dry.err


def test_a_class_that_the_source_lacks_is_named_with_what_is_close(tmp_path: Path) -> None:
    root = make_class_folders(tmp_path, val="none")
    with pytest.raises(UsageError, match="but not") as caught:
        scan_source(root, take=take("n01440764,n01443573,Zebra"))
    assert str(caught.value) == (
        "--classes 3 classes by id: the source has 3 classes, but not 'Zebra', 'n01443573' (did "
        "you mean 'n01443537'?): correct the list, or complete the source"
    )
    with pytest.raises(UsageError, match=r"--exclude 1 class by id: .* 'N01440764' .did you mean"):
        scan_source(root, take=take(without="N01440764"))
    with pytest.raises(UsageError, match=r"--classes imagenet-100 .* and 91 more"):
        scan_source(root, take=take("imagenet-100", CLASSES[0]))
    with pytest.raises(UsageError, match="no class is left"):
        scan_source(root, take=take(without=",".join(CLASSES)))


def test_faults_of_other_classes_do_not_stop_a_build(tmp_path: Path) -> None:
    root = make_archives(tmp_path, Shape(val_images=6))
    files = dict(Shape().val())
    files[val_name(1)] = b""  # of class CLASSES[0]
    (root / "ILSVRC2012_img_val.tar").write_bytes(tar_bytes(files.items()))
    assert scan_source(root).problem_counts == {"empty-file": 1}
    assert Shape().val_class(1) == CLASSES[0]
    assert scan_source(root, take=take(without=CLASSES[0])).problem_counts == {}
    folders = make_class_folders(tmp_path / "folders", val="none") / "train"
    write_files(folders / CLASSES[1], {"empty.JPEG": b""})
    (folders / "gone").symlink_to("nowhere")
    (folders / "notes").mkdir()
    part = scan_source(tmp_path / "folders", take=take(TWO))
    assert part.problem_counts == {}
    assert part.class_doubts == ()


def test_truth_of_another_set_is_not_taken_for_an_empty_val(tmp_path: Path) -> None:
    root = make_archives(tmp_path)
    other = Shape(classes=("n09000001", "n09000002"))
    make_devkit(root, other)
    with pytest.raises(SourceError, match="labels no image of the classes"):
        scan_source(root, take=take(TWO))
    part = scan_source(root, take=take(TWO), split="train")
    assert list(part.splits) == ["train"]


BAD_LISTS = {
    b"n01\nn02\0\n": "line 2: 'n02\\x00' contains a null byte",
    b"n01\n\nn01\n": "line 3: class 'n01' is listed twice, first in line 1",
    b"\xff\n": "line 1: not UTF-8 text: save the list as UTF-8",
    b"# nothing\n\n": "lists no classes: write one a line",
    b"a" * 300: "line 1: a name of more than 255 bytes: write one a line",
    b"a\n../b\n": "line 2: '../b' is a path, not the name of a class",
}


@pytest.mark.parametrize("content", BAD_LISTS, ids=lambda content: repr(content[:9]))
def test_malformed_lists_are_rejected_with_their_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read_class_list(str(path))
    assert str(caught.value).startswith(f"{path}")
    assert BAD_LISTS[content] in str(caught.value)


def test_other_unusable_lists_are_rejected(tmp_path: Path) -> None:
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(4 << 30)
    for given, said in {
        str(large): "larger than 16 MiB",
        str(tmp_path / "absent.txt"): "No such file or directory",
        "imagenet100.txt": "published lists are imagenet-100, imagenette, imagewoof",
        "a,,b": "an id between commas is empty",
        "a,b,a": "'a' is listed twice",
        "a\0b": "null byte",
    }.items():
        with pytest.raises(UsageError) as caught:
            read_class_list(given)
        assert said in str(caught.value)
