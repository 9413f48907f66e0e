"""A walk in several places at once finds what one walk finds."""

from __future__ import annotations

import os
import tarfile
import threading
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgprep.sources.lanes import walk_in_lanes
from imgprep.sources.local_tree import range_file_of
from imgprep.sources.tarwalk import TarMember, walk
from imgprep.sources.tree import RangeFile
from tests.trees import tar_bytes

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
LANE_BYTES = 2048


def both_ways(data: bytes, lanes: int, before: int = 0) -> tuple[list[TarMember], list[TarMember]]:
    """The members found by one walk, and by a walk in lanes."""
    fd = os.memfd_create("tar")
    try:
        os.write(fd, b"\1" * before + data + b"\1" * 512)
        file, end = range_file_of(fd), before + len(data)
        in_lanes = walk_in_lanes(file, before, end, lanes, LANE_BYTES)
        return list(walk(file, before, end)), list(in_lanes)
    finally:
        os.close(fd)


def member(name: str, size_bytes: int, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.type = size_bytes, kind
    return info


INNER = tar_bytes([("inside.JPEG", b"i" * 300), ("inside too.JPEG", b"j" * 900)])
CONTENTS: dict[str, Callable[[int], bytes]] = {
    "plain": bytes,
    "a tar": lambda size_bytes: INNER + bytes(size_bytes),
    "a tar in between": lambda size_bytes: b"x" * size_bytes + INNER,
    "half a tar": lambda size_bytes: bytes(size_bytes // 512 * 512) + INNER[:700],
}
NAMES = st.sampled_from(["a.JPEG", "b" * 150, "ü.JPEG", "dir/c.JPEG", "../d.JPEG"])
MEMBERS = st.lists(
    st.tuples(NAMES, st.integers(0, 9000), st.sampled_from(sorted(CONTENTS))), max_size=25
)


def tar_of(members: list[tuple[str, int, str]], tar_format: int) -> bytes:
    long = 90 if tar_format == tarfile.USTAR_FORMAT else 150
    return tar_bytes(
        [
            (f"{name[:long]}{number}", CONTENTS[what](size_bytes))
            for number, (name, size_bytes, what) in enumerate(members)
        ],
        tar_format,
    )


@given(MEMBERS, st.sampled_from(FORMATS), st.integers(1, 9), st.integers(0, 2))
def test_lanes_find_what_one_walk_finds(
    members: list[tuple[str, int, str]], tar_format: int, lanes: int, before: int
) -> None:
    expected, found = both_ways(tar_of(members, tar_format), lanes, before * 512)
    assert found == expected
    assert len(found) == len(members)


@given(MEMBERS, st.sampled_from(FORMATS), st.integers(2, 9), st.data())
def test_lanes_find_what_one_walk_finds_in_a_damaged_tar(
    members: list[tuple[str, int, str]], tar_format: int, lanes: int, data: st.DataObject
) -> None:
    tar = bytearray(tar_of(members, tar_format))
    for _ in range(data.draw(st.integers(0, 6))):
        tar[data.draw(st.integers(0, len(tar) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(tar)))
    expected, found = both_ways(bytes(tar[:cut]), lanes)
    assert found == expected


def test_a_global_header_that_only_some_lanes_see() -> None:
    record = b"14 path=all.J\n"
    marker = (member("g", len(record), tarfile.XGLTYPE), record)
    files = [(member(f"{n}.JPEG", 2000), b"x" * 2000) for n in range(9)]
    for place in range(len(files)):
        raw = tar_with([*files[:place], marker, *files[place:]])
        expected, found = both_ways(raw, 4)
        assert [entry.name for entry in found].count(b"all.J") == len(files) - place
        assert found == expected


def test_a_global_header_inside_an_image_changes_nothing() -> None:
    record = b"14 path=all.J\n"
    fake = tar_with([(member("g", len(record), tarfile.XGLTYPE), record)])[:1024]
    for lead in range(0, 4096, 512):
        content = bytes(lead) + fake + bytes(1024)
        files = [(member(f"{n}.JPEG", len(content)), content) for n in range(8)]
        expected, found = both_ways(tar_with(files), 5)
        assert [entry.name for entry in found] == [f"{n}.JPEG".encode() for n in range(8)]
        assert found == expected


def tar_with(members: list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    """A tar of raw headers, with its end marker."""
    parts = []
    for info, data in members:
        parts += [info.tobuf(tarfile.USTAR_FORMAT), data, bytes(-len(data) % 512)]
    return b"".join(parts) + bytes(1024)


def test_lanes_are_walked_at_the_same_time() -> None:
    tar = tar_bytes([(f"{n}.JPEG", b"x" * 3000) for n in range(40)])
    all_there = threading.Barrier(4, timeout=30)
    begun: set[int] = set()

    def pread(size_bytes: int, offset: int) -> bytes:
        if threading.get_ident() not in begun:
            begun.add(threading.get_ident())
            all_there.wait()  # Times out unless four lanes read before one of them gets an answer.
        return tar[offset : offset + size_bytes]

    file = RangeFile(
        pread=pread, size_bytes=len(tar), mtime_ns=0, header_bytes=512, ahead_bytes=512
    )
    found = list(walk_in_lanes(file, 0, len(tar), 4, LANE_BYTES))
    assert [entry.name for entry in found] == [f"{n}.JPEG".encode() for n in range(40)]
    assert len(begun) == 4


def test_a_fault_in_one_lane_ends_the_walk() -> None:
    tar = tar_bytes([(f"{n}.JPEG", b"x" * 3000) for n in range(40)])

    def pread(size_bytes: int, offset: int) -> bytes:
        if offset > len(tar) // 2:
            raise ConnectionError("gone")
        return tar[offset : offset + size_bytes]

    file = RangeFile(
        pread=pread, size_bytes=len(tar), mtime_ns=0, header_bytes=512, ahead_bytes=512
    )
    with pytest.raises(ConnectionError):
        list(walk_in_lanes(file, 0, len(tar), 4, LANE_BYTES))
