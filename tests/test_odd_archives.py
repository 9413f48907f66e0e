"""Archives of real ``tar`` with rare members are read; other files are named for what they are."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import subprocess
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import pytest

from imgprep.errors import SourceError
from imgprep.sources.filekind import not_a_tar
from imgprep.sources.lanes import walk_in_lanes
from imgprep.sources.local_tree import range_file_of
from imgprep.sources.remote_file import mtime_of
from imgprep.sources.scan import scan_source
from imgprep.sources.tarwalk import TarMember, walk
from tests.conftest import imgprep
from tests.trees import (
    Shape,
    make_archives,
    make_class_folders,
    make_devkit,
    tar_bytes,
    write_files,
)

TRAIN, VAL = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
FILES = {"a.JPEG": b"a" * 700, "b.JPEG": b"b" * 150_000, "c.JPEG": b"c" * 3000}


def tar(folder: Path, *arguments: object, answers: str = "") -> None:
    """Run the system's tar in a folder."""
    command = ["tar", "--sort=name", *map(str, arguments)]
    done = subprocess.run(
        command, cwd=folder, input=answers, capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 2), done.stderr


def members(path: Path) -> list[TarMember]:
    """The members that a walk finds; a walk in lanes must find the same."""
    with path.open("rb") as opened:
        file = range_file_of(opened.fileno())
        found = list(walk(file, 0, file.size_bytes))
        assert list(walk_in_lanes(file, 0, file.size_bytes, 5, 2048)) == found
    return found


def usable(path: Path) -> dict[str, bytes]:
    data = path.read_bytes()
    return {
        os.fsdecode(one.name).removeprefix("d/"): data[one.offset : one.offset + one.size_bytes]
        for one in members(path)
        if not one.problem
    }


@pytest.fixture
def work(tmp_path: Path) -> Path:
    write_files(tmp_path / "d", FILES)
    return tmp_path


FORMATS = ["gnu", "oldgnu", "pax"]


@pytest.mark.parametrize("tar_format", FORMATS)
@pytest.mark.parametrize("option", ["--label=images of 2012", "--listed-incremental=snapshot"])
def test_labels_and_incremental_backups_are_read(option: str, tar_format: str, work: Path) -> None:
    tar(work, f"--format={tar_format}", option, "-cf", "x.tar", "d")
    assert usable(work / "x.tar") == FILES
    assert {one.problem for one in members(work / "x.tar")} <= {"", "directory", "metadata"}


@pytest.mark.parametrize("tar_format", FORMATS)
@pytest.mark.parametrize("volume", [1, 2])
def test_one_volume_of_several_says_what_it_lacks(volume: int, tar_format: str, work: Path) -> None:
    answers = "".join(f"n x.{number}\n" for number in (2, 3))
    tar(work, f"--format={tar_format}", "-M", "-L", 100, "-cf", "x.1", "d", answers=answers)
    found = {one.problem: one.cause for one in members(work / f"x.{volume}")}
    if volume == 1:
        assert usable(work / "x.1") == {"a.JPEG": FILES["a.JPEG"]}
        assert "before the end of this member" in found["cut-short"]
    else:
        assert "begins in another volume (tar --multi-volume)" in found["not-a-file"]
        assert usable(work / "x.2") == {"c.JPEG": FILES["c.JPEG"]}


@pytest.mark.parametrize("sparse_version", ["", "0.0", "0.1", "1.0"])
def test_sparse_files_are_reported_and_the_others_read(sparse_version: str, work: Path) -> None:
    with (work / "d" / "b.JPEG").open("wb") as file:
        for place in range(0, 40_000_000, 1_000_000):  # More holes than one header can list.
            file.seek(place)
            file.write(b"x" * 5000)
    version = [f"--sparse-version={sparse_version}", "--format=pax"] if sparse_version else []
    tar(work, *version, "-S", "-cf", "x.tar", "d")
    assert (work / "x.tar").stat().st_size < 1_000_000
    assert usable(work / "x.tar") == {"a.JPEG": FILES["a.JPEG"], "c.JPEG": FILES["c.JPEG"]}
    assert [one.cause for one in members(work / "x.tar") if one.problem == "not-a-file"] == [
        "a sparse file, not a file"
    ]


