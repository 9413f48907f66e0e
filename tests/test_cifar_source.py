"""CIFAR-10 is read from its official archives; a damaged or hostile one is a sentence."""

from __future__ import annotations

import pickle
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from imgprep.dataset.encodings import encoding_of
from imgprep.dataset.index import load_index, load_labels
from imgprep.dataset.shard_walk import records
from imgprep.errors import SourceError, UsageError
from imgprep.image.decode import decode_image
from imgprep.sources.plainpickle import PickledArray, read_plain
from imgprep.sources.reader import SourceReader
from imgprep.sources.scan import scan_source
from imgprep.sources.selection import Selection, read_class_list
from imgprep.sources.take import Take
from tests.cifararchives import BATCH, CLASSES, Cifar, python2, write_archive
from tests.conftest import imgprep
from tests.trees import write_files

CIFAR = Cifar.random()


def binary(folder: Path) -> Path:
    return write_archive(folder / "cifar-10-binary.tar.gz", "cifar-10-batches-bin", CIFAR.binary())


def python(folder: Path) -> Path:
    return write_archive(folder / "cifar-10-python.tar.gz", "cifar-10-batches-py", CIFAR.python())


def unpacked(folder: Path) -> Path:
    write_files(folder / "bin", CIFAR.binary())
    return folder / "bin"


def unpacked_python(folder: Path) -> Path:
    write_files(folder / "py", CIFAR.python())
    return folder / "py"


def in_its_folder(folder: Path) -> Path:
    return python(folder).parent


SOURCES = (binary, python, unpacked, unpacked_python, in_its_folder)


@pytest.mark.parametrize("make", SOURCES, ids=lambda make: make.__name__)
def test_every_image_has_its_pixels_and_its_label(
    make: Callable[[Path], Path], tmp_path: Path
) -> None:
    scan = scan_source(make(tmp_path))
    assert (scan.layout, scan.problem_counts, scan.class_doubts) == ("cifar", {}, ())
    assert scan.labels.names == CLASSES
    assert {name: len(rows) for name, rows in scan.splits.items()} == {
        "train": 5 * BATCH,
        "val": BATCH,
    }
    for split, first in (("train", 0), ("val", 5)):
        manifest = scan.splits[split]
        with SourceReader(scan.root, manifest) as reader:
            reader.will_need(range(len(manifest)))
            for i in range(len(manifest)):
                batch, n = first + i // BATCH, i % BATCH
                image = decode_image(reader.read(i), max_megapixels=1, exif="ignore").image_hwc
                np.testing.assert_array_equal(image, CIFAR.pixels[batch, n].transpose(1, 2, 0))
                assert manifest.label(i) == CIFAR.labels[batch, n]


def built(source: Path, dest: Path) -> dict[str, tuple[int, NDArray[np.uint8]]]:
    """Build 32-pixel raw records; labels and pixels by key."""
    ran = imgprep("build-shards", source, dest, "--size", 32, "--encoding", "raw")
    assert ran.code == 0, ran.err
    index = load_index(dest)
    assert load_labels(index).names == CLASSES
    found = {}
    for split in index.splits:
        for path in index.shard_paths(split):
            tar = path.read_bytes()
            for image, label in records(tar, "npy"):
                content = tar[image.offset : image.offset + image.size_bytes]
                number = int(tar[label.offset : label.offset + label.size_bytes])
                pixels = encoding_of("raw").pixels(content, 32)
                found[image.name.partition(".")[0]] = (number, pixels)
    return found


def test_both_archives_build_the_same_records(tmp_path: Path) -> None:
    first = built(binary(tmp_path), tmp_path / "a")
    second = built(python(tmp_path), tmp_path / "b")
    assert first.keys() == second.keys()
    assert len(first) == 6 * BATCH
    for key, (label, pixels) in first.items():
        split, _, number = key.partition("-")
        batch, n = divmod(int(number), BATCH)
        batch += 5 if split == "val" else 0
        assert label == second[key][0] == CIFAR.labels[batch, n]
        np.testing.assert_array_equal(pixels, second[key][1])
        np.testing.assert_array_equal(pixels, CIFAR.pixels[batch, n].transpose(1, 2, 0))


def test_an_archive_that_is_cut_short_is_a_sentence(tmp_path: Path) -> None:
    for make in (binary, python):
        path = make(tmp_path)
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(SourceError, match=r"tar\.gz is cut short: download it again"):
            scan_source(path)
        path.write_bytes(whole[:2000] + b"\0" * 64 + whole[2064:])
        with pytest.raises(SourceError, match="is damaged, or not a gzip file: download it again"):
            scan_source(path)
        path.write_bytes(b"<html>404</html>")
        with pytest.raises(SourceError, match="is damaged, or not a gzip file"):
            scan_source(path)
    ran = imgprep("build-shards", path, tmp_path / "out", "--size", 32)
    assert ran.code == 1
    assert len(ran.err.strip().splitlines()) == 1


