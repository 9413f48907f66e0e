"""Fuzz targets for a source: tars, devkits, tables of labels and lists of classes."""

from __future__ import annotations

import gzip
import os
import tarfile
from pathlib import Path

from imgprep.sources.lanes import walk_in_lanes
from imgprep.sources.local_tree import range_file_of
from imgprep.sources.open_tree import open_tree
from imgprep.sources.reader import SourceReader
from imgprep.sources.scan import scan_source
from imgprep.sources.selection import Selection, read_class_list
from imgprep.sources.take import LabelTable, Take
from imgprep.sources.tarwalk import walk
from imgprep.sources.truth import read_truth
from imgprep.sources.truth_files import (
    parse_devkit_meta,
    parse_ground_truth,
    parse_kaggle_solution,
    parse_synset_words,
)
from tests.fuzzing import ours, put, target, workspace
from tests.mutations import repaired_tar
from tests.other_archives import (
    DEVKIT_2010,
    TEST_TRUTH_2010,
    Shape2010,
    devkit_2010,
    make_ilsvrc2010,
)
from tests.trees import (
    Shape,
    devkit_files,
    kaggle_solution,
    meta_mat_bytes,
    tar_bytes,
    val_name,
    words,
)

TRAIN = "ILSVRC2012_img_train.tar"
VAL = "ILSVRC2012_img_val.tar"
DEVKIT = "ILSVRC2012_devkit_t12.tar"
LONG = "d" * 90 + "/" + "e" * 60
TAR_TOKENS = (
    b"ustar\x0000", b"ustar  \0", b"././@LongLink", b"\x80" + bytes(10) + b"\x05", b"\xff" * 12,
    b"00000000000\0", b"77777777777\0", b"L", b"x", b"g", b"S", b"5", b"2", b"10 size=3\n",
    b"13 size=-512\n", b"25 GNU.sparse.major=1\n", b"14 path=all.J\n", b"./" * 40, b"../", b"/",
    b"V", b"D", b"M", b"N", b"A", b"23 GNU.volume.offset=9\n", b"<html>", b"\x1f\x8b",
)  # fmt: skip