@pytest.mark.parametrize("tar_format", FORMATS)
def test_long_names_links_and_comments_are_read(tar_format: str, work: Path) -> None:
    long = "n" * 90
    folder = work / "d" / long / long
    write_files(folder, {"deep.JPEG": b"deep"})
    (work / "d" / "link.JPEG").symlink_to(f"{long}/{long}/deep.JPEG")
    pax = ["--pax-option=globexthdr.name=g,comment:=hello"] if tar_format == "pax" else []
    tar(work, f"--format={tar_format}", *pax, "-cf", "x.tar", "d")
    assert usable(work / "x.tar") == {**FILES, f"{long}/{long}/deep.JPEG": b"deep"}
    causes = [one.cause for one in members(work / "x.tar") if one.problem == "not-a-file"]
    assert causes == ["a symbolic link, not a file"]


def test_a_build_from_labelled_and_incremental_archives(tmp_path: Path) -> None:
    shape = Shape()
    source = tmp_path / "source"
    for name, files in shape.train().items():
        write_files(tmp_path / "train" / name, files)
        tar(tmp_path / "train" / name, "--listed-incremental=../s", "-cf", f"../{name}.tar", ".")
    source.mkdir()
    tars = [f"{name}.tar" for name in shape.classes]
    tar(tmp_path / "train", "--label=train", "-cf", source / TRAIN, *tars)
    write_files(tmp_path / "val", shape.val())
    tar(tmp_path / "val", "--label=val", "--format=pax", "-cf", source / VAL, ".")
    make_devkit(source, shape)
    ran = imgprep("scan", source, "--json")
    assert ran.code == 0, ran.out
    assert ran.json["problem_counts"] == {}
    assert ran.json["oddities"]["volume labels and other metadata in tars, ignored"] == 1
    assert [split["images"] for split in ran.json["splits"]] == [9, 6]
    built = imgprep("build-shards", source, tmp_path / "out", "--size", 16, "--jobs", 1)
    assert built.code == 0, built.err


PAGE = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body></body></html>\n"
PLAIN = tar_bytes([("a.JPEG", b"1")])


def zipped(path: Path) -> bytes:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.JPEG", b"1")
    return path.read_bytes()


KINDS: dict[bytes, str] = {
    gzip.compress(PLAIN): "it is gzip data, not a tar: decompress it first",
    bz2.compress(PLAIN): "it is bzip2 data, not a tar: decompress it first",
    lzma.compress(PLAIN): "it is xz data, not a tar: decompress it first",
    PAGE: "it is an HTML page, not a tar: the download saved a web page, often a login",
    b"\n  <HTML>" + PAGE * 20: "it is an HTML page, not a tar",
    b"\xef\xbb\xbf<html>": "it is an HTML page, not a tar",
    b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>': "it is an XML document",
    b'{"message": "Unauthorized"}': "it is a JSON document",
    b"version https://git-lfs.github.com/spec/v1\n": "it is a Git LFS pointer, not a tar: get the",
    b"404 Not Found": "it is text, not a tar ('404 Not Found')",
}


@pytest.mark.parametrize("name", [TRAIN, VAL])
@pytest.mark.parametrize("content", KINDS, ids=KINDS.values())
def test_a_file_that_is_not_a_tar_is_named(content: bytes, name: str, tmp_path: Path) -> None:
    make_archives(tmp_path / "source")
    (tmp_path / "source" / name).write_bytes(content)
    for command in (["scan"], ["build-shards"], ["build-shards", "--on-error", "skip"]):
        dest = [tmp_path / "out"] if command[0] == "build-shards" else []
        ran = imgprep(*command, tmp_path / "source", *dest)
        assert ran.code == 1
        assert f"{name}: {KINDS[content]}" in ran.err
        assert "Traceback" not in ran.err


