"""Fuzz targets: an untrusted dataset, read by ``imgprep`` itself."""

from __future__ import annotations

import gzip
import io
import json
import struct
from pathlib import Path

import numpy as np

from imgprep.build.identity import BuildIdentity
from imgprep.build.state import StatePaths, begin, load_pixel_sum
from imgprep.colour.stats import load_moments, stats_report
from imgprep.dataset.encodings import encoding_of
from imgprep.dataset.format import IDENTITY, marker_name
from imgprep.dataset.index import ShardInfo, load_index
from imgprep.dataset.labels import LabelMap
from imgprep.dataset.markers import done_markers, read_marker
from imgprep.errors import ImageError
from imgprep.sources.manifest import SplitManifest
from imgprep.sources.reader import SourceReader
from imgprep.spec import Shape, is_record_size
from imgprep.storage import open_store
from imgprep.storage.atomic import read_json
from imgprep.storage.lease import Lease
from imgprep.verify.dataset import read_source_labels
from imgprep.verify.shard import ShardCheck, VerifySetup, VerifyTask, verify_shard
from tests.fuzzing import CAUSE_MAX, cause, changed_dataset, original, ours, put, target, workspace
from tests.mutations import mutate_json, repaired_tar
from tests.schemas import with_checksum
from tests.trees import tiny_jpeg


@target("index", lambda: [original("dataset_info.json")], mutate=mutate_json)
def index(data: bytes) -> None:
    """``dataset_info.json``, with a correct fingerprint or not, and the shards that it lists."""
    for forged in (False, True):
        with (
            changed_dataset("dataset_info.json", data, forged=forged) as folder,
            ours("dataset_info.json"),
        ):
            _verify(folder)


def _verify(folder: Path) -> None:
    """Check all shards as ``imgprep verify --decode`` does."""
    found = load_index(folder)
    setup = VerifySetup.of(found, decode=True)
    for name, split in found.splits.items():
        for shard in split.shards:
            _check(verify_shard(VerifyTask(name, shard), setup, lambda wrong: None)())


@target("marker", lambda: [original(marker_name(f"{stem}-000000")) for stem in ("train", "val")],
        mutate=mutate_json)  # fmt: skip
def marker(data: bytes) -> None:
    """A done marker, its checksum right or not."""
    for content in (data, with_checksum(data)):
        _marker(content)


def _marker(data: bytes) -> None:
    with changed_dataset(marker_name("train-000000"), data, forged=False) as folder:
        store = open_store(folder)
        with ours("train-000000.json"):
            read_marker(store, "train-000000")
        done_markers(store, [("train", 0)], "0" * 64)


@target("labels", lambda: [original("labels.json")], mutate=mutate_json)
def labels(data: bytes) -> None:
    """``labels.json``."""
    path = put("labels", "labels.json", data)
    with ours():
        LabelMap.from_json(read_json(path, "labels"))


@target("statistics", lambda: [original("rgb_pca.json")], mutate=mutate_json)
def statistics(data: bytes) -> None:
    """``rgb_pca.json``: what ``imgprep stats`` prints."""
    with changed_dataset("rgb_pca.json", data, forged=True) as folder, ours("rgb_pca.json"):
        report = stats_report(load_moments(folder))
        report.render()
        json.dumps(report.to_json())


def _arrays() -> list[bytes]:
    found = [original("pixel_sum.npy"), original("mean_image.npy")]
    for value in (
        np.zeros((2, 3, 4), "<i8"),
        np.zeros((3, 3), order="F"),
        np.zeros(0),
        np.array(7),
    ):
        stream = io.BytesIO()
        np.save(stream, value)
        found.append(stream.getvalue())
    stream = io.BytesIO()
    np.savez(stream, np.zeros(3))
    return [*found, stream.getvalue()]


NPY_TOKENS = (
    b"(16, 16, 3)", b"(99999999, 99999999, 3)", b"(-1, 16, 3)", b"()", b"'<i8'", b"'|O'", b"'<f4'",
    b"'<U1000000000'", b"True", b"\x93NUMPY\x03\0", b"\x93NUMPY\x02\0", b"\xff\xff", b"{[]:1}",
    b"[('a','<i8',(9,9))]", b"PK\x03\x04", b"L", b"-", b"#", b"\n",
)  # fmt: skip


@target("npy", _arrays, tokens=NPY_TOKENS)
def npy(data: bytes) -> None:
    """A ``.npy`` in each place where one is read."""
    with changed_dataset("pixel_sum.npy", data, forged=True) as folder, ours("pixel_sum.npy"):
        load_moments(folder)
    load_pixel_sum(open_store(put("npy", "sum.npy", data).parent), "sum.npy", "0" * 64)
    with ours(str(_manifest())):
        (_manifest() / "rows.npy").write_bytes(data)
        SplitManifest.load(_manifest())


def _manifest() -> Path:
    from imgprep.sources.scan import scan_source

    folder = workspace() / "manifest"
    if not folder.exists():
        scan_source(workspace() / "source").splits["train"].save(folder)
    return folder


