"""Verify names every damaged file of a finished dataset and exits with 4."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgprep.dataset.index import load_index
from tests.conftest import imgprep

Spoil = Callable[[Path], None]


@pytest.fixture
def dataset(built: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    shutil.copytree(built, tmp_path / "dataset")
    return tmp_path / "dataset"


def flip_bit(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(bytes(data))


def cut(path: Path, keep: int) -> None:
    path.write_bytes(path.read_bytes()[:keep])


def swap_labels(path: Path) -> None:
    """Give one record another label; tar, index and header stay consistent."""
    data = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        label = next(member for member in tar if member.name.endswith(".cls"))
    digits = bytes(data[label.offset_data : label.offset_data + 4])
    data[label.offset_data : label.offset_data + 4] = b"%04d" % ((int(digits) + 1) % 4)
    path.write_bytes(bytes(data))


def edit_json(path: Path, name: str, value: object) -> None:
    content = json.loads(path.read_text())
    content[name] = value
    path.write_text(json.dumps(content))


def replace(path: Path, data: bytes) -> None:
    path.write_bytes(data)


DAMAGE: dict[str, tuple[Spoil, str]] = {
    "one bit of an image": (lambda d: flip_bit(d / "train-000001.tar", 5000), "train-000001.tar"),
    "one bit of a tar header": (lambda d: flip_bit(d / "val-000000.tar", 3), "val-000000.tar"),
    "one bit of the padding": (lambda d: flip_bit(d / "val-000000.tar", -1), "val-000000.tar"),
    "a shard cut short": (lambda d: cut(d / "train-000002.tar", 70_000), "train-000002.tar"),
    "an empty shard": (lambda d: cut(d / "train-000002.tar", 0), "train-000002.tar"),
    "a shard that is gone": (lambda d: (d / "val-000001.tar").unlink(), "val-000001.tar"),
    "a label": (lambda d: swap_labels(d / "train-000003.tar"), "label"),
    "an index": (lambda d: flip_bit(d / "train-000000.idx", 30), "train-000000.idx"),
    "an index cut short": (lambda d: cut(d / "train-000000.idx", 200), "train-000000.idx"),
    "an index that is gone": (lambda d: (d / "train-000000.idx").unlink(), "train-000000.idx"),
    "a done marker": (
        lambda d: edit_json(d / ".imgprep/done/train-000000.json", "records", 7),
        ".imgprep/done/train-000000.json",
    ),
    "the mean image": (lambda d: flip_bit(d / "mean_image.npy", 4000), "mean_image.npy"),
    "the pixel sum": (lambda d: flip_bit(d / "pixel_sum.npy", 4000), "pixel_sum.npy"),
    "the PCA": (lambda d: edit_json(d / "rgb_pca.json", "images", 95), "rgb_pca.json"),
    "the labels": (lambda d: cut(d / "labels.json", 100), "labels.json"),
    "the list of sources": (
        lambda d: replace(d / "val-sources.tsv.gz", gzip.compress(b"0\t3\tx\n")),
        "val-sources.tsv.gz",
    ),
    "a shard too many": (
        lambda d: replace(d / "val-000009.tar", (d / "val-000000.tar").read_bytes()),
        "val-000009.tar",
    ),
    "the dataset index": (
        lambda d: edit_json(d / "dataset_info.json", "classes", 5),
        "dataset_info.json",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_found_and_named(dataset: Path, name: str) -> None:
    spoil, where = DAMAGE[name]
    spoil(dataset)
    ran = imgprep("verify", dataset)
    assert ran.code == 4, ran.out + ran.err
    assert where in ran.out + ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("name", ["val-sources.tsv.gz", "labels.json", "mean_image.npy"])
def test_a_file_that_is_gone_is_named_once(dataset: Path, name: str) -> None:
    (dataset / name).unlink()
    ran = imgprep("verify", dataset)
    assert ran.code == 4
    damaged = [line for line in ran.out.splitlines() if line.startswith("DAMAGED")]
    assert damaged == [f"DAMAGED {name}: cannot be read: No such file or directory"]


def test_a_complete_dataset_is_ok(built: Path) -> None:
    ran = imgprep("verify", built, "--decode")
    assert ran.code == 0
    assert "OK: everything is as the index states" in ran.out
    assert "levels of 255" in ran.out


def test_the_advice_to_repair_a_shard_works(mini: Path, dataset: Path) -> None:
    flip_bit(dataset / "train-000001.tar", 5000)
    assert "remove its .tar and .idx" in imgprep("verify", dataset).out
    for extension in ("tar", "idx"):
        (dataset / f"train-000001.{extension}").unlink()
    assert imgprep("build-shards", mini, dataset, "--shard-images", 20).code == 0
    assert imgprep("verify", dataset, "--decode").code == 0


def test_decoded_pixels_match_the_statistics(mini: Path, tmp_path: Path) -> None:
    """With lossless records, the decoded pixels must give the stored moments exactly."""
    dest = tmp_path / "raw"
    built = imgprep("build-shards", mini, dest, "--encoding", "raw", "--split", "train")
    assert built.code == 0
    whole = imgprep("verify", dest, "--decode", "--json").json
    assert whole["mean_difference_levels"] == whole["covariance_difference"] == 0.0
    moments = json.loads((dest / "rgb_pca.json").read_text())
    assert moments["images"] == 96


@pytest.mark.parametrize(("encoding", "code"), [("png", 4), ("jpeg", 0)])
def test_sums_that_were_wrong_before_publication_are_found(
    mini: Path, tmp_path: Path, encoding: str, code: int
) -> None:
    """All files agree with each other: only the decoded pixels tell. JPEG has no exact pixels."""
    dest = tmp_path / "set"
    options = ("--encoding", encoding, "--split", "train")
    assert imgprep("build-shards", mini, dest, *options).code == 0
    before = imgprep("verify", dest, "--decode", "--json").json["covariance_difference"]
    assert before < 0.01
    pca = json.loads((dest / "rgb_pca.json").read_text())
    pca["rgb_second_moment"][0][0] += pca["pixels"] * 800
    (dest / "rgb_pca.json").write_text(json.dumps(pca))
    index = json.loads((dest / "dataset_info.json").read_text())
    digest = hashlib.sha256((dest / "rgb_pca.json").read_bytes()).hexdigest()
    index["files"]["rgb_pca.json"] = digest
    (dest / "dataset_info.json").write_text(json.dumps(index))
    assert imgprep("verify", dest).code == 0
    ran = imgprep("verify", dest, "--decode", "--json")
    assert ran.code == code
    assert ran.json["covariance_difference"] > 0.05


def test_a_copy_of_the_visible_files_is_whole(dataset: Path) -> None:
    """Done markers are for builds: a copy without the state folder has none to check."""
    shutil.rmtree(dataset / ".imgprep")
    assert imgprep("verify", dataset, "--decode").code == 0
    flip_bit(dataset / "train-000000.idx", 30)
    assert imgprep("verify", dataset).code == 4


def test_no_dataset_is_not_damage(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "none"):
        ran = imgprep("verify", folder)
        assert ran.code == 1
        assert "Traceback" not in ran.err


@given(st.data())
def test_any_flipped_bit_of_the_index_is_refused(built: Path, data: st.DataObject) -> None:
    """Trainers rely on the index: every change of its meaning must be refused."""
    text = (built / "dataset_info.json").read_bytes()
    at = data.draw(st.integers(0, len(text) - 1))
    bit = data.draw(st.integers(0, 7))
    spoiled = bytearray(text)
    spoiled[at] ^= 1 << bit
    folder = built.parent / "spoiled"
    folder.mkdir(exist_ok=True)
    (folder / "dataset_info.json").write_bytes(bytes(spoiled))
    try:
        index = load_index(folder)
    except Exception as exc:
        assert type(exc).__name__ == "FormatError"  # noqa: PT017
    else:  # white space, or the versions of codecs, which the fingerprint leaves out
        whole = load_index(built)
        assert index.fingerprint == whole.fingerprint
        assert index.splits == whole.splits


def test_mean_of_decoded_records_is_near_the_mean_image(built: Path) -> None:
    """JPEG changes the mean a little; a wrong crop or order would change it a lot."""
    difference = imgprep("verify", built, "--decode", "--json").json["mean_difference_levels"]
    assert 0 < difference < 6
    assert 0 < imgprep("verify", built, "--decode", "--json").json["covariance_difference"] < 0.01
    assert np.load(built / "mean_image.npy").std() > 6
