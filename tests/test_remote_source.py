"""A source on a real S3 server: scanned and built by ranges, with the shards of a local build."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from imgprep.dataset.format import DATASET_INFO
from tests.conftest import files_of, imgprep
from tests.layouts import kaggle_above
from tests.objectstore import ObjectStore
from tests.remote_source import look, look_apart, put_tree
from tests.trees import Shape, make_archives, make_class_folders, write_files

TRAIN, VAL = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"


def noise(class_name: str, number: int) -> bytes:
    """As many random bytes as a large photograph has, for scans and readers only."""
    rng = np.random.default_rng([int(class_name[1:]), number])
    return bytes(rng.integers(0, 256, int(rng.integers(60_000, 90_000)), np.uint8))


def test_scans_equal_those_of_the_same_files_on_disk(s3: ObjectStore, tmp_path: Path) -> None:
    roots = {
        "archives": make_archives(tmp_path / "archives"),
        "folders": make_class_folders(tmp_path / "folders"),
        "kaggle": kaggle_above(tmp_path / "kaggle"),
        "cut": make_archives(tmp_path / "cut"),
    }
    odd = {"empty.JPEG": b"", "猫 ñ+%20&?#.JPEG": b"x", "a b.JPEG": b"y"}
    write_files(roots["folders"] / "train" / "n01440764", odd)
    tar = (roots["cut"] / TRAIN).read_bytes()
    (roots["cut"] / TRAIN).write_bytes(tar[: len(tar) * 2 // 5])
    urls = [put_tree(s3, root, name) for name, root in roots.items()]
    s3.put("folders/train/", b"")  # as the console of the store makes a folder
    s3.put("folders/train/n01440764/", b"")
    inside = f"{urls[2]}/ILSVRC/Data/CLS-LOC"  # its tables are above
    found = look_apart(*urls, inside)
    assert found[:4] == [look(root) for root in roots.values()]
    assert found[4] == look(roots["kaggle"] / "ILSVRC/Data/CLS-LOC")
    assert found[1]["counts"] == {"empty-file": 1}
    assert found[3]["counts"]
    # Folders are listed; no object is asked for its size.
    assert not [request for request in s3.proxy.heard("HEAD") if "/folders/" in request.path]


def test_archives_are_read_by_ranges(s3: ObjectStore, tmp_path: Path) -> None:
    shape = Shape(train_per_class=20, val_images=60, image=noise)
    root = make_archives(tmp_path, shape)
    url = put_tree(s3, root, "ilsvrc")
    ran = imgprep("scan", url, "--json")
    assert ran.code == 0, ran.err
    assert not ran.err
    assert ran.json["source"] == url
    assert {split["split"]: split["images"] for split in ran.json["splits"]} == {
        "train": 60,
        "val": 60,
    }
    local = imgprep("scan", root, "--json").json
    assert {**ran.json, "source": ""} == {**local, "source": ""}
    for name in (TRAIN, VAL):
        size_bytes = (root / name).stat().st_size
        assert size_bytes > 4_000_000
        assert s3.proxy.served[f"/{s3.bucket}/ilsvrc/{name}"] < size_bytes / 3
    assert len(s3.proxy.heard("GET", VAL)) < 2 * shape.val_images


def test_checksums_stream_the_archives(s3: ObjectStore, tmp_path: Path) -> None:
    root = make_archives(tmp_path)
    url = put_tree(s3, root, "ilsvrc")
    remote, local = (imgprep("scan", at, "--checksum", "--json") for at in (url, root))
    assert remote.code == local.code == 1  # They are not the published archives.
    assert remote.json["checksums"] == local.json["checksums"]
    assert len(remote.json["checksums"]) == 3


def same_bytes(local: Path, remote: Path) -> bool:
    """Whether two datasets are equal except for the markers, which contain modification times."""
    first, second = files_of(local), files_of(remote)
    alike = [name for name in first if not name.endswith(".json")]
    assert len(alike) > 8
    return first.keys() == second.keys() and all(first[name] == second[name] for name in alike)


def fingerprint(dest: Path) -> str:
    return str(json.loads((dest / DATASET_INFO).read_bytes())["fingerprint"])


def test_shards_from_archives_equal_those_of_a_local_build(
    s3: ObjectStore, mini_archives: Path, tmp_path: Path
) -> None:
    url = put_tree(s3, mini_archives, "data/source")
    local, remote = tmp_path / "local", tmp_path / "remote"
    for source, dest in ((mini_archives, local), (f"{url}/", remote)):
        ran = imgprep("build-shards", source, dest, "--jobs", 2, "--shard-images", 20)
        assert ran.code == 0, ran.err
    assert same_bytes(local, remote)
    assert fingerprint(local) == fingerprint(remote)
    again = imgprep("build-shards", url, remote, "--shard-images", 20, "--json")
    assert again.code == 0, again.err
    assert again.json["read_images"] == 0
    s3.put(f"data/source/{VAL}", (mini_archives / VAL).read_bytes())
    other = imgprep("build-shards", url, remote, "--shard-images", 20)
    assert other.code == 1
    assert "source.val.modified_sha256" in other.err


def test_shards_from_folders_equal_those_of_a_local_build(
    s3: ObjectStore, mini: Path, built: Path, tmp_path: Path
) -> None:
    url = put_tree(s3, mini, "source")
    ran = imgprep("build-shards", url, tmp_path, "--jobs", 1, "--shard-images", 20)
    assert ran.code == 0, ran.err
    assert same_bytes(built, tmp_path)
    assert fingerprint(built) == fingerprint(tmp_path)


def test_a_dry_run_takes_its_sample_by_ranges(
    s3: ObjectStore, mini_archives: Path, tmp_path: Path
) -> None:
    url = put_tree(s3, mini_archives, "source")
    ran = imgprep("build-shards", url, tmp_path / "dest", "--dry-run", "--json")
    assert ran.code == 0, ran.err
    local = imgprep("build-shards", mini_archives, tmp_path / "dest", "--dry-run", "--json")
    assert ran.json["total_bytes"] == local.json["total_bytes"]
    assert not (tmp_path / "dest").exists()
