"""Labels from a table: what is built, what is reported, and what a bad table says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from imgprep.errors import ImgprepError, SourceError, UsageError
from imgprep.sources.label_table import read_table
from imgprep.sources.manifest import SourceScan
from imgprep.sources.scan import scan_source
from imgprep.sources.selection import Selection, read_class_list
from imgprep.sources.take import LabelTable, Take
from tests.conftest import REPOSITORY, imgprep
from tests.objectstore import ObjectStore
from tests.reading import labels_of_shards, source_of
from tests.remote_source import put_tree
from tests.trees import tiny_jpeg, write_files

TABLE = """path,label,split
a.jpg,dog,train
deep/er/b.jpg,cat,train
deep/c.PNG,dog,val
./deep//d.jpg,cat,validation
"odd, ""name"".jpg",ant,train
e.jpg,ant,test
"""
LABELS = {
    "train": {"a.jpg": "dog", "deep/er/b.jpg": "cat", 'odd, "name".jpg': "ant"},
    "val": {"deep/c.PNG": "dog", "deep/d.jpg": "cat"},
    "test": {"e.jpg": "ant"},
}


def make_source(root: Path, table: str = TABLE, name: str = "labels.csv") -> Path:
    """A folder of images at several depths, one without an ending, with a table."""
    for number, path in enumerate(path for images in LABELS.values() for path in images):
        write_files((root / path).parent, {Path(path).name: tiny_jpeg("x", number)})
    write_files(root, {name: table.encode(), "notes.txt": b"not an image"})
    return root


def take(root: Path, name: str = "labels.csv", **columns: str) -> Take:
    return Take(table=LabelTable(location=str(root / name), **columns))


def found(scan: SourceScan) -> dict[str, dict[str, str]]:
    """Class of each image by split and path."""
    return {
        split: {
            manifest.where(i): scan.labels.names[manifest.label(i)] for i in range(len(manifest))
        }
        for split, manifest in scan.splits.items()
    }


def problems(scan: SourceScan) -> list[tuple[str, str, str]]:
    return [(one.kind, one.where, one.cause) for one in scan.problems]


def test_the_table_alone_says_label_and_split(tmp_path: Path) -> None:
    root = make_source(tmp_path)
    scan = scan_source(root, take=take(root))
    assert scan.layout == "label-table"
    assert scan.evidence == (f"{root}/labels.csv lists 6 images of 3 classes",)
    assert scan.labels.names == ("ant", "cat", "dog")
    assert found(scan) == LABELS
    assert problems(scan) == []
    for split in ("train", "val", "test"):
        part = scan_source(root, take=take(root), split=split)
        assert found(part) == {split: LABELS[split]}
    chosen = Take(table=take(root).table, selection=Selection(without=read_class_list("dog")))
    part = scan_source(root, take=chosen)
    assert part.labels.names == ("ant", "cat")
    assert found(part)["val"] == {"deep/d.jpg": "cat"}


def test_a_table_makes_a_dataset(tmp_path: Path) -> None:
    root = make_source(tmp_path / "source")
    command = ["build-shards", root, tmp_path / "out", "--size", 16, "-q"]
    ran = imgprep(*command, "--labels", root / "labels.csv")
    assert ran.code == 0, ran.err
    assert imgprep("verify", tmp_path / "out", "--decode").code == 0
    names = [
        entry["name"]
        for entry in json.loads((tmp_path / "out/labels.json").read_bytes())["classes"]
    ]
    for split, expected in LABELS.items():
        labels = labels_of_shards(tmp_path / "out", split)
        sources = source_of(tmp_path / "out", split)
        assert {Path(sources[key]).name: names[label] for key, label in labels.items()} == {
            Path(path).name: label for path, label in expected.items()
        }
    assert imgprep(*command, "--labels", root / "labels.csv").code == 0


def test_the_columns_are_found_by_their_headers(tmp_path: Path) -> None:
    table = TABLE.replace(",", "\t").replace("path\tlabel\tsplit", "class\tfold\t file ")
    rows = [line.split("\t") for line in table.splitlines()]
    swapped = ["\t".join(rows[0]), *("\t".join([row[1], row[2], row[0]]) for row in rows[1:5])]
    root = make_source(tmp_path, "\ufeff" + "\r\n".join(swapped), "labels.tsv")
    columns = {"path_column": "file", "label_column": "class", "split_column": "fold"}
    scan = scan_source(root, take=take(root, "labels.tsv", **columns))
    assert found(scan)["val"] == LABELS["val"]
    assert scan.problem_counts == {"unlisted-image": 2}
    with pytest.raises(UsageError) as caught:
        scan_source(root, take=take(root, "labels.tsv"))
    assert str(caught.value) == (
        f"{root}/labels.tsv, line 1: no column is named 'path'; it has 'class', 'fold', 'file': "
        "name the right one with --path-column"
    )
    ran = imgprep("scan", root, "--labels", root / "labels.tsv", "--path-column", "file",
                  "--label-column", "class", "--split-column", "fold")  # fmt: skip
    assert ran.code == 3
    assert "unlisted-image: 2" in ran.out


def test_a_table_of_fastai_says_which_images_are_val(tmp_path: Path) -> None:
    table = "path,noisy_labels_5,is_valid\na.jpg,dog,False\ne.jpg,dog,True\n"
    root = make_source(tmp_path, table)
    columns = {"label_column": "noisy_labels_5", "split_column": "is_valid"}
    scan = scan_source(root, take=take(root, **columns))
    assert found(scan) == {"train": {"a.jpg": "dog"}, "val": {"e.jpg": "dog"}}


def test_without_a_column_of_splits_all_is_train_and_val_can_be_made(tmp_path: Path) -> None:
    table = "label,path\n" + "".join(
        f'{label},"{path.replace(chr(34), chr(34) * 2)}"\n'
        for images in LABELS.values()
        for path, label in images.items()
    )
    root = make_source(tmp_path, table)
    scan = scan_source(root, take=take(root))
    assert {name: len(rows) for name, rows in scan.splits.items()} == {"train": 6}
    ran = imgprep("scan", root, "--labels", root / "labels.csv", "--val-per-class", 1)
    assert ran.code == 0, ran.err
    assert "3 images of train became val: 1 of each class" in ran.out


def test_missing_repeated_and_unlisted_images_are_named_and_counted(tmp_path: Path) -> None:
    table = TABLE + "gone.jpg,dog,train\na.jpg,cat,val\n../out.jpg,dog,train\n/abs.jpg,dog,val\n"
    table += "x/../../y.jpg,cat,train\n.hidden/z.jpg,dog,train\n"
    root = make_source(tmp_path / "source", table)
    write_files(root / "deep", {"new.jpg": b"x", "empty.jpg": b""})
    write_files(root / ".hidden", {"z.jpg": b"x"})
    write_files(tmp_path, {"out.jpg": b"x"})
    scan = scan_source(root, take=take(root))
    where = f"{root}/labels.csv"
    assert sorted(problems(scan)) == [
        ("listed-twice", "a.jpg", f"{where} lists it in line 9, too; line 2 is used"),
        ("missing-image", ".hidden/z.jpg", f"{where}, line 13: its name is hidden or clutter"),
        ("missing-image", "gone.jpg", f"{where}, line 8: there is no such file"),
        ("unlisted-image", "deep/empty.jpg", f"{where} lacks it"),
        ("unlisted-image", "deep/new.jpg", f"{where} lacks it"),
        ("unsafe-name", "../out.jpg", f"{where}, line 10: the path leads out of the source"),
        ("unsafe-name", "/abs.jpg", f"{where}, line 11: the path leads out of the source"),
        ("unsafe-name", "x/../../y.jpg", f"{where}, line 12: the path leads out of the source"),
    ]
    assert found(scan) == LABELS
    command = ["build-shards", root, tmp_path / "dest", "--size", 16, "-q", "--labels", where]
    failed = imgprep(*command)
    assert failed.code == 1
    assert "8 bad entries in the source:" in failed.err
    assert f"gone.jpg: {where}, line 8: there is no such file" in failed.err
    skipped = imgprep(*command, "--on-error", "skip")
    assert skipped.code == 3
    report = json.loads((tmp_path / "dest/report.json").read_bytes())
    assert report["problem_counts"]["missing-image"] == 2


def test_faults_of_listed_files_and_of_classes_without_training_images(tmp_path: Path) -> None:
    table = TABLE + "deep/er/empty.jpg,cat,train\nlink.jpg,cat,train\nf.jpg,emu,val\n"
    root = make_source(tmp_path, table)
    write_files(root / "deep/er", {"empty.jpg": b""})
    (root / "link.jpg").symlink_to("nowhere")
    write_files(root, {"f.jpg": tiny_jpeg("x", 50)})
    scan = scan_source(root, take=take(root))
    assert [one[:2] for one in problems(scan)] == [
        ("broken-link", "link.jpg"),
        ("empty-file", "deep/er/empty.jpg"),
        ("missing-class", "emu"),
    ]
    part = Take(table=take(root).table, selection=Selection(without=read_class_list("cat,emu")))
    assert problems(scan_source(root, take=part)) == []


def test_links_of_folders_are_followed_but_not_in_a_circle(tmp_path: Path) -> None:
    root = make_source(tmp_path / "source", "path,label\nlinked/b.jpg,x\ndeep/er/up/c.PNG,x\n")
    (root / "linked").symlink_to(root / "deep/er")
    (root / "deep/er/up").symlink_to("..")
    scan = scan_source(root, take=take(root))
    assert found(scan) == {"train": {"linked/b.jpg": "x"}}
    assert scan.problem_counts == {"missing-image": 1, "unlisted-image": 8}
    assert scan.oddities["links to a folder above, not followed"] == 2


def test_numbers_as_labels_are_noted(tmp_path: Path) -> None:
    root = make_source(tmp_path, "path,label\na.jpg,2\ne.jpg,10\n")
    scan = scan_source(root, take=take(root))
    assert scan.labels.names == ("10", "2")
    assert "label 0 is class 10, not 2" in scan.notes[0]


def test_a_source_in_a_store_and_a_table_in_a_store(s3: ObjectStore, tmp_path: Path) -> None:
    root = make_source(tmp_path)
    url = put_tree(s3, root, "photos")
    local = imgprep("scan", root, "--labels", root / "labels.csv", "--json")
    for table in (root / "labels.csv", f"{url}/labels.csv"):
        ran = imgprep("scan", url, "--labels", table, "--json")
        assert ran.code == 0, ran.err
        assert {**ran.json, "source": "", "evidence": ""} == {
            **local.json, "source": "", "evidence": "",
        }  # fmt: skip
    built = imgprep("build-shards", url, tmp_path / "out", "--labels", f"{url}/labels.csv",
                    "--size", 16, "-q")  # fmt: skip
    assert built.code == 0, built.err


BAD_TABLES = {
    "path,label\na.jpg\n": "line 2: 1 column, fewer than the header needs",
    "path,label\na.jpg,\n": "line 2: the label is empty",
    "path,label\n\n\na.jpg,b\n\0c,d\n": "line 5: a null byte",
    'path,label\n"a.jpg,b\n' + "c,d\n" * 20: "a row of more than 16 lines: is a quotation mark",
    'path,label\n"a.jpg"x,b\n': "line 2: ',' expected after '\"'",
    "path,label,split\na.jpg,b,dev\n": "line 2: the split 'dev' is not one of train, training, val",
    "path,label\n" + "a" * 70_000 + ",b\n": "line 2: a line of more than 64 KiB",
    "path,label,label\na,b,c\n": "line 1: two columns are named 'label'",
    "": "line 1: no column is named 'path'",
    "path,label\n": "lists no image that can be used",
}


@pytest.mark.parametrize("table", BAD_TABLES, ids=lambda table: repr(table[:24]))
def test_a_malformed_table_is_rejected_with_its_line(table: str, tmp_path: Path) -> None:
    write_files(tmp_path, {"labels.csv": table.encode()})
    with pytest.raises(ImgprepError) as caught:
        read_table(LabelTable(location=f"{tmp_path}/labels.csv"))
    assert str(caught.value).startswith(f"{tmp_path}/labels.csv")
    assert BAD_TABLES[table] in str(caught.value)
    assert len(str(caught.value)) < 400


def test_lines_are_counted_over_the_pieces_that_are_read(tmp_path: Path) -> None:
    good = b"".join(b"f/%07d.jpg,%d\n" % (number, number % 9) for number in range(600_000))
    location = f"{tmp_path}/labels.csv"
    for bad, what in ((b"\xff,x\n", "not UTF-8 text"), (b"a\0,x\n", "a null byte")):
        write_files(tmp_path, {"labels.csv": b"path,label\n" + good + bad})
        with pytest.raises(SourceError, match=f"line 600002: {what}"):
            read_table(LabelTable(location=location))
    write_files(tmp_path, {"labels.csv": b"path,label\n" + good})
    rows = read_table(LabelTable(location=location))
    assert len(rows.numbers) == 600_000
    assert rows.numbers["f/0599999.jpg"] == 599_999
    assert rows.lines[599_999] == 600_001


LIMITED = """
import resource, sys
from imgprep.errors import ImgprepError
from imgprep.sources.label_table import read_table
from imgprep.sources.take import LabelTable
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), resource.RLIM_INFINITY))
try:
    read_table(LabelTable(location=sys.argv[1]))
