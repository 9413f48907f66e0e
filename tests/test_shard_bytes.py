"""A shard's bytes: plain USTAR, deterministic, and a DALI index that matches."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import pytest
import wds2idx
from hypothesis import given
from hypothesis import strategies as st

from imgprep.dataset.format import label_bytes, label_digits, record_key
from imgprep.dataset.shard_walk import BadTarError, index_line, members, records
from imgprep.dataset.shards import RECORD_BYTES, ShardFacts, ShardWriter, ustar_header

names = st.text("abcdefghijklmnopqrstuvwxyz0123456789-._", min_size=1, max_size=100)
payloads = st.lists(st.binary(max_size=3000), min_size=1, max_size=12)


def write_shard(images: list[bytes]) -> tuple[bytes, ShardFacts]:
    file = io.BytesIO()
    writer = ShardWriter(file, "jpg")
    for number, image in enumerate(images):
        writer.add(record_key("train", number), image, label_bytes(number, 4))
    facts = writer.finish()
    return file.getvalue(), facts


@given(names, st.integers(0, 8**11 - 1))
def test_header_equals_tarfile(name: str, size_bytes: int) -> None:
    info = tarfile.TarInfo(name)
    info.size = size_bytes
    assert ustar_header(name.encode(), size_bytes) == info.tobuf(tarfile.USTAR_FORMAT)


@pytest.mark.parametrize(("name", "size"), [(b"", 1), (b"x" * 101, 1), (b"x", 8**11), (b"x", -1)])
def test_names_and_sizes_that_ustar_cannot_hold_are_rejected(name: bytes, size: int) -> None:
    with pytest.raises(ValueError, match="USTAR"):
        ustar_header(name, size)


@given(payloads)
def test_tarfile_reads_back_every_member(images: list[bytes]) -> None:
    tar, facts = write_shard(images)
    assert len(tar) == facts.tar_bytes
    assert len(tar) % RECORD_BYTES == 0
    assert hashlib.sha256(tar).hexdigest() == facts.tar_sha256
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        found = {m.name: archive.extractfile(m).read() for m in archive}  # type: ignore[union-attr]
    expected = {}
    for number, image in enumerate(images):
        expected[f"train-{number:08d}.jpg"] = image
        expected[f"train-{number:08d}.cls"] = b"%04d" % number
    assert found == expected


@given(payloads)
def test_index_points_at_the_bytes(images: list[bytes]) -> None:
    tar, facts = write_shard(images)
    first, *lines = facts.idx_bytes.decode().splitlines()
    assert first == f"v1.2 {len(images)}"
    for number, line in enumerate(lines):
        extension, offset, size, name, *label = line.split()
        assert (extension, name) == ("jpg", f"train-{number:08d}.jpg")
        assert tar[int(offset) : int(offset) + int(size)] == images[number]
        assert tar[int(label[1]) : int(label[1]) + int(label[2])] == b"%04d" % number
    assert [index_line(*pair) for pair in records(tar, "jpg")] == lines


def test_index_equals_dalis_own_tool(tmp_path: Path) -> None:
    tar, facts = write_shard([b"x" * n for n in (0, 1, 511, 512, 513, 70_000)])
    (tmp_path / "a.tar").write_bytes(tar)
    creator = wds2idx.IndexCreator(str(tmp_path / "a.tar"), str(tmp_path / "a.idx"), verbose=False)
    creator.create_index()
    creator.close()
    assert (tmp_path / "a.idx").read_bytes() == facts.idx_bytes


@given(payloads, st.integers(1, 2000))
def test_a_truncated_tar_is_detected(images: list[bytes], cut: int) -> None:
    tar, _ = write_shard(images)
    content_end = max(member.offset + member.size_bytes for member in members(tar))
    shorter = tar[: max(0, content_end - cut)]
    with pytest.raises(BadTarError):
        list(records(shorter, "jpg"))


@pytest.mark.parametrize(("classes", "digits"), [(1, 4), (1000, 4), (10_000, 4), (21_841, 5)])
def test_labels_are_fixed_width_ascii(classes: int, digits: int) -> None:
    assert label_digits(classes) == digits
    assert int(label_bytes(classes - 1, digits)) == classes - 1
    assert len(label_bytes(0, digits)) == digits
