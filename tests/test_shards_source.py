"""A built dataset is a source: a smaller copy has the same classes, labels, keys and splits."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from imgprep.dataset.encodings import encoding_of
from imgprep.dataset.format import sources_name
from imgprep.dataset.index import load_index, load_labels
from imgprep.dataset.shard_walk import records
from imgprep.errors import FormatError, SourceError, UsageError
from imgprep.image.prepare import prepare
from imgprep.sources.pixels import Form, image_file
from imgprep.sources.reader import SourceReader
from imgprep.sources.scan import scan_source
from imgprep.sources.selection import Selection, read_class_list
from imgprep.sources.take import Take
from imgprep.spec import ImageSpec
from tests.conftest import imgprep
from tests.trees import Shape, make_archives

SHAPE = Shape()


def build(source: Path, dest: Path, *options: object) -> Path:
    ran = imgprep("build-shards", source, dest, *options)
    assert ran.code == 0, ran.err
    return dest


def contents(dataset: Path) -> dict[str, tuple[int, bytes]]:
    """Label and image file of every record, by key."""
    index = load_index(dataset)
    found = {}
    for split in index.splits:
        for path in index.shard_paths(split):
            tar = path.read_bytes()
            for image, label in records(tar, encoding_of(index.encoding).extension):
                number = int(tar[label.offset : label.offset + label.size_bytes])
                content = tar[image.offset : image.offset + image.size_bytes]
                found[image.name.partition(".")[0]] = (number, content)
    return found


def pixels(dataset: Path, content: bytes) -> NDArray[np.uint8]:
    index = load_index(dataset)
    return encoding_of(index.encoding).pixels(content, index.size_px)


@pytest.mark.parametrize("encoding", ["jpeg", "png", "raw"])
def test_a_smaller_copy_is_made_of_the_records(encoding: str, tmp_path: Path) -> None:
    """With a flat val, whose labels are not in the order of the keys."""
    source = make_archives(tmp_path / "source", SHAPE)
    big = build(source, tmp_path / "big", "--size", 64, "--encoding", encoding)
    small = build(big, tmp_path / "small", "--size", 24, "--encoding", "raw")
    before, after = contents(big), contents(small)
    assert load_labels(load_index(small)) == load_labels(load_index(big))
    assert before.keys() == after.keys()
    spec = ImageSpec(size_px=24, encoding="raw")
    for key, (label, content) in before.items():
        assert after[key][0] == label
        form: Form = "npy" if encoding == "raw" else "file"
        expected = prepare(image_file(content, form), spec).image_hwc
        np.testing.assert_array_equal(pixels(small, after[key][1]), expected)
    names = gzip.decompress((small / sources_name("val")).read_bytes()).decode().splitlines()
    assert names[3].split("\t")[0] == "3"
    assert names[3].endswith(f":val-00000003.{encoding_of(encoding).extension}")
    assert imgprep("verify", small, "--decode").code == 0


def test_a_copy_of_raw_records_in_the_same_size_has_the_same_bytes(tmp_path: Path) -> None:
    source = make_archives(tmp_path / "source", SHAPE)
    first = build(source, tmp_path / "a", "--size", 32, "--encoding", "raw")
    second = build(first, tmp_path / "b", "--size", 32, "--encoding", "raw")
    assert contents(first) == contents(second)


def test_a_scan_says_what_it_found(tmp_path: Path) -> None:
    source = make_archives(tmp_path / "source", SHAPE)
    dataset = build(source, tmp_path / "big", "--size", 64)
    ran = imgprep("scan", dataset)
    assert ran.code == 0, ran.err
    assert "shards: found dataset_info.json, the index of a dataset" in ran.out
    assert "compressed once more" in ran.out
    taken = scan_source(dataset, take=Take(selection=Selection(only=read_class_list("n02085620"))))
    assert taken.labels.names == ("n02085620",)
    assert len(taken.splits["train"]) == SHAPE.train_per_class
    assert list(scan_source(dataset, split="val").splits) == ["val"]
    assert scan_source(dataset, "shards").layout == "shards"


def test_a_dataset_is_not_built_over_itself(tmp_path: Path) -> None:
    source = make_archives(tmp_path / "source", SHAPE)
    dataset = build(source, tmp_path / "big", "--size", 64)
    before = contents(dataset)
    for dest in (dataset, dataset / "small"):
        ran = imgprep("build-shards", dataset, dest, "--size", 32, "--force")
        assert ran.code == 2
        assert "inside" in ran.err
    assert contents(dataset) == before


def test_a_damaged_dataset_is_a_sentence(tmp_path: Path) -> None:
    source = make_archives(tmp_path / "source", SHAPE)
    dataset = build(source, tmp_path / "big", "--size", 64)
    shard = dataset / "train-000000.tar"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-512])
    with pytest.raises(SourceError, match="bytes, but the index says"):
        scan_source(dataset)
    shard.write_bytes(b"x" * 512 + whole[512:])
    with pytest.raises(SourceError, match=r"header at byte 0 is damaged: imgprep verify shows"):
        scan_source(dataset)
    label = next(records(whole, "jpg"))[1].offset
    shard.write_bytes(whole[:label] + b"0007" + whole[label + 4 :])
    with pytest.raises(SourceError, match=r"cls is not one of 3 classes"):
        scan_source(dataset)
    shard.unlink()
    with pytest.raises(SourceError, match="put it back"):
        scan_source(dataset)
    info = dataset / "dataset_info.json"
    info.write_text(json.dumps({**json.loads(info.read_text()), "classes": 2}))
    with pytest.raises(FormatError, match="edited or damaged"):
        scan_source(dataset)
    assert imgprep("scan", dataset).code == 1


def test_an_unfinished_dataset_and_one_at_a_url_are_sentences(tmp_path: Path) -> None:
    import fsspec

    source = make_archives(tmp_path / "source", SHAPE)
    dataset = build(source, tmp_path / "big", "--size", 64)
    files = fsspec.filesystem("memory")
    files.put(str(dataset), "/dataset", recursive=True)
    with pytest.raises(UsageError, match="a source only on a local disk: copy it there"):
        scan_source("memory://dataset")
    files.rm("/dataset", recursive=True)
    shutil.move(dataset / "dataset_info.json", tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="is not recognised as a source"):
        scan_source(dataset)


def test_records_are_read_back_from_the_shards(tmp_path: Path) -> None:
    source = make_archives(tmp_path / "source", SHAPE)
    dataset = build(source, tmp_path / "big", "--size", 64, "--encoding", "png")
    scan = scan_source(dataset)
    with SourceReader(scan.root, scan.splits["train"]) as reader:
        assert reader.read(0) == contents(dataset)["train-00000000"][1]
