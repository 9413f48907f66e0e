"""CIFAR-10 as its author published it: the binary or the python archive, packed or unpacked.

Every image is 32 pixels square. The archive stays packed: a scan and each worker unpack it into
memory (178 MiB). Keys and order are those of the batches, which are equal in both archives.
"""

from __future__ import annotations

import gzip
import os
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from imgprep.dataset.labels import LabelMap
from imgprep.errors import SourceError, UsageError
from imgprep.sources.containers import ContainerBuilder, ContainerImages, Findings
from imgprep.sources.faults import unreadable
from imgprep.sources.gzipped import in_memory, unpacked
from imgprep.sources.layout import Candidate, LabelledImages, Layout
from imgprep.sources.pixels import CIFAR_BYTES
from imgprep.sources.plainpickle import PickledArray, read_plain
from imgprep.sources.tarwalk import walk
from imgprep.sources.tree import Tree
from imgprep.spec import SplitChoice
from imgprep.storage.urls import is_url
from imgprep.wording import counted, readable_bytes

ARCHIVES = ("cifar-10-binary.tar.gz", "cifar-10-python.tar.gz")
_ARCHIVE = re.compile(r"cifar-?10(?!0).*\.(tar\.gz|tgz)", re.IGNORECASE)
_BATCH = re.compile(r"data_batch_(\d{1,3})(\.bin)?")
TEST = "test_batch"
METAS = ("batches.meta.txt", "batches.meta")
BATCHES = 5
UNPACKED_MAX = 1 << 30
DAMAGED = "download it again"
Labels = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, slots=True)
class _File:
    """A file of the archive: the bytes from ``start`` in ``path``."""

    where: str
    """For messages."""
    path: str
    """The file to open, relative to the source."""
    start: int
    data: bytes
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class _Batch:
    """The labels of a batch, and where its pixels are: ``stride`` bytes apart from ``start``."""

    labels: Labels
    start: int
    stride: int


def detect(tree: Tree) -> Candidate | None:
    """Recognise an archive by its name, or the unpacked files.

    Raises:
        UsageError: an archive is at a URL.
    """
    packed = _packed_in(tree)
    if packed is not None:
        path, name = packed
        if is_url(tree.location):
            raise UsageError(
                f"{tree.where(path)}: a CIFAR archive is read from a local disk only: copy it there"
            )
        evidence = f"found {name} ({readable_bytes(tree.size_bytes(path))})"
        return _candidate(evidence, partial(_files_in_archive, tree, path, name))
    meta = next((name for name in METAS if tree.is_file(name)), None)
    if meta is None or not (tree.is_file("data_batch_1") or tree.is_file("data_batch_1.bin")):
        return None
    return _candidate(f"found data_batch_1 and {meta}", partial(_files_in_folder, tree))


def _packed_in(tree: Tree) -> tuple[str, str] | None:
    """Path and name of the archive: the source itself, or one of the official names in it."""
    if not is_url(tree.location) and tree.is_file(""):
        name = os.path.basename(tree.location)  # noqa: PTH119
        return ("", name) if _ARCHIVE.fullmatch(name) else None
    return next(((name, name) for name in ARCHIVES if tree.is_file(name)), None)


def _candidate(evidence: str, files: Callable[[], dict[str, _File]]) -> Candidate:
    def scan(split: SplitChoice, findings: Findings) -> LabelledImages:
        return _scan(files(), split, findings)

    return Candidate(layout="cifar", evidence=(evidence,), labelled=scan)


def _files_in_archive(tree: Tree, path: str, name: str) -> dict[str, _File]:
    where = tree.where(path)
    try:
        with open(where, "rb") as file:  # noqa: PTH123
            mtime_ns = os.fstat(file.fileno()).st_mtime_ns
            plain = unpacked(file, UNPACKED_MAX, where)
    except EOFError as exc:
        raise SourceError(f"{where} is cut short: {DAMAGED}") from exc
    except (zlib.error, gzip.BadGzipFile) as exc:
        raise SourceError(f"{where} is damaged, or not a gzip file: {DAMAGED}") from exc
    except OSError as exc:
        raise unreadable(where, exc) from exc
    found: dict[str, _File] = {}
    for member in walk(in_memory(plain), 0, len(plain)):
        if member.problem in ("cut-short", "bad-header", "not-a-tar"):
            raise SourceError(f"{where} is damaged: {member.cause}; {DAMAGED}")
        base = os.fsdecode(member.name.rpartition(b"/")[2])
        if not member.problem:
            end = member.offset + member.size_bytes
            found.setdefault(
                base,
                _File(
                    where=f"{name}:{base}",
                    path=path,
                    start=member.offset,
                    data=plain[member.offset : end],
                    mtime_ns=mtime_ns,
                ),
            )
    return found


