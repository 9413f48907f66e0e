"""Labels count the classes in lexicographic order, and those of a flat val never shift."""

from __future__ import annotations

import contextlib
import gzip
import json
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgprep.dataset.labels import LabelMap, order_digest
from imgprep.errors import FormatError, SourceError
from imgprep.sources.challenges import ILSVRC2012
from imgprep.sources.scan import scan_source
from imgprep.sources.truth_files import (
    parse_devkit_meta,
    parse_ground_truth,
    parse_kaggle_solution,
    parse_synset_words,
)
from tests.trees import (
    ANCESTOR,
    Shape,
    devkit_files,
    kaggle_solution,
    make_archives,
    make_class_folders,
    make_devkit,
    make_kaggle,
    meta_mat_bytes,
    tar_bytes,
    tiny_jpeg,
    val_name,
    write_files,
)

SHAPE = Shape()
VAL_TAR = "ILSVRC2012_img_val.tar"
TRUTH = "ILSVRC2012_validation_ground_truth.txt"


@given(st.sets(st.text(min_size=1, max_size=6).filter(lambda t: t.isprintable()), max_size=9))
def test_order_is_lexicographic_and_survives_json(names: set[str]) -> None:
    labels = LabelMap.from_names([*names, *names], devkit_ids=dict.fromkeys(names, 7))
    assert labels.names == tuple(sorted(names))
    assert [entry.index for entry in labels.classes] == list(range(len(names)))
    assert labels.index_by_name() == {name: at for at, name in enumerate(labels.names)}
    assert LabelMap.from_json(json.loads(json.dumps(labels.to_json()))) == labels
    assert labels.order_sha256 == order_digest(labels.names)


def test_undecodable_class_names_survive_json() -> None:
    labels = LabelMap.from_names(["b\udcff", "b\u00e9", "a"])
    assert labels.names == ("a", "b\u00e9", "b\udcff")
    assert LabelMap.from_json(json.loads(json.dumps(labels.to_json()))) == labels


def test_order_digest_is_that_of_joined_lines() -> None:
    # printf 'a\nb' | sha256sum
    assert order_digest(["a", "b"]) == (
        "7e18f737311b2dc3b2f269dd78396b0351f14fb66efa879f768cb23181883c78"
    )


GOOD = LabelMap.from_names(["a", "b"]).to_json()
ONE, TWO = GOOD["classes"]


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {**GOOD, "classes": 3},
        {**GOOD, "classes": [ONE, "b"]},
        {**GOOD, "classes": [ONE]},
        {**GOOD, "classes": [TWO, ONE]},
        {**GOOD, "classes": [ONE, {**TWO, "index": 2}]},
        {**GOOD, "classes": [ONE, {**TWO, "name": "c"}]},
        {**GOOD, "classes": [ONE, {**TWO, "name": 4}]},
        {**GOOD, "classes": [ONE, {**TWO, "devkit_id": "1"}]},
        {**GOOD, "classes": [{**ONE, "name": "b"}, {**TWO, "name": "a"}]},
        {**GOOD, "order_sha256": "0"},
    ],
)
def test_malformed_label_lists_are_rejected(value: object) -> None:
    with pytest.raises(FormatError):
        LabelMap.from_json(value)


def test_devkit_ids_are_not_labels(tmp_path: Path) -> None:
    """The devkit ids of this source run against the class names, and one synset is an ancestor."""
    scan = scan_source(make_archives(tmp_path))
    val = scan.splits["val"]
    by_name = {val.name(i): val.label(i) for i in range(len(val))}
    index = {name: at for at, name in enumerate(sorted(SHAPE.classes))}
    assert by_name == {val_name(n): index[SHAPE.val_class(n)] for n in range(1, 7)}
    ids = [SHAPE.devkit_id(SHAPE.val_class(n)) - 1 for n in range(1, 7)]
    assert [by_name[val_name(n)] for n in range(1, 7)] != ids
    assert ANCESTOR not in scan.labels.names


def test_val_number() -> None:
    val_number = partial(ILSVRC2012.number, "val")
    assert val_number(b"ILSVRC2012_val_00000012.JPEG") == 12
    assert val_number(b"val/ILSVRC2012_val_00050000.png") == 50_000
    assert val_number(b"ILSVRC2012_val_00000012") == 12
    for name in (b"ILSVRC2012_val_0000012.JPEG", b"ILSVRC2012_val_000000123.JPEG", b"x.JPEG"):
        assert val_number(name) is None


def replace_val(root: Path, numbers: list[int], **extra: bytes) -> Path:
    make_archives(root)
    files = [(val_name(n), tiny_jpeg("v", n)) for n in numbers] + list(extra.items())
    (root / VAL_TAR).write_bytes(tar_bytes(files))
    return root