def _tars() -> list[bytes]:
    shape = Shape(train_per_class=2)
    inner = {f"{name}.tar": tar_bytes(files.items()) for name, files in shape.train().items()}
    odd = [(LONG, b"1" * 30), ("a.JPEG", b"2"), ("ü/b.JPEG", b"3" * 600)]
    formats = (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
    base_256 = bytearray(tar_bytes(odd[1:2]))
    base_256[124:136] = b"\x80" + (1).to_bytes(11, "big")
    return [
        tar_bytes(inner.items()),
        *(tar_bytes([("n01440764.tar", tar_bytes(odd, each))], each) for each in formats),
        *(tar_bytes(odd, each) for each in formats),
        repaired_tar(bytes(base_256)),
    ]


@target("tar", _tars, tokens=TAR_TOKENS)
def tar(data: bytes) -> None:
    """A train tar, also walked as a flat tar; its images are read."""
    for content in (data, repaired_tar(data)):
        _walk(content)
        root = put("tar", TRAIN, content).parent
        with ours(str(root)):
            scan = scan_source(root)
            rows = scan.splits["train"]
            with SourceReader(root, rows) as reader:
                reader.will_need(range(len(rows)))
                for i in range(len(rows)):
                    assert len(reader.read(i)) == rows.rows["size_bytes"][i]
                    assert ".." not in rows.name(i).split("/")


def _walk(content: bytes) -> None:
    """Walk in one piece and in parallel lanes: the results are equal and inside the file."""
    fd = os.memfd_create("tar")
    try:
        os.write(fd, content)
        found = list(walk(range_file_of(fd), 0, len(content)))
        assert len(found) <= len(content) // 512 + 1
        assert list(walk_in_lanes(range_file_of(fd), 0, len(content), 3, 1024)) == found
    finally:
        os.close(fd)
    for entry in found:
        if not entry.problem:
            assert 0 <= entry.offset <= entry.offset + entry.size_bytes <= len(content)
            assert entry.name
            assert not entry.name.startswith(b"/")
            assert b".." not in entry.name.split(b"/")


def _devkits() -> list[bytes]:
    files = {f"devkit/data/{name}": data for name, data in devkit_files(Shape()).items()}
    return [
        tar_bytes(files.items(), each)
        for each in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
    ]


@target("devkit", _devkits, tokens=TAR_TOKENS)
def devkit(data: bytes) -> None:
    """The archive of the devkit, compressed and not."""
    for name, content in (
        (DEVKIT, data),
        (DEVKIT, repaired_tar(data)),
        (f"{DEVKIT}.gz", data),
        (f"{DEVKIT}.gz", gzip.compress(repaired_tar(data), 1)),
    ):
        path = put("devkit", name, content)
        with ours(DEVKIT):
            read_truth([open_tree(path.parent)])
        path.unlink()


def _val_places() -> Path:
    folder = workspace() / "flat"
    if not folder.exists():
        put("flat", VAL, tar_bytes(Shape().val().items()))
    return folder


@target("val", lambda: [tar_bytes(Shape().val().items())], tokens=TAR_TOKENS)
def val(data: bytes) -> None:
    """A flat validation tar beside a valid devkit."""
    root = put("val", VAL, repaired_tar(data)).parent
    for name, content in devkit_files(Shape()).items():
        put("val/ILSVRC2012_devkit_t12/data", name, content)
    with ours():
        scan_source(root)


def _mats() -> list[bytes]:
    entries = [(1, "n01440764", "tench", 0), (2, "n00001740", "entity", 1)]
    return [meta_mat_bytes(entries, packed=packed) for packed in (True, False)]


@target(
    "mat", _mats, tokens=(b"synsets", b"WNID", b"\x0e\0\0\0", b"\x0f\0\0\0", b"\xff\xff\xff\x7f")
)
def mat(data: bytes) -> None:
    """``meta.mat`` of the devkit."""
    with ours("here: meta.mat"):
        parse_devkit_meta(data, "here: meta.mat")


def _tables() -> list[bytes]:
    lines = "".join(f"{name} {words(name)}\n" for name in Shape().classes)
    truth = devkit_files(Shape())["ILSVRC2012_validation_ground_truth.txt"]
    return [kaggle_solution(Shape()), lines.encode(), truth]


CSV_TOKENS = (b'"', b",", b"\r\n", b"\0", b"\xef\xbb\xbf", b"ILSVRC2012_val_00000001", b'"' * 9)


@target("tables", _tables, tokens=CSV_TOKENS)
def tables(data: bytes) -> None:
    """Kaggle's csv, the word lists and the ground truth; also as files in a folder."""
    for parse in (parse_kaggle_solution, parse_synset_words, parse_ground_truth):
        with ours("the table"):
            parse(data, "the table")
    root = put("tables", "LOC_val_solution.csv", data).parent
    put("tables/val", val_name(1), b"x")
    with ours():
        scan_source(root)


def _class_lists() -> list[bytes]:
    return [b"n01440764\nn01443537\n", b"\xef\xbb\xbf# ours\r\n\r\n n02085620 \r\n", b"a,b"]


@target("classes", _class_lists, tokens=(b"#", b"\0", b"/", b"..", b"\r\n", b"n01440764\n"))
def classes(data: bytes) -> None:
    """A list of classes, as a file and on the command line, and a source to compare it with."""
    path = put("classes", "list.txt", data)
    given = data.decode("utf-8", "surrogateescape")
    for text, where in ((str(path), str(path)), (given, "")):
        with ours(where):
            found = read_class_list(text)
            assert found.classes
            assert not {"", ".", ".."} & found.classes
            for selection in (Selection(only=found), Selection(without=found)):
                with ours():
                    selection.check(Shape().classes)
                    assert 0 < sum(map(selection.takes, Shape().classes)) <= 3


def _label_tables() -> list[bytes]:
    rows = "".join(f"{name}/{n}.jpg,{name},{split}\n" for name in ("a", "b")
                   for n, split in enumerate(("train", "val", "test")))  # fmt: skip
    tsv = 'is_valid\tlabel\tpath\nTrue\ta\t./b//1.jpg\nFalse\tb\t"a/0.jpg"\n'
    return [f"path,label,split\n{rows}".encode(), tsv.encode()]


TABLE_TOKENS = (
    *CSV_TOKENS, b"../", b"/", b"./", b"\t", b"path", b"label", b"split", b"a/0.jpg", b"train",
    b'"\n"' * 20,
)  # fmt: skip


@target("labels", _label_tables, tokens=TABLE_TOKENS)
def labels(data: bytes) -> None:
    """A table of labels beside its images, read with commas and with tabs."""
    for name in ("a", "b"):
        for number in range(3):
            put(f"labels/{name}", f"{number}.jpg", b"x")
    for name, split_column in (("t.csv", None), ("t.tsv", "is_valid")):
        path = put("labels", name, data)
        with ours(str(path)):
            table = LabelTable(location=str(path), split_column=split_column)
            scan = scan_source(path.parent, take=Take(table=table))
            found = [rows.where(i) for rows in scan.splits.values() for i in range(len(rows))]
            assert len(found) == len(set(found)) <= 6
            assert sum(scan.problem_counts.values()) >= 6 - len(found)
            assert not any(one.startswith("/") or ".." in one for one in found)
        path.unlink()


def _devkits_2010() -> list[bytes]:
    return [tar_bytes(devkit_2010(Shape2010()).items())]


@target("ilsvrc2010", _devkits_2010, tokens=(*TAR_TOKENS, b"ILSVRC2010_ID", b"meta.mat"))
def ilsvrc2010(data: bytes) -> None:
    """The devkit of ILSVRC2010 beside its archives, and the labels of its test split."""
    if not (workspace() / "2010").exists():
        make_ilsvrc2010(workspace() / "2010")
        (workspace() / "2010" / DEVKIT_2010).unlink()
    root = put("2010", "ILSVRC2010_devkit-1.0.tar", repaired_tar(data)).parent
    put("2010", TEST_TRUTH_2010, Shape2010().truth("test"))
    with ours():
        scan_source(root)
    put("2010", "ILSVRC2010_devkit-1.0.tar", _devkits_2010()[0])
    put("2010", TEST_TRUTH_2010, data[:200])
    with ours():
        scan_source(root, split="test")