def changed(files: dict[str, bytes], name: str, content: bytes) -> dict[str, bytes]:
    return {**files, name: content}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (changed(CIFAR.binary(), "data_batch_2.bin", b"\1" * 5000), "not whole records of 3,073"),
        (changed(CIFAR.binary(), "data_batch_2.bin", b""), "has no records"),
        (changed(CIFAR.binary(), "data_batch_2.bin", b"\x0b" * 3073), "beyond the 10 classes"),
        (changed(CIFAR.binary(), "batches.meta.txt", b"cat\ncat\n"), "does not list the class"),
        (changed(CIFAR.python(), "batches.meta", python2({"label_names": [1]})), "class names"),
        (changed(CIFAR.python(), "data_batch_1", python2({"labels": [1]})), "no data and labels"),
        (changed(CIFAR.python(), "data_batch_1", python2([1, 2])), "is not a CIFAR file"),
        (
            changed(
                CIFAR.python(),
                "data_batch_1",
                python2({"labels": [1], "data": np.zeros((2, 3072), np.uint8)}),
            ),
            "data and labels do not agree",
        ),
        (changed(CIFAR.python(), "data_batch_1", b"\x80\x02}"), "is not a CIFAR file: pickle"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_named(files: dict[str, bytes], message: str, tmp_path: Path) -> None:
    kind = "binary" if "data_batch_1.bin" in files else "python"
    path = write_archive(tmp_path / f"cifar-10-{kind}.tar.gz", "cifar", files)
    with pytest.raises(SourceError, match=message):
        scan_source(path)


def test_missing_batches_are_reported(tmp_path: Path) -> None:
    files = CIFAR.binary()
    del files["data_batch_3.bin"], files["test_batch.bin"]
    path = write_archive(tmp_path / "cifar-10-binary.tar.gz", "cifar", files)
    scan = scan_source(path)
    assert scan.problem_counts == {"missing-batch": 2}
    assert [one.where for one in scan.problems] == ["data_batch_3", "test_batch"]
    assert list(scan.splits) == ["train"]
    del files["batches.meta.txt"]
    write_archive(path, "cifar", files)
    with pytest.raises(SourceError, match=r"batches\.meta is missing, which has the class names"):
        scan_source(path)


def test_some_classes_can_be_taken(tmp_path: Path) -> None:
    only = Take(selection=Selection(only=read_class_list("cat,truck")))
    scan = scan_source(binary(tmp_path), take=only)
    assert scan.labels.names == ("cat", "truck")
    manifest = scan.splits["train"]
    expected = [(3, 9).index(label) for label in CIFAR.labels[:5].ravel() if label in (3, 9)]
    assert [manifest.label(i) for i in range(len(manifest))] == expected
    with SourceReader(scan.root, manifest) as reader:
        image = decode_image(reader.read(0), max_megapixels=1, exif="ignore").image_hwc
    first = np.flatnonzero(np.isin(CIFAR.labels[:5].ravel(), (3, 9)))[0]
    planes = CIFAR.pixels[:5].reshape(-1, 3, 32, 32)[first]
    np.testing.assert_array_equal(image, planes.transpose(1, 2, 0))


def test_other_files_are_not_taken_for_cifar(tmp_path: Path) -> None:
    for name in ("cifar-100-python.tar.gz", "photos.tar.gz", "ILSVRC2012_img_val.tar"):
        (tmp_path / name).write_bytes(binary(tmp_path).read_bytes())
        with pytest.raises(UsageError, match="is a file; give the folder"):
            scan_source(tmp_path / name)


def test_an_archive_at_a_url_is_a_sentence(tmp_path: Path) -> None:
    import fsspec

    files = fsspec.filesystem("memory")
    files.pipe("/cifar/cifar-10-binary.tar.gz", binary(tmp_path).read_bytes())
    with pytest.raises(UsageError, match="read from a local disk only: copy it there"):
        scan_source("memory://cifar")
    files.rm("/cifar", recursive=True)


class _Runs:
    def __reduce__(self) -> tuple[Any, ...]:
        return subprocess.check_call, (["touch", "ran"],)


def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    hostile = pickle.dumps({b"labels": [1], b"data": _Runs()}, protocol=2)
    files = changed(CIFAR.python(), "data_batch_1", hostile)
    with pytest.raises(SourceError, match="which is not plain data"):
        scan_source(write_archive(tmp_path / "cifar-10-python.tar.gz", "cifar", files))
    assert not (tmp_path / "ran").exists()


def test_pickles_of_python_3_are_read() -> None:
    array = np.arange(6, dtype=np.uint8).reshape(2, 3)
    content = pickle.dumps({"data": array, "labels": [1, 300, -2], "name": "é"}, protocol=3)
    found = read_plain(content)
    place = found["data"]
    assert isinstance(place, PickledArray)
    assert place.shape == (2, 3)
    assert content[place.offset : place.offset + place.size] == array.tobytes()
    assert (found["labels"], found["name"]) == ([1, 300, -2], "é")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps(np.zeros((2, 2), np.float32), protocol=3), "another type than uint8"),
        (pickle.dumps(np.asfortranarray(np.zeros((2, 2), np.uint8)), protocol=3), "in C order"),
        (pickle.dumps({(1, 2): 3}, protocol=2), "malformed"),
        (b"\x80\x02}" + b"K\x00" + b"\x85" * 200_000 + b"K\x00s.", "malformed"),
        (b"\x80\x02(" + b"K\x00" * 1_000_001, "more than 1,000,000 operations"),
        (b"h\x05.", "malformed"),
        (b"", "pickle"),
    ],
)  # fmt: skip
def test_anything_but_plain_data_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_plain(content)


@given(st.data())
def test_damaged_pickles_are_read_or_refused(data: st.DataObject) -> None:
    content = bytearray(python2({"labels": [1, 2], "data": np.zeros((2, 4), np.uint8)}))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(0, len(content))) :]
    try:
        read_plain(bytes(content))
    except ValueError:
        return