@pytest.mark.parametrize(
    ("numbers", "says"),
    [
        (
            [1, 2, 3, 4, 5],
            r"has 5 validation images, but .*labels for 6: number 00000006 is missing",
        ),
        ([1, 2, 3, 5, 6], r"has 5 .*labels for 6: number 00000004 is missing"),
        ([1, 2, 3, 4, 5, 6, 7], r"has 7 .*labels for 6: number 00000007 is not among the labels"),
        ([1, 2, 3, 4, 5, 7], r"00000006 is missing; number 00000007 is not among the labels"),
        ([1, 2, 3, 4, 4, 5, 6], r"has 7 .*labels for 6: number 00000004 is there twice"),
        ([1, 2], r"number 00000003 is missing \(and 3 more\)"),
    ],
)
def test_val_images_that_do_not_match_their_labels(
    numbers: list[int], says: str, tmp_path: Path
) -> None:
    with pytest.raises(SourceError, match=says):
        scan_source(replace_val(tmp_path, numbers))


def test_cut_val_tar_says_so(tmp_path: Path) -> None:
    make_archives(tmp_path)
    data = (tmp_path / VAL_TAR).read_bytes()
    (tmp_path / VAL_TAR).write_bytes(data[:3000])
    with pytest.raises(SourceError, match=r"labels for 6: .*the archive is cut short"):
        scan_source(tmp_path)


def test_an_empty_val_file_does_not_shift_the_others(tmp_path: Path) -> None:
    make_archives(tmp_path)
    files = {**SHAPE.val(), val_name(2): b""}
    (tmp_path / VAL_TAR).write_bytes(tar_bytes([*files.items(), ("notes.txt", b"hello")]))
    scan = scan_source(tmp_path)
    assert scan.problem_counts == {"empty-file": 1, "not-a-val-image": 1}
    val = scan.splits["val"]
    labels = scan.labels.index_by_name()
    assert {val.name(i): val.label(i) for i in range(len(val))} == {
        val_name(n): labels[SHAPE.val_class(n)] for n in (1, 3, 4, 5, 6)
    }


def test_devkit_and_kaggle_table_must_agree(tmp_path: Path) -> None:
    make_archives(tmp_path)
    write_files(tmp_path, {"LOC_val_solution.csv": kaggle_solution(SHAPE)})
    assert len(scan_source(tmp_path).splits["val"]) == 6
    other = kaggle_solution(SHAPE).replace(b"n01440764", b"n01443537")
    write_files(tmp_path, {"LOC_val_solution.csv": other})
    with pytest.raises(SourceError, match="label the validation images differently"):
        scan_source(tmp_path)


def test_a_class_of_val_that_is_not_in_train(tmp_path: Path) -> None:
    make_class_folders(tmp_path)
    write_files(tmp_path / "val" / "n09999999", {"x.JPEG": tiny_jpeg("x", 1)})
    with pytest.raises(SourceError, match="1 class of val is not in train, such as 'n09999999'"):
        scan_source(tmp_path)


@pytest.mark.parametrize("layout", ["archives", "class-folders", "kaggle"])
def test_class_absent_from_train_keeps_its_label(layout: str, tmp_path: Path) -> None:
    if layout == "archives":
        make_archives(tmp_path)
        inner = [
            (f"{name}.tar", tar_bytes(files.items()))
            for name, files in SHAPE.train().items()
            if name != SHAPE.classes[1]
        ]
        (tmp_path / "ILSVRC2012_img_train.tar").write_bytes(tar_bytes(inner))
    else:
        base = tmp_path
        if layout == "kaggle":
            base = make_kaggle(tmp_path)
        else:
            make_class_folders(base, val="flat")
            make_devkit(base, SHAPE)
        gone = base / "train" / SHAPE.classes[1]
        gone.rename(tmp_path / ".gone")
    scan = scan_source(tmp_path)
    assert scan.problem_counts == {"missing-class": 1}
    assert scan.problems[0].where == SHAPE.classes[1]
    assert scan.labels.names == SHAPE.classes
    assert set(scan.splits["train"].rows["label"].tolist()) == {0, 2}
    assert set(scan.splits["val"].rows["label"].tolist()) == {0, 1, 2}


def test_a_subset_beside_the_full_list_has_its_own_labels(tmp_path: Path) -> None:
    official = Shape(classes=tuple(f"n{n:08d}" for n in range(40)), val_images=1)
    make_class_folders(tmp_path, Shape(classes=official.classes[5:15]), val="none")
    make_devkit(tmp_path, official)
    scan = scan_source(tmp_path)
    assert scan.labels.names == official.classes[5:15]
    assert scan.labels.classes[0].devkit_id == 35
    assert scan.problem_counts == {}


def test_a_source_with_most_of_the_list_has_missing_classes(tmp_path: Path) -> None:
    official = Shape(classes=tuple(f"n{n:08d}" for n in range(40)), val_images=1)
    make_class_folders(tmp_path, Shape(classes=official.classes[1:]), val="none")
    make_devkit(tmp_path, official)
    scan = scan_source(tmp_path)
    assert scan.labels.names == official.classes
    assert scan.problem_counts == {"missing-class": 1}