def _manifests() -> list[bytes]:
    """Return the lengths of ``meta.json`` and ``rows.npy``, then these files and the names."""
    original("labels.json")  # makes the source
    files = [(_manifest() / name).read_bytes() for name in ("meta.json", "rows.npy", "names.bin")]
    return [struct.pack("<II", len(files[0]), len(files[1])) + b"".join(files)]


@target("manifest", _manifests)
def manifest(data: bytes) -> None:
    """The three files of a saved manifest, and the images that it lists."""
    first, second = struct.unpack_from("<II", data.ljust(8, b"\0"))
    rest = data[8:]
    folder = put("saved", "meta.json", rest[:first]).parent
    put("saved", "rows.npy", rest[first : first + second])
    put("saved", "names.bin", rest[first + second :])
    with ours(str(folder)):
        found = SplitManifest.load(folder)
        with SourceReader(workspace() / "source", found) as reader:
            reader.will_need(range(min(len(found), 20)))
            for i in range(min(len(found), 20)):
                found.where(i)
                try:
                    reader.read(i)
                except ImageError as exc:
                    cause(exc)


@target("shard", lambda: [original("train-000000.tar"), original("val-000000.tar")])
def shard(data: bytes) -> None:
    """A shard whose hash is in the index: damage is listed, and nothing is raised."""
    for content in (data, repaired_tar(data)):
        with changed_dataset("train-000000.tar", content, forged=True) as folder:
            info = json.loads((folder / "dataset_info.json").read_bytes())
            info["splits"]["train"]["shards"][0]["bytes"] = len(content)
            (folder / "dataset_info.json").write_text(json.dumps(info))
            with ours():
                _verify_one(folder)


def _verify_one(folder: Path) -> None:
    info = json.loads((folder / "dataset_info.json").read_bytes())
    shard = ShardInfo(**info["splits"]["train"]["shards"][0])
    shapes: tuple[Shape, ...] = ("square", "rectangle")
    for shape in shapes:
        setup = VerifySetup(
            location=str(folder),
            size_px=16,
            shape=shape,
            encoding="jpeg",
            classes=3,
            label_digits=4,
            decode=True,
            marked=True,
        )
        _check(verify_shard(VerifyTask("train", shard), setup, lambda wrong: None)())


def _check(check: ShardCheck) -> None:
    assert all(len(damage.what) < CAUSE_MAX for damage in check.damages)
    np.array(check.rows + check.labels, dtype=np.int64)


def _lists() -> list[bytes]:
    return [gzip.decompress(original("train-sources.tsv.gz")), b"0\t0\ta\n1\t2\tb\\tc\n"]


@target("sources", _lists, tokens=(b"\t", b"\n", b"\\t", b"-1", b"1_0", b" 1", b"\xff"))
def sources(data: bytes) -> None:
    """``train-sources.tsv.gz``, compressed again, truncated, or damaged."""
    for content in (gzip.compress(data, 1), gzip.compress(data, 1)[: len(data) % 50], data):
        path = put("sources", "train-sources.tsv.gz", content)
        with ours("train-sources.tsv.gz"):
            read_source_labels(open_store(path.parent), path.name)


def _identities() -> list[bytes]:
    return [original(IDENTITY)]


@target("identity", _identities, mutate=mutate_json)
def identity(data: bytes) -> None:
    """``identity.json`` of a build that is resumed, in the name of either version."""
    identity = BuildIdentity({"layout": "x"}, {"seed": 0}, {"pillow": "1"})
    for name in ("identity.json", "plan.json"):
        put(f"{name}/.imgprep", name, data)
        with ours(str(workspace() / name)):
            begin(StatePaths(open_store(workspace() / name)), identity, force=False)


class _OneObject:
    """A store with one object."""

    location = "memory://here"

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, name: str) -> bytes:
        return self._data

    def write(self, name: str, data: bytes) -> None:
        self._data = data

    create = write

    def remove(self, *names: str) -> None:
        self._data = b"{}"


def _leases() -> list[bytes]:
    objects = _OneObject(b"{}")
    with Lease(objects, "lock"):
        return [objects.read("lock")]


@target("lease", _leases, mutate=mutate_json)
def lease(data: bytes) -> None:
    """The object that says which process holds a store."""
    with ours("memory://here"), Lease(_OneObject(data), "lock"):
        pass
    with ours("memory://here"):
        Lease(_OneObject(data), "lock").check()


@target(
    "record", lambda: [original("mean_image.png"), tiny_jpeg("n", 1), b"\x93NUMPY\1\0" + bytes(890)]
)
def record(data: bytes) -> None:
    """A record that is drawn on a page."""
    for encoding in ("jpeg", "raw"):
        with ours():
            assert encoding_of(encoding).pixels(data, 16).shape == (16, 16, 3)
    with ours():
        height, width, _ = encoding_of("jpeg").pixels(data, 16, "rectangle").shape
        assert is_record_size(height, width, 16, "rectangle")
