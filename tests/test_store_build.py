"""A build into an object store is the local build, byte for byte; so are verify and stats."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from imgprep.build.dest import check_places
from imgprep.build.job import build
from imgprep.build.options import BuildOptions
from imgprep.colour.stats import load_moments
from imgprep.dataset.format import DONE_FOLDER
from imgprep.dataset.index import load_index
from imgprep.dataset.markers import Skip
from imgprep.errors import DamageError, DestinationError, UsageError
from imgprep.sources.manifest import SourceScan
from imgprep.spec import BuildSpec, ImageSpec
from imgprep.storage import Store, open_store
from imgprep.verify.dataset import verify
from tests.conftest import files_of, imgprep
from tests.objectstore import ObjectStore
from train.feed.dataset import open_dataset

_NUMBERS = itertools.count()


class Silent:
    """Hears a build and says nothing."""

    def scanning(self, images: int) -> None: ...
    def scanned(self, scan: SourceScan) -> None: ...
    def started(self, images: int, shards: int, shards_done: int) -> None: ...
    def advanced(self, done: int, bad: Sequence[Skip]) -> None: ...
    def retried(self, why: str, done: int, bad: Sequence[Skip]) -> None: ...
    def publishing(self) -> None: ...


def beside(objects: dict[str, bytes]) -> dict[str, bytes]:
    """What ``files_of`` a local dataset gives: no report, and of the state only done markers."""
    done = f"{DONE_FOLDER}/"
    return {
        name: data
        for name, data in objects.items()
        if name != "report.json" and "/" not in name.removeprefix(done)
    }


def put_folder(s3: ObjectStore, folder: Path, prefix: str) -> None:
    """Copy a local dataset, and what lies in its state folder, into the bucket."""
    for path in folder.rglob("*"):
        if path.is_file() and path.name != "lock":
            s3.put(f"{prefix}/{path.relative_to(folder)}", path.read_bytes())


def test_every_object_is_the_file_of_a_local_build(
    s3: ObjectStore, mini: Path, built: Path
) -> None:
    dest = f"{s3.url}/sets/mini"
    ran = imgprep("build-shards", mini, dest, "--jobs", 2, "--shard-images", 20)
    assert ran.code == 0, ran.err
    assert f"{dest}/train-{{000000..000004}}.tar" in ran.out
    assert f"imgprep verify {dest} --decode" in ran.out
    objects = s3.objects("sets/mini/")
    assert beside(objects) == files_of(built)
    assert sorted(name for name in objects if "/" in name) == [
        *sorted(f".imgprep/done/{path.name}" for path in (built / ".imgprep" / "done").iterdir()),
        ".imgprep/identity.json",
    ]
    identity = ".imgprep/identity.json"
    assert objects[identity] == (built / identity).read_bytes()
    again = imgprep("build-shards", mini, f"{dest}/", "--jobs", 2, "--shard-images", 20)
    assert (again.code, "nothing to build" in again.out) == (0, True), again.err
    whole = imgprep("verify", dest, "--decode", "--jobs", 2, "--json")
    assert whole.code == 0, whole.out + whole.err
    assert (whole.json["folder"], whole.json["ok"]) == (dest, True)
    assert whole.json["records"] == {"train": 96, "val": 24}


def test_large_shards_are_sent_in_parts(s3: ObjectStore, mini: Path, tmp_path: Path) -> None:
    options = ("--encoding", "raw", "--split", "train", "--shard-images", 100, "--jobs", 1)
    assert imgprep("build-shards", mini, tmp_path / "local", *options).code == 0
    ran = imgprep("build-shards", mini, f"{s3.url}/raw", *options)
    assert ran.code == 0, ran.err
    assert beside(s3.objects("raw/")) == files_of(tmp_path / "local")
    parts = s3.proxy.heard("PUT", "raw/train-000000.tar", "partNumber")
    assert [part.bytes_in for part in parts].count(8 << 20) == 2  # 18 MiB: two parts and a rest
    assert len(parts) == 3
    assert s3.unfinished_uploads() == []


def test_statistics_are_read_as_from_a_folder(s3: ObjectStore, built: Path) -> None:
    put_folder(s3, built, "data")
    dest = f"{s3.url}/data"
    assert imgprep("stats", dest).out == imgprep("stats", built).out
    here, there = open_dataset(built), open_dataset(dest)
    assert there.fingerprint == here.fingerprint
    assert there.mean_image_hwc.tobytes() == here.mean_image_hwc.tobytes()
    assert there.location == dest
    with pytest.raises(Exception, match="needed on a local disk"):
        there.index.shard_paths("train")


DAMAGE = {
    "train-000001.tar": "SHA-256 differs",
    "val-000000.idx": "not those that were written",
    ".imgprep/done/train-000000.json": "done marker",
    "mean_image.npy": "not those that were written",
    "val-sources.tsv.gz": "not those that were written",
}


def test_damage_in_the_store_is_found(s3: ObjectStore, built: Path) -> None:
    put_folder(s3, built, "data")
    for name in DAMAGE:
        data = bytearray((built / name).read_bytes())
        data[len(data) // 2] ^= 0x80
        s3.put(f"data/{name}", bytes(data))
    s3.delete("data/val-000001.tar")
    longer = (built / "train-000002.tar").read_bytes() + bytes(10240)
    s3.put("data/train-000002.tar", longer)
    s3.put("data/val-000007.tar", b"")
    ran = imgprep("verify", f"{s3.url}/data", "--jobs", 2)
    assert ran.code == 4, ran.err
    for name, what in DAMAGE.items():
        assert any(f"DAMAGED {name}" in line or (name in line and what in line)
                   for line in ran.out.splitlines()), (name, ran.out)  # fmt: skip
    assert "DAMAGED val-000001.tar: cannot be read" in ran.out
    assert f"train-000002.tar: {len(longer):,} bytes, the index states" in ran.out
    assert not any(
        request.method == "GET" and request.path.endswith("train-000002.tar")
        for request in s3.proxy.requests
    )
    assert "DAMAGED val-000007.tar: the index does not name this shard" in ran.out


def test_an_error_of_the_store_is_not_damage(s3: ObjectStore, built: Path) -> None:
    put_folder(s3, built, "data")
    s3.proxy.fail("status", path="train-000001.tar", status=403, code="AccessDenied")
    ran = imgprep("verify", f"{s3.url}/data", "--jobs", 1)
    assert ran.code == 1
    assert f"{s3.url}/data/train-000001.tar: Forbidden" in ran.err  # a HEAD request has no words
    assert "renew the credentials" in ran.err
    assert "DAMAGED" not in ran.out
    s3.proxy.fail("status", status=400, code="ExpiredToken")
    for command in ("verify", "stats"):
        ran = imgprep(command, f"{s3.url}/data")
        assert (ran.code, "xpired" in ran.err, "Traceback" in ran.err) == (1, True, False), ran.err


def contents(store: Store) -> dict[str, bytes]:
    done = [f"{DONE_FOLDER}/{name}" for name in store.names(DONE_FOLDER)]
    return {n: store.read(n) for n in [*store.names(), *done] if n != "report.json"}


def test_a_memory_url_works_within_one_process(mini: Path, built: Path) -> None:
    dest = f"memory://build-{next(_NUMBERS)}/set"
    spec, run = BuildSpec(image=ImageSpec(), shard_images=20), BuildOptions(jobs=2)
    first = build(mini, dest, spec, run, Silent())
    store = open_store(dest)
    assert contents(store) == files_of(built)
    assert first.index.fingerprint == load_index(built).fingerprint
    store.remove(".imgprep/done/train-000002.json", "rgb_pca.json")
    again = build(mini, dest, spec, run, Silent())
    assert again.built_records > 0
    assert contents(store) == files_of(built)
    assert load_moments(dest) == load_moments(built)
    report = verify(dest, decode=True, jobs=2, advanced=lambda _: None)
    assert (report.damages, report.records) == ([], {"train": 96, "val": 24})
    store.write("dataset_info.json", b"{}")
    with pytest.raises(DamageError):
        verify(dest, decode=False, jobs=1, advanced=lambda _: None)


def test_a_memory_url_with_other_files_is_refused(mini: Path) -> None:
    dest = f"memory://other-{next(_NUMBERS)}"
    open_store(dest).write("holiday.jpg", b"")
    spec, run = BuildSpec(image=ImageSpec(), limit=3), BuildOptions(jobs=1)
    with pytest.raises(DestinationError, match="is not empty and was not made by imgprep"):
        build(mini, dest, spec, run, Silent())


def test_a_dest_inside_the_source_is_refused(mini: Path) -> None:
    for source, dest in (
        ("s3://bucket/a", "s3://bucket/a"),
        ("s3://bucket/a", "s3://bucket/a/b"),
        ("s3://bucket/a", "s3a://bucket/a/b/"),
        ("s3://bucket/a/b", "s3://bucket/a"),
        ("s3://bucket/a/b", "s3://bucket"),
        (mini, f"file://{mini}/x"),
    ):
        with pytest.raises(UsageError, match="is inside"):
            check_places(source, dest)
    for source, dest in (
        ("s3://bucket/a", "s3://bucket/ab"),
        ("s3://bucket/a", "s3://bucket2/a/b"),
        ("s3://bucket/a", "memory://bucket/a"),
        (mini, "s3://bucket/a"),
    ):
        check_places(source, dest)


def test_force_removes_only_files_of_imgprep(s3: ObjectStore, mini: Path, built: Path) -> None:
    put_folder(s3, built, "data")
    s3.put("data/notes.txt", b"mine")
    s3.put("data/sub/train-000000.tar", b"mine")
    dest, options = f"{s3.url}/data", ("--split", "val", "--jobs", 1)
    ran = imgprep("build-shards", mini, dest, *options, "--force")
    assert ran.code == 0, ran.err
    assert sorted(name for name in s3.names("data/") if name.endswith(".tar")) == [
        "data/sub/train-000000.tar",
        "data/val-000000.tar",
    ]
    assert s3.get("data/notes.txt") == b"mine"
    assert list(load_index(dest).splits) == ["val"]


def test_a_dry_run_writes_nothing(s3: ObjectStore, mini: Path) -> None:
    ran = imgprep("build-shards", mini, f"{s3.url}/x", "--dry-run")
    assert ran.code == 0, ran.err
    assert "no limit" in ran.out
    assert s3.names() == []


def test_a_file_url_is_a_folder(mini: Path, built: Path, tmp_path: Path) -> None:
    options = ("--jobs", 2, "--shard-images", 20)
    shutil.copytree(built, tmp_path / "set")
    (tmp_path / "set" / ".imgprep" / "done" / "train-000001.json").unlink()
    ran = imgprep("build-shards", mini, f"file://{tmp_path}/set", *options)
    assert ran.code == 0, ran.err
    assert files_of(tmp_path / "set") == files_of(built)
    assert imgprep("verify", f"file://{tmp_path}/set").code == 0
