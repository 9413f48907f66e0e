"""Scanning a URL gives what scanning the same files on disk gives, sound or damaged."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from imgprep.build.job import build
from imgprep.build.options import BuildOptions
from imgprep.errors import SourceFaultError, UsageError
from imgprep.sources.checksums import checksum_archives
from imgprep.sources.reader import SourceReader
from imgprep.sources.scan import scan_source
from imgprep.sources.scan_report import ScanReport
from imgprep.spec import BuildSpec, ImageSpec
from tests.layouts import WHOLE
from tests.remote_source import look, put_memory
from tests.test_store_build import Silent
from tests.trees import (
    Shape,
    kaggle_solution,
    make_archives,
    make_class_folders,
    make_devkit,
    tar_bytes,
    tiny_jpeg,
    write_files,
)

SHAPE = Shape()
TRAIN = "ILSVRC2012_img_train.tar"
VAL = "ILSVRC2012_img_val.tar"


@pytest.fixture
def memory(request: pytest.FixtureRequest) -> Iterator[str]:
    """A folder in the memory of this process, for one test."""
    import fsspec

    url = f"memory://{request.node.name.partition('[')[0]}"
    yield url
    fs = fsspec.filesystem("memory")
    if fs.exists(url):
        fs.rm(url, recursive=True)


@pytest.mark.parametrize("build", WHOLE, ids=lambda build: build.__name__)
def test_every_layout(build: Callable[[Path], Path], tmp_path: Path, memory: str) -> None:
    root = build(tmp_path)
    url = f"{put_memory(tmp_path, memory)}/{root.relative_to(tmp_path)}".removesuffix("/.")
    found = look(url)
    assert found == look(root)
    assert {name: len(rows) for name, rows in found["splits"].items()} == {"train": 9, "val": 6}
    assert not found["problems"]


def cut(name: str, share: float) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        make_archives(root, Shape(train_per_class=12))
        os.truncate(root / name, int((root / name).stat().st_size * share))

    return spoil


def overwrite(offset: int, data: bytes) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        make_archives(root)
        with (root / TRAIN).open("r+b") as file:
            file.seek(offset)
            file.write(data)

    return spoil


def odd_members(root: Path) -> None:
    """Links, odd names, empty and repeated files, and members that are not class tars."""
    link = tarfile.TarInfo("link.JPEG")
    link.type = tarfile.SYMTYPE
    names = ["a.JPEG", "/abs.JPEG", "../up.JPEG", "a.JPEG", "._a.JPEG"]
    inner = [(tarfile.TarInfo(name), b"x") for name in names]
    inner += [(link, b""), (tarfile.TarInfo("empty.JPEG"), b"")]
    outer = [("n01440764.tar", tar_bytes(inner)), ("README", b"hello"), ("n2.tar", b"text" * 300)]
    write_files(root, {TRAIN: tar_bytes(outer)})


def odd_folders(root: Path) -> None:
    """Strays, clutter, an empty file, a folder in a class folder, names of all kinds."""
    make_class_folders(root)
    write_files(root / "train", {"stray.jpg": b"x", "list.txt": b"x", ".hidden": b"x"})
    names = {"empty.JPEG": b"", "Thumbs.db": b"x", "猫 ñ+%20&?#.JPEG": b"x", "no ending": b"x"}
    write_files(root / "train" / "n01440764", names)
    write_files(root / "train" / "n01440764" / "nested", {"a.JPEG": b"x"})


def flat_val_incomplete(root: Path) -> None:
    make_class_folders(root, val="flat")
    make_devkit(root, SHAPE)
    next((root / "val").iterdir()).unlink()


def no_truth(root: Path) -> None:
    make_class_folders(root, val="flat")


def devkit_and_kaggle_disagree(root: Path) -> None:
    make_archives(root)
    write_files(root, {"LOC_val_solution.csv": kaggle_solution(Shape(val_images=5))})


def two_layouts(root: Path) -> None:
    make_archives(root)
    make_class_folders(root)


def one_class_tar_is_cut(root: Path) -> None:
    files = {f"{n}.tar": tar_bytes(files.items()) for n, files in SHAPE.train().items()}
    write_files(root, files)
    os.truncate(root / "n01443537.tar", 1300)


def val_twice(root: Path) -> None:
    make_class_folders(root)
    write_files(root / "validation" / "n01440764", {"x.jpg": tiny_jpeg("x", 1)})


def devkit_is_no_archive(root: Path) -> None:
    make_archives(root)
    write_files(root, {"ILSVRC2012_devkit_t12.tar.gz": b"no gzip"})


BROKEN: dict[str, Callable[[Path], object]] = {
    "cut at a tenth": cut(TRAIN, 0.1),
    "cut in the middle": cut(TRAIN, 0.5),
    "cut near the end": cut(TRAIN, 0.8),
    "nothing left": cut(TRAIN, 0.0),
    "val is cut": cut(VAL, 0.5),
    "bad header outside": overwrite(0, b"x" * 100),
    "bad header inside": overwrite(512, b"x" * 100),
    "a size that lies": overwrite(512 + 124, b"77777777777\0"),
    "odd members": odd_members,
    "odd folders": odd_folders,
    "flat val incomplete": flat_val_incomplete,
    "no truth": no_truth,
    "truths disagree": devkit_and_kaggle_disagree,
    "two layouts": two_layouts,
    "a class tar is cut": one_class_tar_is_cut,
    "no source": lambda root: write_files(root, {"a.txt": b"x"}),
    "val twice": val_twice,
    "devkit is no archive": devkit_is_no_archive,
}


@pytest.mark.parametrize("spoil", BROKEN)
def test_faults_are_reported_in_the_same_words(spoil: str, tmp_path: Path, memory: str) -> None:
    BROKEN[spoil](tmp_path)
    found = look(put_memory(tmp_path, memory))
    assert found == look(tmp_path)
    assert found.get("problems") or found["error"]


def test_locations_that_do_not_exist_or_are_not_folders(tmp_path: Path, memory: str) -> None:
    put_memory(make_archives(tmp_path), memory)
    with pytest.raises(UsageError, match="does not exist: no object has this prefix"):
        scan_source(f"{memory}/absent")
    with pytest.raises(UsageError, match=f"is a file; give the folder that contains it: {memory}"):
        scan_source(f"{memory}/{TRAIN}")
    with pytest.raises(UsageError, match="unknown kind of URL"):
        scan_source("nowhere://bucket/folder")
    with pytest.raises(UsageError, match="names no folder"):
        scan_source("memory://")


def test_a_file_url_is_its_path(tmp_path: Path) -> None:
    root = make_archives(tmp_path / "with space")
    scan = scan_source(root.as_uri())
    assert scan.root == str(root)
    assert scan.identity() == scan_source(root).identity()
    with SourceReader(root.as_uri(), scan.splits["train"]) as reader:
        assert reader.read(0) == SHAPE.train()["n01440764"]["n01440764_1.JPEG"]
    assert checksum_archives(root.as_uri()) == checksum_archives(root)


def test_identity_is_that_of_the_listing(tmp_path: Path, memory: str) -> None:
    put_memory(make_class_folders(tmp_path), memory)
    before = scan_source(memory).identity()
    assert scan_source(memory).identity() == before
    local = scan_source(tmp_path).identity()
    changed = {name for name, value in before.items() if local[name] != value}
    assert changed == {"train.modified_sha256", "val.modified_sha256"}
    put_memory(tmp_path, memory)  # the same bytes, rewritten
    after = scan_source(memory).identity()
    assert {name for name, value in before.items() if after[name] != value} == changed


def test_a_report_names_the_url(tmp_path: Path, memory: str) -> None:
    put_memory(make_archives(tmp_path), memory)
    report = ScanReport.from_scan(scan_source(f"{memory}/"))
    assert report.source == memory
    assert report.render().startswith(f"source    {memory}\n")


def test_checksums_by_ranges(tmp_path: Path, memory: str) -> None:
    put_memory(make_archives(tmp_path), memory)
    seen: list[tuple[int, int]] = []
    assert checksum_archives(memory, lambda *at: seen.append(at)) == checksum_archives(tmp_path)
    assert seen[-1][0] == seen[-1][1] > 0


def test_a_build_from_memory_has_the_shards_of_one_from_disk(
    mini: Path, tmp_path: Path, memory: str
) -> None:
    spec = BuildSpec(image=ImageSpec(size_px=64), split="val")
    options = BuildOptions(jobs=1)
    put_memory(mini, memory)
    built = [
        build(source, tmp_path / name, spec, options, Silent())
        for name, source in (("disk", mini), ("memory", memory))
    ]
    assert built[0].index.fingerprint == built[1].index.fingerprint
    assert [shard.sha256 for shard in built[0].index.splits["val"].shards] == [
        shard.sha256 for shard in built[1].index.splits["val"].shards
    ]


def test_objects_that_changed_since_the_scan_are_not_bad_images(
    tmp_path: Path, memory: str
) -> None:
    import fsspec

    fs = fsspec.filesystem("memory")
    folders = put_memory(make_class_folders(tmp_path / "f", val="none"), f"{memory}/f")
    archives = put_memory(make_archives(tmp_path / "a", val=False), f"{memory}/a")
    rows = scan_source(folders).splits["train"]
    first = f"{folders}/train/n01440764"
    fs.pipe_file(f"{first}/n01440764_1.JPEG", b"x" * (int(rows.rows[0]["size_bytes"]) + 5))
    fs.pipe_file(f"{first}/n01440764_2.JPEG", b"")
    fs.rm(f"{first}/n01440764_3.JPEG")
    with SourceReader(folders, rows) as reader:
        reader.will_need(range(4))
        with pytest.raises(SourceFaultError, match=r"since the scan: it had [\d,]+ bytes, now"):
            reader.read(0)
        with pytest.raises(SourceFaultError, match="bytes, now 0"):
            reader.read(1)
        with pytest.raises(SourceFaultError, match=r"_3\.JPEG cannot be read"):
            reader.read(2)
        assert reader.read(3) == tiny_jpeg("n01443537", 1)
    rows = scan_source(archives).splits["train"]
    with SourceReader(archives, rows) as reader:
        assert reader.read(0) == tiny_jpeg("n01440764", 1)
        fs.pipe_file(f"{archives}/{TRAIN}", b"short")
        with pytest.raises(SourceFaultError, match=r"archive now ends [\d,]+ bytes before"):
            reader.read(1)
    with (
        SourceReader(archives, rows) as reader,
        pytest.raises(SourceFaultError, match="archive was replaced"),
    ):
        reader.read(0)