@pytest.mark.parametrize("content", KINDS, ids=KINDS.values())
def test_a_class_tar_that_is_not_a_tar_is_named(content: bytes, tmp_path: Path) -> None:
    outer = [("n01440764.tar", content), ("n01443537.tar", PLAIN)]
    write_files(tmp_path / "packed", {TRAIN: tar_bytes(outer)})
    write_files(tmp_path / "unpacked", dict(outer))
    for folder in ("packed", "unpacked"):
        scan = scan_source(tmp_path / folder)
        assert scan.problem_counts == {"not-a-tar": 1, "empty-class": 1}
        assert scan.problems[0].cause.startswith(KINDS[content])


def test_a_zip_and_other_kinds_are_named(tmp_path: Path) -> None:
    assert not_a_tar(zipped(tmp_path / "x.zip")).startswith("it is a zip archive, not a tar")
    assert not_a_tar(b"%PDF-1.4").startswith("it is a PDF document")
    assert not_a_tar(b"\xff\xd8\xff\xe0").startswith("it is a JPEG image")
    for unknown in (b"", b"\0" * 512, b"\x80\x81" * 100, PLAIN[:512], b"caf\xe9 " * 99):
        assert not_a_tar(unknown) == ""


@pytest.mark.parametrize("content", [b"", bytes(512), bytes(10240), PLAIN[:100]])
def test_an_archive_without_members_is_a_problem(content: bytes, tmp_path: Path) -> None:
    write_files(tmp_path, {TRAIN: content})
    ran = imgprep("scan", tmp_path, "--json")
    assert ran.code == 3
    assert sum(ran.json["problem_counts"].values()) == 1
    if not content:
        assert ran.json["problems"][0]["cause"] == "it is empty"


@pytest.mark.parametrize("layout", ["folders", "archives"])
@pytest.mark.parametrize(
    "seconds", [10_413_792_000, 9_223_372_037, -1_577_836_800, -1, 0, 2**34 - 1, -(2**31)]
)
def test_times_of_any_year(seconds: int, layout: str, tmp_path: Path) -> None:
    """2300 and 1920, which do not fit or are negative in ns as int64, and limits of ext4."""
    make = make_class_folders if layout == "folders" else make_archives
    source = make(tmp_path / "source")
    identity = scan_source(source).identity()
    for path in source.rglob("*"):
        os.utime(path, (seconds, seconds))
    assert imgprep("scan", source).code == 0
    dest = tmp_path / "out"
    options = ("--size", 16, "--jobs", 1)
    ran = imgprep("build-shards", source, dest, *options)
    assert ran.code == 0, ran.err
    assert "nothing to build" in imgprep("build-shards", source, dest, *options).out
    changed = scan_source(source).identity()
    assert {key for key in identity if identity[key] != changed[key]} == {
        "train.modified_sha256",
        "val.modified_sha256",
    }


def test_times_of_any_year_in_a_store() -> None:
    far = datetime(2300, 1, 1, tzinfo=UTC)
    assert -(2**63) <= mtime_of({"LastModified": far}) < 2**63
    assert mtime_of({"LastModified": far}) != mtime_of({"LastModified": far.replace(second=1)})
    assert mtime_of({"mtime": -5}) == -5_000_000_000


def test_a_damaged_first_header_is_still_called_damaged(tmp_path: Path) -> None:
    make_archives(tmp_path)
    with (tmp_path / TRAIN).open("r+b") as file:
        file.write(b"\x01")
    scan = scan_source(tmp_path)
    assert "the header at byte 0 is damaged" in scan.problems[0].cause
    (tmp_path / VAL).write_bytes(PAGE)
    with pytest.raises(SourceError, match="it is an HTML page"):
        scan_source(tmp_path)