def _files_in_folder(tree: Tree) -> dict[str, _File]:
    found: dict[str, _File] = {}
    for base, kind in tree.entries():
        if kind == "file" and (base in METAS or base.startswith((TEST, "data_batch_"))):
            try:
                with tree.open(base) as file:
                    data, mtime_ns = file.pread(UNPACKED_MAX, 0), file.mtime_ns
            except OSError as exc:
                raise unreadable(tree.where(base), exc) from exc
            found[base] = _File(where=base, path=base, start=0, data=data, mtime_ns=mtime_ns)
    return found


def _scan(files: Mapping[str, _File], split: SplitChoice, findings: Findings) -> LabelledImages:
    names = _class_names(files)
    labels = LabelMap.from_names(names)
    index = labels.index_by_name()
    label_of = np.array([index[name] for name in names], np.int32)
    batches = {int(found[1]): name for name in files if (found := _BATCH.fullmatch(name))}
    test = next((name for name in (TEST, f"{TEST}.bin") if name in files), None)
    train = [batches[number] for number in sorted(batches)]
    parts = {"train": train, "val": [test] if test else []}
    missing = [f"data_batch_{k}" for k in range(1, BATCHES + 1) if k not in batches]
    missing = [] if split == "val" else missing
    missing += [TEST] if test is None and split != "train" else []
    for name in missing:
        findings.report("missing-batch", name, f"not in the source; {DAMAGED}")
    splits = {
        name: [_images(files[base], label_of) for base in bases]
        for name, bases in parts.items()
        if bases
    }
    if not splits:
        raise SourceError("the source has neither data_batch_1 nor test_batch: download it again")
    return LabelledImages(labels=labels, splits=splits, form="planes")


def _class_names(files: Mapping[str, _File]) -> list[str]:
    meta = next((files[name] for name in METAS if name in files), None)
    if meta is None:
        raise SourceError(f"{METAS[1]} is missing, which has the class names: {DAMAGED}")
    if meta.where.endswith(METAS[0]):
        names = [os.fsdecode(line.strip()) for line in meta.data.splitlines() if line.strip()]
    else:
        listed = _pickled(meta).get(b"label_names")
        names = [_text(name) for name in listed] if isinstance(listed, list) else []
    if len(set(names)) != len(names) or not 2 <= len(names) <= 256 or "" in names:
        raise SourceError(f"{meta.where} does not list the class names: {DAMAGED}")
    return names


def _images(file: _File, label_of: NDArray[np.int32]) -> tuple[ContainerImages, NDArray[np.int32]]:
    batch = _binary_batch(file) if file.where.endswith(".bin") else _pickled_batch(file)
    if len(batch.labels) == 0 or int(batch.labels.max()) >= len(label_of):
        classes = counted(len(label_of), "class", "classes")
        raise SourceError(
            f"{file.where} has no records, or a label beyond the {classes}: {DAMAGED}"
        )
    builder = ContainerBuilder(file.where, file.path, ":")
    for k in range(len(batch.labels)):
        at = file.start + batch.start + k * batch.stride
        builder.add(b"%05d.ppm" % k, at, CIFAR_BYTES, file.mtime_ns)
    return builder.finish(), label_of[batch.labels]


def _binary_batch(file: _File) -> _Batch:
    """Records of one byte for the label and 3,072 for the pixels."""
    stride = 1 + CIFAR_BYTES
    if len(file.data) % stride:
        raise SourceError(
            f"{file.where} has {len(file.data):,} bytes, which are not whole records of "
            f"{stride:,}: {DAMAGED}"
        )
    return _Batch(np.frombuffer(file.data, np.uint8)[::stride], 1, stride)


def _pickled_batch(file: _File) -> _Batch:
    content = _pickled(file)
    data, listed = content.get(b"data"), content.get(b"labels")
    if not isinstance(data, PickledArray) or not isinstance(listed, list):
        raise SourceError(f"{file.where} has no data and labels: {DAMAGED}")
    whole = all(isinstance(label, int) and 0 <= label < 256 for label in listed)
    if data.shape != (len(listed), CIFAR_BYTES) or not whole:
        raise SourceError(f"{file.where}: its data and labels do not agree: {DAMAGED}")
    return _Batch(np.array(listed, np.uint8), data.offset, CIFAR_BYTES)


def _pickled(file: _File) -> dict[bytes, object]:
    """The dictionary in a pickle, by name."""
    try:
        content = read_plain(file.data)
    except ValueError as exc:
        raise SourceError(f"{file.where} is not a CIFAR file: {exc}; {DAMAGED}") from exc
    if not isinstance(content, dict):
        raise SourceError(f"{file.where} is not a CIFAR file: {DAMAGED}")
    return {os.fsencode(_text(key)): value for key, value in content.items()}


def _text(value: object) -> str:
    return os.fsdecode(value) if isinstance(value, bytes | str) else ""


LAYOUT = Layout(
    expected=f"{' or '.join(ARCHIVES)}, the file itself or its folder",
    detect=detect,
)