@pytest.mark.parametrize(
    "entries",
    [
        [],
        [(1, "a", "w", 0), (1, "b", "w", 0)],
        [(1, "a", "w", 0), (2, "a", "w", 0)],
        [(0, "a", "w", 0)],
        [(1, "../a", "w", 0)],
        [(1, "", "w", 0)],
        [(1, "a", "w", -1)],
    ],
)
def test_inconsistent_synset_tables_are_rejected(entries: list[tuple[int, str, str, int]]) -> None:
    with pytest.raises(SourceError, match=r"here: meta\.mat"):
        parse_devkit_meta(meta_mat_bytes(entries), "here: meta.mat")


@pytest.mark.parametrize("packed", [True, False])
@given(data=st.data())
def test_damaged_synset_tables_raise_source_errors(packed: bool, data: st.DataObject) -> None:
    table = bytearray(META if packed else PLAIN_META)
    for _ in range(data.draw(st.integers(1, 4))):
        table[data.draw(st.integers(0, len(table) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(table)))
    # Either an error that names the file, or a valid table; no other error.
    with contextlib.suppress(SourceError):
        found = parse_devkit_meta(bytes(table[:cut]), "meta.mat")
        assert len({entry.devkit_id for entry in found}) == len(found) > 0


META = devkit_files(SHAPE)["meta.mat"]
PLAIN_META = meta_mat_bytes([(2, "n2", "two", 0), (1, "n1", "one", 3)], packed=False)


@pytest.mark.parametrize("packed", [True, False])
def test_synset_table(packed: bool) -> None:
    entries = [(2, "n2", "two", 0), (1, "n1", "Größe, 猫", 3), (300, "n03", "", 0)]
    found = parse_devkit_meta(meta_mat_bytes(entries, packed=packed), "meta.mat")
    assert [(e.devkit_id, e.name, e.words, e.num_children) for e in found] == sorted(entries)


def test_devkit_archives_without_tables_and_bombs(tmp_path: Path) -> None:
    make_archives(tmp_path)
    devkit = tmp_path / "ILSVRC2012_devkit_t12.tar.gz"
    devkit.write_bytes(gzip.compress(tar_bytes([("data/readme", b"x")])))
    with pytest.raises(SourceError, match=r"does not contain meta\.mat"):
        scan_source(tmp_path)
    devkit.write_bytes(gzip.compress(tar_bytes([("data/meta.mat", META)])))
    with pytest.raises(SourceError, match=r"t12\.tar\.gz has no labels of validation images"):
        scan_source(tmp_path)
    devkit.write_bytes(b"<html><body>Sign in</body></html>")
    with pytest.raises(SourceError, match="gz: it is an HTML page, not a tar"):
        scan_source(tmp_path)
    bomb = tar_bytes([("data/x", bytes(300_000_000))])
    devkit.write_bytes(gzip.compress(bomb, 1))
    with pytest.raises(SourceError, match="unpacks to more than 64 MiB"):
        scan_source(tmp_path)


@pytest.mark.parametrize("text", [b"", b"1\n\n2\n", b"1\nx\n", b"-1\n", b"1\n9999999\n", b"1 2"])
def test_ground_truth_that_is_not_numbers(text: bytes) -> None:
    with pytest.raises(SourceError, match=r"truth, line [12]"):
        parse_ground_truth(text, "truth")


def test_ground_truth_with_an_unknown_id(tmp_path: Path) -> None:
    make_class_folders(tmp_path, val="flat")
    folder = make_devkit(tmp_path, SHAPE, packed=False)
    write_files(folder, {TRUTH: b"1\r\n2\r\n9\r\n"})
    with pytest.raises(SourceError, match="line 3: no class has the devkit id 9"):
        scan_source(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"image,class\n",
        b"ImageId,PredictionString\nILSVRC2012_val_00000001\n",
        b"ImageId,PredictionString\nILSVRC2012_val_00000001,\n",
        b"ImageId,PredictionString\nsomething,n01440764 1 2 3 4\n",
        b"ImageId,PredictionString\nILSVRC2012_val_00000001,n1 1 2 3 4 n2 1 2 3 4\n",
        b"ImageId,PredictionString\n" + b"ILSVRC2012_val_00000001,n1 1 2 3 4\n" * 2,
        b"ImageId,PredictionString\n\xff\xfe\n",
    ],
)
def test_malformed_kaggle_tables_are_rejected(text: bytes) -> None:
    with pytest.raises(SourceError, match="truth"):
        parse_kaggle_solution(text, "truth")


def test_kaggle_table() -> None:
    found = parse_kaggle_solution(kaggle_solution(SHAPE), "truth")
    assert found == {n: SHAPE.val_class(n) for n in range(1, 7)}


def test_word_lists() -> None:
    text = "\ufeffn1 tench, Tinca tinca\r\n\nn2\nn3  caf\u00e9\n".encode()
    assert parse_synset_words(text, "w") == {
        "n1": "tench, Tinca tinca",
        "n2": "",
        "n3": "caf\u00e9",
    }
    with pytest.raises(SourceError, match="line 2: class n1 is listed twice"):
        parse_synset_words(b"n1 a\nn1 b\n", "w")
    with pytest.raises(SourceError, match="not UTF-8"):
        parse_synset_words(b"n1 \xff\n", "w")
