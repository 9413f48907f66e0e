"""Small files that unpack to much, claim much or never end: rejected before they cost much."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from imgprep.dataset.shards import ShardWriter
from imgprep.errors import SourceError
from imgprep.sources.challenges import ILSVRC2012
from imgprep.sources.local_tree import range_file_of
from imgprep.sources.open_tree import open_tree
from imgprep.sources.tarwalk import TarMember, walk
from imgprep.sources.truth import read_truth
from tests.fuzzing import changed_dataset, dataset, original, put
from tests.imagefiles import saved
from tests.trees import tar_bytes

# ---- memory --------------------------------------------------------------------------------

LIMITED = """
import resource, sys
from pathlib import Path
import numpy, simplejpeg, PIL.Image
from imgprep.errors import ImgprepError
from imgprep.dataset.index import load_index
from imgprep.sources.open_tree import open_tree
from imgprep.sources.truth import read_truth
from imgprep.colour.stats import load_moments
from imgprep.verify.dataset import read_source_labels
from imgprep.storage import open_store
from imgprep.verify.shard import VerifySetup, VerifyTask, verify_shard

def source_labels(path):
    read_source_labels(open_store(path.parent), path.name)

def shards(folder):
    index = load_index(folder)
    setup = VerifySetup(location=str(folder), size_px=index.size_px, shape="square",
                        encoding=index.encoding,
                        classes=index.classes, label_digits=index.label_digits, decode=True,
                        marked=True)
    for shard in index.splits["train"].shards:
        check = verify_shard(VerifyTask("train", shard), setup, lambda wrong: None)()
        for damage in check.damages:
            print(damage.where, damage.what)

pages = int(Path("/proc/self/statm").read_text().split()[0])
allowed = pages * resource.getpagesize() + int(sys.argv[2]) * 2**20
resource.setrlimit(resource.RLIMIT_AS, (allowed, allowed))
try:
    eval(sys.argv[1])(Path(sys.argv[3]))
except ImgprepError as exc:
    print(exc)
