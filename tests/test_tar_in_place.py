"""The tar walk finds what ``tarfile`` finds, also in a tar inside a file, and trusts no tar."""

from __future__ import annotations

import io
import os
import random
import struct
import tarfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from imgprep.errors import SourceError, SourceFaultError
from imgprep.sources.local_tree import range_file_of
from imgprep.sources.manifest import SourceScan
from imgprep.sources.reader import SourceReader
from imgprep.sources.scan import scan_source
from imgprep.sources.tarwalk import TarMember, walk
from tests.trees import Shape, make_archives, make_class_folders, tar_bytes, tiny_jpeg, write_files

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
PARTS = st.text(
    st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=70
).filter(lambda text: set(text) != {"."} and text.strip())
NAMES = st.lists(PARTS, min_size=1, max_size=4).map("/".join)


def walk_bytes(data: bytes, before: int = 0, after: int = 0) -> list[TarMember]:
    """Walk ``data`` between other bytes of a file; offsets count from the start of ``data``."""
    fd = os.memfd_create("tar")
    try:
        os.write(fd, b"\x01" * before + data + b"\x01" * after)
        found = list(walk(range_file_of(fd), before, before + len(data)))
    finally:
        os.close(fd)
    return [entry._replace(offset=entry.offset - before) for entry in found]


def header(name: str, size_bytes: int = 0, **fields: bytes) -> bytes:
    """A USTAR header with single fields overwritten and a correct checksum."""
    places = {"typeflag": (156, 157), "size": (124, 136), "sparse_more": (482, 483)}
    block = bytearray(_info(name, size_bytes).tobuf(tarfile.USTAR_FORMAT))
    for field, value in fields.items():
        start, end = places[field]
        block[start:end] = value.ljust(end - start, b"\0")
    block[148:156] = b"%06o\0 " % (256 + sum(block[:148]) + sum(block[156:]))
    return bytes(block)


