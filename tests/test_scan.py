"""A scan names every entry that cannot be used, and compares the rest with ILSVRC2012."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from imgprep.dataset.labels import order_digest
from imgprep.progress import StatusLine
from imgprep.sources.challenges import ILSVRC2012
from imgprep.sources.checksums import ChecksumResult, checksum_archives
from imgprep.sources.scan import scan_source
from imgprep.sources.scan_report import ScanReport, judge
from tests.conftest import imgprep
from tests.trees import Shape, make_archives, make_class_folders, tar_bytes, tiny_jpeg, write_files

NOBODY = 65534
SHAPE = Shape()


def test_folder_faults_are_problems_and_not_rows(tmp_path: Path) -> None:
    make_class_folders(tmp_path, val="none")
    folder = tmp_path / "train" / "n01440764"
    write_files(folder, {"empty.JPEG": b"", ".DS_Store": b"x", "Thumbs.db": b"x"})
    write_files(folder / "nested", {"a.JPEG": tiny_jpeg("a", 1)})
    (folder / "broken.JPEG").symlink_to("absent.JPEG")
    (folder / "loop.JPEG").symlink_to("loop.JPEG")
    os.mkfifo(folder / "pipe.JPEG")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as server:
        place = os.open(folder, os.O_PATH)
        server.bind(f"/proc/self/fd/{place}/s.JPEG")
        os.close(place)
    write_files(tmp_path / "train", {"stray.jpg": b"x", "list.txt": b"x"})
    (tmp_path / "train" / "gone").symlink_to("nowhere")
    (tmp_path / "train" / "n00000001").mkdir()
    scan = scan_source(tmp_path)
    assert {(problem.kind, problem.where) for problem in scan.problems} == {
        ("empty-file", "train/n01440764/empty.JPEG"),
        ("nested-folder", "train/n01440764/nested"),
        ("broken-link", "train/n01440764/broken.JPEG"),
        ("broken-link", "train/n01440764/loop.JPEG"),
        ("broken-link", "train/gone"),
        ("not-a-file", "train/n01440764/pipe.JPEG"),
        ("not-a-file", "train/n01440764/s.JPEG"),
        ("stray-file", "train/stray.jpg"),
        ("empty-class", "train/n00000001"),
    }
    assert all(problem.cause for problem in scan.problems)
    assert sum(scan.problem_counts.values()) == 9
    assert scan.oddities["hidden or clutter files, ignored"] == 2
    assert scan.oddities["files beside the class folders, ignored"] == 1
    assert scan.labels.names == ("n00000001", *SHAPE.classes)
    assert len(scan.splits["train"]) == 9


def test_links_to_files_and_folders_are_followed(tmp_path: Path) -> None:
    store = make_class_folders(tmp_path / "store", val="none") / "train"
    farm = tmp_path / "farm" / "train"
    (farm / "n01440764").mkdir(parents=True)
    for path in (store / "n01440764").iterdir():
        (farm / "n01440764" / path.name).symlink_to(path)
    (farm / "n01443537").symlink_to(store / "n01443537")
    scan = scan_source(tmp_path / "farm")
    assert scan.problem_counts == {}
    assert scan.splits["train"].rows["label"].tolist() == [0, 0, 0, 1, 1, 1]
    sizes = scan.splits["train"].rows["size_bytes"]
    assert sizes[0] == (store / "n01440764" / "n01440764_1.JPEG").stat().st_size


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Drop the rights of root, which can read everything, for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_files_without_permission_are_reported() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = make_class_folders(Path(folder) / "source", val="none")
        for path in (Path(folder), *root.rglob("*")):
            path.chmod(0o755)
        (root / "train" / "n01440764" / "n01440764_1.JPEG").chmod(0o200)
        (root / "train" / "n01443537").chmod(0o700 if os.geteuid() == 0 else 0o000)
        with as_nobody():
            scan = scan_source(root)
        (root / "train" / "n01443537").chmod(0o755)
    assert [(problem.kind, problem.where) for problem in scan.problems] == [
        ("unreadable-file", "train/n01440764/n01440764_1.JPEG"),
        ("unreadable-folder", "train/n01443537"),
        ("empty-class", "train/n01443537"),
    ]
    assert "ermission" in scan.problems[1].cause
    assert scan.labels.names == SHAPE.classes
    assert len(scan.splits["train"]) == 5


def test_a_class_tar_without_permission() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        root.chmod(0o755)
        tar = tar_bytes([("a.JPEG", b"1")])
        write_files(root, {"n01440764.tar": tar, "n01443537.tar": tar})
        (root / "n01440764.tar").chmod(0)
        with as_nobody():
            scan = scan_source(root)
    assert scan.problem_counts == {"unreadable-file": 1, "empty-class": 1}
    assert scan.splits["train"].label(0) == 1


def test_names_in_any_script_or_encoding(tmp_path: Path) -> None:
    name = os.fsdecode("猫 ñ\n".encode() + b"\xff.JPEG")
    class_name = os.fsdecode(b"class \xfe")
    write_files(tmp_path / class_name, {name: tiny_jpeg("cat", 1)})
    write_files(tmp_path / "plain", {"1.JPEG": tiny_jpeg("cat", 2)})
    scan = scan_source(tmp_path)
    assert scan.problem_counts == {}
    manifest = scan.splits["train"]
    assert manifest.where(0) == f"{class_name}/{name}"
    manifest.save(tmp_path / "saved")
    assert type(manifest).load(tmp_path / "saved").where(0) == manifest.where(0)
    (tmp_path / class_name / name).write_bytes(b"")
    report = ScanReport.from_scan(scan_source(tmp_path, "class-folders"))
    text = report.render()
    text.encode()
    assert "class \\xfe/猫 ñ\\n\\xff.JPEG" in text
    json.loads(json.dumps(report.to_json()))


def test_report_of_a_small_source(tmp_path: Path) -> None:
    make_archives(tmp_path)
    report = ScanReport.from_scan(scan_source(tmp_path))
    train, val = report.splits
    assert (train.split, train.images, train.classes) == ("train", 9, 3)
    assert (train.min_per_class, train.max_per_class) == (3, 3)
    assert train.total_bytes == sum(
        len(data) for files in SHAPE.train().values() for data in files.values()
    )
    assert (val.images, val.min_per_class, val.max_per_class) == (6, 2, 2)
    assert "subset" in train.verdict
    text = report.render()
    for part in ("archives: found ILSVRC2012_img_train.tar", "problems  none", "names ending"):
        assert part in text
    stored = json.loads(json.dumps(report.to_json()))
    assert stored["splits"][0]["images"] == 9
    assert stored["layout"] == "archives"


def test_report_shows_a_few_of_many_problems(tmp_path: Path) -> None:
    make_class_folders(tmp_path, val="none")
    write_files(tmp_path / "train" / "n01440764", {f"e{n}.JPEG": b"" for n in range(8)})
    text = ScanReport.from_scan(scan_source(tmp_path)).render()
    assert "  empty-file: 8\n" in text
    assert "train/n01440764/e2.JPEG: the file has no bytes" in text
    assert "e3.JPEG" not in text
    assert "and 5 more" in text


@pytest.mark.parametrize(
    ("split", "images", "classes", "per_class", "verdict"),
    [
        ("train", 1_281_167, 1000, (732, 1300), "matches ILSVRC2012"),
        ("train", 1_281_166, 1000, (732, 1300), "differs from ILSVRC2012: 1 image fewer"),
        ("train", 1_281_168, 1000, (732, 1300), "differs from ILSVRC2012: 1 image more"),
        ("train", 1_280_000, 999, (0, 1300), "1,167 images fewer, 1 class fewer"),
        ("train", 100_000, 100, (1000, 1000), "subset"),
        ("val", 50_000, 1000, (50, 50), "matches ILSVRC2012"),
        ("val", 50_000, 1000, (49, 51), "49-51 images per class, not 50"),
        ("val", 5_000, 1000, (5, 5), "subset"),
    ],
)
def test_comparison_with_the_known_counts(
    split: str, images: int, classes: int, per_class: tuple[int, int], verdict: str
) -> None:
    assert verdict in judge(split, images, classes, per_class, ILSVRC2012.class_order_sha256)


def test_counts_alone_do_not_match_ilsvrc2012() -> None:
    invented = order_digest(f"n{number:08d}" for number in range(1000))
    for split, images, per_class in (("train", 1_281_167, (732, 1300)), ("val", 50_000, (50, 50))):
        verdict = judge(split, images, 1000, per_class, invented)
        assert verdict == "differs from ILSVRC2012: other class names"


def test_an_archive_that_is_not_the_published_one_comes_with_advice(tmp_path: Path) -> None:
    make_archives(tmp_path)
    ran = imgprep("scan", tmp_path, "--checksum")
    assert ran.code == 1
    lines = {line.partition(":")[0]: line for line in ran.out.splitlines() if "MD5" in line}
    size_bytes = (tmp_path / ILSVRC2012.train_tar).stat().st_size
    assert (
        f"it has {size_bytes:,} bytes, the published archive 147,897,477,120: download it again "
        "if it should be whole; a subset or a repacked archive never matches"
        in lines[ILSVRC2012.train_tar]
    )
    assert "DIFFERS" in lines[f"{ILSVRC2012.devkit_name}.tar.gz"]
    assert (
        "a subset or a repacked archive never matches" in lines[f"{ILSVRC2012.devkit_name}.tar.gz"]
    )
    assert imgprep("scan", tmp_path).code == 0
    same_size = ChecksumResult("a.tar", "0", "1", 7, 7).render()
    assert same_size.endswith("so the content is damaged: download it again")
    assert ChecksumResult("a.tar", "0", "0", 7, 7).render() == "a.tar: MD5 0 matches"


def test_progress_is_a_plain_line_every_few_seconds_off_a_terminal(tmp_path: Path) -> None:
    make_archives(tmp_path)
    for seconds, expected in ((0.0, ["scan 3", "scan 6", "scan 9", "scan 6"]), (3600.0, [])):
        stream = io.StringIO()
        line = StatusLine(stream, plain_seconds=seconds)

        def show(images: int, line: StatusLine = line) -> None:
            line.show(f"scan {images}")

        scan_source(tmp_path, progress=show)
        line.end()
        assert stream.getvalue().splitlines() == expected
    quiet = StatusLine(stream, quiet=True, plain_seconds=0.0)
    quiet.show("scan 3")
    assert not stream.getvalue()
    assert StatusLine(stream).plain_seconds == 10


def test_checksums(tmp_path: Path) -> None:
    assert checksum_archives(tmp_path) == []
    make_archives(tmp_path)
    seen: list[tuple[int, int]] = []
    results = checksum_archives(tmp_path, lambda done, total: seen.append((done, total)))
    total = sum((tmp_path / name).stat().st_size for name in ILSVRC2012.md5_by_archive)
    assert [result.name for result in results] == list(ILSVRC2012.md5_by_archive)
    for result in results:
        assert result.md5 == hashlib.md5((tmp_path / result.name).read_bytes()).hexdigest()
        assert result.expected == ILSVRC2012.md5_by_archive[result.name]
        assert not result.ok
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert seen[-1] == (total, total)