"""


def limited(call: str, path: Path, mebibytes: int = 100) -> str:
    """What a reader says in a process that may take so much more memory."""
    command = [sys.executable, "-c", LIMITED, call, str(mebibytes), str(path)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    return ran.stdout


def test_an_index_that_claims_a_huge_side_is_rejected() -> None:
    info = json.loads(original("dataset_info.json"))
    info["spec"]["image.size_px"] = 2**20
    content = json.dumps(info).encode()
    with changed_dataset("dataset_info.json", content, forged=True) as folder:
        assert "size must be 8 to 4096 pixels" in limited("shards", folder)


def test_an_npy_is_no_larger_than_its_bytes() -> None:
    claim = original("pixel_sum.npy").replace(b"(16, 16, 3)", b"(9999999999,)")
    with changed_dataset("pixel_sum.npy", claim, forged=True) as folder:
        assert "pixel_sum.npy: not a whole .npy file" in limited("load_moments", folder)


def test_an_image_bomb_in_a_shard_is_damage() -> None:
    bomb = saved(Image.new("L", (5000, 5000)), "PNG")
    stream = io.BytesIO()
    writer = ShardWriter(stream, "jpg")
    writer.add("train-00000000", bomb, b"0000")
    writer.finish()
    with changed_dataset("train-000000.tar", stream.getvalue(), forged=True) as folder:
        assert "above the limit of 1 megapixel " in limited("shards", folder)


def test_an_endless_line_in_a_packed_list_is_rejected() -> None:
    path = put("lines", "train-sources.tsv.gz", gzip.compress(b"0\t0\t" + bytes(200 << 20), 1))
    assert "malformed list of sources" in limited("source_labels", path)


def devkit(name: str, content: bytes) -> Path:
    return put(f"devkits/{name}", ILSVRC2012.devkit_archives[0], content).parent


def test_a_header_of_the_devkit_that_claims_much_is_not_read() -> None:
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 200 << 20
    head = info.tobuf(tarfile.GNU_FORMAT)
    folder = devkit("claims", gzip.compress(head + bytes(200 << 20), 1))
    said = limited("lambda folder: read_truth([open_tree(folder)])", folder)
    assert "unpacks to more than 64 MiB" in said


# ---- time ----------------------------------------------------------------------------------


def test_a_negative_size_in_the_devkit_makes_no_circle() -> None:
    """It leads from the last member back to the second header: ``tarfile`` never ends."""
    info = tarfile.TarInfo("x")
    record = b"14 size=-1536\n"
    info.type, info.size = tarfile.XHDTYPE, len(record)
    first, last = (tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT) for name in ("a", "b"))
    head = info.tobuf(tarfile.USTAR_FORMAT) + record.ljust(512, b"\0")
    folder = devkit("circle", gzip.compress(first + head + last + bytes(1024)))
    with pytest.raises(SourceError, match="the PAX size b'-1536"):
        read_truth([open_tree(folder)])


def entries(content: bytes) -> list[TarMember]:
    fd = os.memfd_create("tar")
    try:
        os.write(fd, content)
        return list(walk(range_file_of(fd), 0, len(content)))
    finally:
        os.close(fd)


def long_name(name: bytes) -> bytes:
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, len(name)
    return info.tobuf(tarfile.GNU_FORMAT) + name + bytes(-len(name) % 512)


def test_names_longer_than_a_path_end_the_walk() -> None:
    member = tar_bytes([("a.JPEG", b"1")])
    assert [e.problem for e in entries(long_name(b"a" * 4096) + member)] == [""]
    assert [e.cause for e in entries(long_name(b"./" * 400_000 + b"a") + member)] == [
        "the header at byte 800768 is damaged: a name of 800001 bytes"
    ]


def test_leading_dots_are_removed() -> None:
    member = tar_bytes([("x", b"1")])
    for name, left in (
        (b"././/a", b"a"),
        (b"././/../a", b"../a"),
        (b".hidden", b".hidden"),
        (b"..a", b"..a"),
    ):
        assert entries(long_name(name) + member)[0].name == left


def test_of_pax_records_only_those_that_matter_are_kept() -> None:
    record = b"14 path=all.J\n" + b"".join(b"8 k%02d=v\n" % n for n in range(99))
    info = tarfile.TarInfo("g")
    info.type, info.size = tarfile.XGLTYPE, len(record)
    head = info.tobuf(tarfile.USTAR_FORMAT) + record + bytes(-len(record) % 512)
    assert [entry.name for entry in entries(head + tar_bytes([("a", b"1")]))] == [b"all.J"]


READ_ALL = """
import os, sys
from pathlib import Path
from imgprep.errors import ImgprepError
from imgprep.colour.stats import load_moments
from imgprep.verify.dataset import verify
from train.feed.dataset import open_dataset
from train.feed.records import RecordReader

folder = Path(sys.argv[1])
readers = (
    lambda: load_moments(folder),
    lambda: RecordReader(open_dataset(folder), "train").read(range(9)),
    lambda: print(name, verify(folder, decode=True, jobs=1, advanced=str).damages != []),
)
for name in sys.argv[2:]:
    (folder / name).rename(folder / "kept")
    device = [lambda path: path.symlink_to("/dev/zero")] if name == "labels.json" else []
    for make in (os.mkfifo, *device):
        make(folder / name)
        for read in readers:
            try:
                read()
            except ImgprepError as exc:
                print(name, type(exc).__name__)
        (folder / name).unlink()
    (folder / "kept").rename(folder / name)
"""
UNREAD = {"mean_image.png", "report.json"}


def test_no_reader_waits_for_a_pipe_or_reads_a_device(tmp_path: Path) -> None:
    folder = tmp_path / "dataset"
    shutil.copytree(dataset(), folder)
    names = {path.name for path in folder.glob("[!.]*") if not path.name.startswith("val-")}
    names -= UNREAD
    command = [sys.executable, "-c", READ_ALL, str(folder), *sorted(names)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert {line.split()[0] for line in ran.stdout.splitlines()} == names