except ImgprepError as exc:
    print(exc)
"""


def test_huge_tables_and_fields_are_rejected_in_little_memory(tmp_path: Path) -> None:
    huge, wide, quoted = (tmp_path / f"{name}.csv" for name in ("huge", "wide", "quoted"))
    with huge.open("wb") as file:
        file.truncate(4 << 30)
    with wide.open("wb") as file:
        file.write(b"path,label\n")
        for _ in range(200):
            file.write(b"a" * (1 << 20))
    with quoted.open("wb") as file:
        file.write(b'path,label\n"')
        for _ in range(200):
            file.write((b"a" * 1000 + b"\n") * 1000)
    for path, said in {
        huge: "is larger than 1 GiB; is it the right file?",
        wide: ", line 2: a line of more than 64 KiB; is it the right file?",
        quoted: ", line 2: a row of more than 16 lines: is a quotation mark not closed?",
    }.items():
        ran = subprocess.run(
            [sys.executable, "-c", LIMITED, str(path)],
            capture_output=True, text=True, cwd=REPOSITORY, check=True,
        )  # fmt: skip
        assert ran.stdout.strip().startswith(str(path)), ran.stderr
        assert said in ran.stdout


def test_unusable_options_are_usage_errors(tmp_path: Path) -> None:
    root = make_source(tmp_path)
    os.mkfifo(root / "pipe.csv")
    for arguments, said in (
        (["--labels", root / "absent.csv"], "absent.csv: there is no such file"),
        (["--labels", root / "notes.txt"], "a table of labels ends in .csv or .tsv"),
        (["--labels", root / "pipe.csv"], "pipe.csv: there is no such file"),
        (["--label-column", "x"], "--label-column names a column of a table: give the table"),
        (["--labels", root / "labels.csv", "--layout", "kaggle"], "--layout exclude each other"),
        (["--labels", root / "labels.csv", "--val-per-class", 1], "has one: leave the option out"),
    ):
        ran = imgprep("scan", root, *arguments)
        assert ran.code == 2, ran.err
        assert said in ran.err


def test_spaces_around_a_label_are_not_part_of_it(tmp_path: Path) -> None:
    write_files(tmp_path, {f"{each}.jpg": tiny_jpeg(each, 1) for each in "abcd"})
    rows = b"path, label\na.jpg, cat\nb.jpg,cat\nc.jpg,dog \nd.jpg,dog\n"
    write_files(tmp_path, {"labels.csv": rows})
    scan = imgprep("scan", tmp_path, "--labels", tmp_path / "labels.csv", "--json")
    assert scan.code == 0, scan.err
    assert scan.json["classes"] == 2
    write_files(tmp_path, {"blank.csv": b"path,label\na.jpg, \n"})
    refused = imgprep("scan", tmp_path, "--labels", tmp_path / "blank.csv")
    assert "blank.csv, line 2: the label is empty" in refused.err