def _info(name: str, size_bytes: int = 0, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.type = size_bytes, kind
    return info


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


END = bytes(1024)


@given(
    members=st.lists(st.tuples(NAMES, st.integers(0, 70_000)), max_size=8),
    tar_format=st.sampled_from(FORMATS),
    before=st.integers(0, 3).map(lambda n: n * 512),
)
def test_walk_equals_tarfile(members: list[tuple[str, int]], tar_format: int, before: int) -> None:
    try:
        data = tar_bytes([(name, bytes(size)) for name, size in members], tar_format)
    except ValueError:
        assume(False)  # USTAR cannot hold the name
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        listed = archive.getmembers()
    expected = [
        (member.name.encode("utf-8", "surrogateescape"), member.offset_data, member.size)
        for member in listed
    ]
    assert walk_bytes(data, before, after=512) == [TarMember(*entry) for entry in expected]


@given(st.data())
def test_a_damaged_tar_never_leads_outside(data: st.DataObject) -> None:
    names = ["a" * 120, "b.JPEG", "c.JPEG"]
    tar = bytearray(tar_bytes([(name, b"x" * 700) for name in names], tarfile.PAX_FORMAT))
    for _ in range(data.draw(st.integers(1, 6))):
        tar[data.draw(st.integers(0, len(tar) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(tar)))
    found = walk_bytes(bytes(tar[:cut]))
    for entry in found:
        if not entry.problem:
            assert 0 <= entry.offset <= entry.offset + entry.size_bytes <= cut
            assert entry.name
            assert not entry.name.startswith(b"/")
            assert b".." not in entry.name.split(b"/")


def test_every_cut_is_reported_and_keeps_the_complete_members() -> None:
    whole = tar_bytes([(f"{n}.JPEG", bytes([n]) * 600) for n in range(3)])
    for cut in range(0, 3 * (512 + 1024) + 1, 64):
        found = walk_bytes(whole[:cut])
        usable = [entry for entry in found if not entry.problem]
        assert [entry.problem for entry in found[len(usable) :]] == ["cut-short"]
        assert len(usable) == sum(cut >= n * 1536 + 512 + 600 for n in range(3))


def test_a_size_past_the_end_of_the_inner_tar_is_a_cut() -> None:
    found = walk_bytes(header("a.JPEG", 4000) + bytes(1000), after=9000)
    assert [(entry.name, entry.problem) for entry in found] == [(b"a.JPEG", "cut-short")]


def test_base_256_and_pax_sizes() -> None:
    big = b"\x80" + (5).to_bytes(11, "big")
    data = header("a.JPEG", size=big) + padded(b"12345")
    data += header("x", 10, typeflag=b"x") + padded(b"10 size=3\n")
    data += header("b.JPEG", 0) + padded(b"abc") + END
    assert walk_bytes(data) == [TarMember(b"a.JPEG", 512, 5), TarMember(b"b.JPEG", 2560, 3)]


def test_global_pax_path_holds_until_overridden() -> None:
    record = b"14 path=all.J\n"
    data = header("g", len(record), typeflag=b"g") + padded(record)
    data += header("a.JPEG", 3) + padded(b"abc") + END
    assert [entry.name for entry in walk_bytes(data)] == [b"all.J"]


@pytest.mark.parametrize(
    ("damaged", "says"),
    [
        (header("a")[:148] + b"000000\0 " + header("a")[156:], "checksum"),
        (header("a", size=b"\xff" * 12), "negative"),
        (header("a", size=b"\xbf" + b"\xff" * 11), "too large"),
        (header("a", size=b"12x"), "not an octal number"),
        (header("a", size=b"1_0"), "not an octal number"),
        (header("a", size=b"+10"), "not an octal number"),
        (header("a", size=b"189"), "not an octal number"),
        (header("x", 8, typeflag=b"x") + padded(b"7 size=3"), "PAX record"),
        (header("x", 8, typeflag=b"x") + padded(b"0 size=3"), "PAX record"),
        (header("x", 11, typeflag=b"x") + padded(b"11 size=-3\n") + header("a"), "PAX size"),
        (header("x", 1 << 30, typeflag=b"x"), "extension header of"),
    ],
)
def test_invalid_headers_end_the_walk(damaged: bytes, says: str) -> None:
    found = walk_bytes(header("ok.JPEG", 1) + padded(b"1") + damaged + END + bytes(4096))
    assert [entry.problem for entry in found] == ["", "bad-header"]
    assert says in found[1].cause
    assert "byte 1024" in found[1].cause or "byte 2048" in found[1].cause


def test_checksum_of_signed_bytes_is_accepted() -> None:
    block = bytearray(header("\xe9.JPEG", 0))
    signed = sum(struct.unpack("512b", bytes(block[:148]) + b" " * 8 + bytes(block[156:])))
    block[148:156] = b"%06o\0 " % signed
    assert walk_bytes(bytes(block) + END) == [TarMember("\xe9.JPEG".encode(), 512, 0)]


def test_sparse_members_are_reported_and_skipped() -> None:
    more = bytes(504) + b"\1" + bytes(7)
    data = header("s.JPEG", 600, typeflag=b"S", sparse_more=b"\1") + more + bytes(512)
    data += padded(b"z" * 600) + header("a.JPEG", 3) + padded(b"abc") + END
    assert [(e.name, e.problem) for e in walk_bytes(data)] == [
        (b"s.JPEG", "not-a-file"),
        (b"a.JPEG", ""),
    ]


def test_data_after_the_end_marker_is_reported() -> None:
    one = tar_bytes([("a.JPEG", b"1")])
    assert [e.problem for e in walk_bytes(one + one)] == ["", "data-after-end"]
    assert [e.problem for e in walk_bytes(one + bytes(20_000))] == [""]


ODD_MEMBERS = {
    "link": (_info("l.JPEG", kind=tarfile.SYMTYPE), "not-a-file"),
    "hard link": (_info("h.JPEG", kind=tarfile.LNKTYPE), "not-a-file"),
    "device": (_info("d.JPEG", kind=tarfile.CHRTYPE), "not-a-file"),
    "pipe": (_info("p.JPEG", kind=tarfile.FIFOTYPE), "not-a-file"),
    "absolute": (_info("/etc/x.JPEG"), "unsafe-name"),
    "parent": (_info("../x.JPEG"), "unsafe-name"),
    "parent inside": (_info("a/../../x.JPEG"), "unsafe-name"),
    "empty": (_info("e.JPEG"), "empty-file"),
    "repeated": (_info("n01440764_1.JPEG"), "duplicate-name"),
}


@pytest.mark.parametrize("odd", ODD_MEMBERS)
def test_odd_members_are_problems_and_not_rows(odd: str, tmp_path: Path) -> None:
    info, kind = ODD_MEMBERS[odd]
    content = b"" if odd == "empty" or not info.isreg() else b"bytes"
    good = [(_info(name), data) for name, data in Shape().train()["n01440764"].items()]
    inner = tar_bytes([*good[:2], (info, content), *good[2:]])
    scan = scan_train(tmp_path, [("n01440764.tar", inner)])
    assert scan.problem_counts == {kind: 1}
    where = f"ILSVRC2012_img_train.tar:n01440764.tar:{info.name}"
    assert [problem.where for problem in scan.problems] == [where]
    manifest = scan.splits["train"]
    assert [manifest.name(i) for i in range(len(manifest))] == [i.name for i, _ in good]
    with SourceReader(tmp_path, manifest) as reader:
        assert [reader.read(i) for i in range(3)] == [data for _, data in good]


def scan_train(root: Path, inner: list[tuple[str, bytes]]) -> SourceScan:
    (root / "ILSVRC2012_img_train.tar").write_bytes(tar_bytes(inner))
    return scan_source(root)


def test_clutter_is_ignored_but_counted(tmp_path: Path) -> None:
    inner = tar_bytes(
        [
            (_info("./", kind=tarfile.DIRTYPE), b""),
            (_info("./a.JPEG"), b"1"),
            (_info("._a.JPEG"), b"2"),
            (_info("x/.DS_Store"), b"3"),
            (_info("Thumbs.db"), b"4"),
        ]
    )
    scan = scan_train(tmp_path, [("n01440764.tar", inner), (".DS_Store", b"x")])
    assert scan.problem_counts == {}
    assert scan.splits["train"].name(0) == "a.JPEG"
    assert scan.oddities == {
        "directory entries in tars, ignored": 1,
        "hidden or clutter files, ignored": 4,
        "names ending .JPEG": 1,
    }


def test_outer_tar_faults(tmp_path: Path) -> None:
    one = tar_bytes([("a.JPEG", b"1")])
    members: list[tuple[tarfile.TarInfo, bytes]] = [
        (_info("n01440764.tar"), one),
        (_info("README"), b"hello"),
        (_info("n01440764.tar"), tar_bytes([("b.JPEG", b"2")])),
        (_info("../n09999999.tar"), one),
        (_info("n02085620.tar", kind=tarfile.SYMTYPE), b""),
        (_info("n01443537.tar"), tar_bytes([])),
    ]
    (tmp_path / "ILSVRC2012_img_train.tar").write_bytes(tar_bytes(members))
    scan = scan_source(tmp_path)
    assert scan.labels.names == ("n01440764", "n01443537")
    assert scan.problem_counts == {
        "duplicate-name": 1,
        "empty-class": 1,
        "not-a-class-tar": 1,
        "not-a-file": 1,
        "unsafe-name": 1,
    }
    assert [scan.splits["train"].name(i) for i in range(len(scan.splits["train"]))] == ["a.JPEG"]


@pytest.mark.parametrize("share", [0.1, 0.35, 0.5, 0.65, 0.8])
def test_a_cut_train_tar_keeps_labels_and_whole_images(share: float, tmp_path: Path) -> None:
    shape = Shape(train_per_class=12)
    make_archives(tmp_path, shape)
    whole = scan_source(tmp_path)
    path = tmp_path / "ILSVRC2012_img_train.tar"
    cut = int(path.stat().st_size * share)
    os.truncate(path, cut)
    scan = scan_source(tmp_path)
    assert scan.labels == whole.labels
    assert scan.problem_counts["cut-short"] >= 1
    every, kept = whole.splits["train"], scan.splits["train"]
    ends = every.rows["offset"] + every.rows["size_bytes"]
    expected = [every.where(i) for i in range(len(every)) if ends[i] <= cut]
    assert [kept.where(i) for i in range(len(kept))] == expected
    names = {where.split(":")[1].removesuffix(".tar") for where in expected}
    absent = set(shape.classes) - names
    counts = Counter(problem.kind for problem in scan.problems)
    assert counts["missing-class"] + counts["empty-class"] == len(absent)


def test_an_inner_file_that_is_not_a_tar(tmp_path: Path) -> None:
    good = tar_bytes([("a.JPEG", b"1")])
    scan = scan_train(tmp_path, [("n01440764.tar", b"text " * 300), ("n01443537.tar", good)])
    assert scan.problem_counts == {"not-a-tar": 1, "empty-class": 1}
    assert scan.splits["train"].label(0) == 1


def test_unreadable_archive_is_a_source_error(tmp_path: Path) -> None:
    (tmp_path / "ILSVRC2012_img_train.tar").write_bytes(b"")
    scan = scan_source(tmp_path)
    assert scan.problem_counts == {"cut-short": 1}
    assert len(scan.splits["train"]) == 0
    (tmp_path / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(b"no gzip")
    with pytest.raises(SourceError, match="gz: it is text, not a tar"):
        scan_source(tmp_path)


def test_many_problems_are_counted_but_not_all_kept(tmp_path: Path) -> None:
    empties = [(f"{n}.JPEG", b"") for n in range(700)]
    inner = [(f"n0000000{c}.tar", tar_bytes(empties)) for c in range(3)]
    scan = scan_train(tmp_path, inner)
    assert scan.problem_counts == {"empty-file": 2100, "empty-class": 3}
    assert len(scan.problems) == 1000


@given(st.lists(st.binary(min_size=1, max_size=3000), min_size=1, max_size=12), st.randoms())
def test_reader_returns_the_bytes_of_the_files(images: list[bytes], order: random.Random) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        files = {f"{n:03}.JPEG": data for n, data in enumerate(images)}
        scan = scan_train(root, [("n01440764.tar", tar_bytes(files.items()))])
        write_files(root / "loose" / "n01440764", files)
        loose = scan_source(root / "loose")
        turn = order.sample(range(len(images)), len(images))
        for found in (scan, loose):
            with SourceReader(found.root, found.splits["train"]) as reader:
                reader.will_need(turn)
                assert [reader.read(i) for i in turn] == [images[i] for i in turn]


def test_reader_names_what_changed_since_the_scan(tmp_path: Path) -> None:
    archives = make_archives(tmp_path / "a", val=False)
    folders = make_class_folders(tmp_path / "f", val="none")
    scans = [scan_source(archives), scan_source(folders)]
    os.truncate(archives / "ILSVRC2012_img_train.tar", 1600)
    first = folders / "train" / "n01440764"
    size_bytes = (first / "n01440764_1.JPEG").stat().st_size
    write_files(first, {"n01440764_1.JPEG": b"x" * (size_bytes + 5)})
    write_files(first, {"n01440764_2.JPEG": b""})
    (first / "n01440764_3.JPEG").unlink()
    with SourceReader(archives, scans[0].splits["train"]) as reader:
        reader.will_need([0])
        with pytest.raises(SourceFaultError, match=r"archive now ends [\d,]+ bytes before"):
            reader.read(0)
    with SourceReader(folders, scans[1].splits["train"]) as reader:
        reader.will_need(range(3))
        with pytest.raises(SourceFaultError, match=f"{size_bytes:,} bytes, now {size_bytes + 5:,}"):
            reader.read(0)
        with pytest.raises(SourceFaultError, match="bytes, now 0"):
            reader.read(1)
        with pytest.raises(SourceFaultError, match="No such file"):
            reader.read(2)
        assert reader.read(3) == tiny_jpeg("n01443537", 1)


def test_reader_of_many_archives_keeps_few_open(tmp_path: Path) -> None:
    classes = [f"n{number:08d}" for number in range(150)]
    write_files(tmp_path, {f"{c}.tar": tar_bytes([("a.JPEG", c.encode())]) for c in classes})
    scan = scan_source(tmp_path)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    with SourceReader(tmp_path, scan.splits["train"]) as reader:
        for _ in range(2):
            assert [reader.read(i).decode() for i in range(150)] == classes
        assert len(os.listdir("/proc/self/fd")) - before <= 64  # noqa: PTH208
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
