"""Read ``dataset_info.json``: the published entry to a dataset, for trainers and for verify."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgprep.dataset.format import (
    DATASET_INFO,
    FORMAT_NAME,
    LABEL_DIGITS_MAX,
    LABELS,
    RGB_PCA,
    SCHEMA_VERSION,
    SPLITS,
    sources_name,
)
from imgprep.dataset.labels import LabelMap
from imgprep.dataset.older_versions import as_current, is_known, spec_for_digests
from imgprep.errors import FormatError, UsageError
from imgprep.spec import ImageSpec, Shape, digest_of
from imgprep.storage import Location, Store, open_store
from imgprep.storage.reading import exists, load_json, read_bytes


@dataclass(frozen=True, slots=True)
class ShardInfo:
    """One shard: its file name and its expected content."""

    name: str
    records: int
    bytes: int
    sha256: str

    @property
    def idx_name(self) -> str:
        """Name of the DALI index beside the shard."""
        return self.name.removesuffix(".tar") + ".idx"


@dataclass(frozen=True, slots=True)
class SplitInfo:
    """One split: its shards in order."""

    name: str
    records: int
    skipped: int
    shards: tuple[ShardInfo, ...]


@dataclass(frozen=True, slots=True)
class DatasetIndex:
    """A finished dataset."""

    store: Store
    size_px: int
    encoding: str
    shape: Shape
    classes: int
    label_digits: int
    label_order_sha256: str
    fingerprint: str
    """Digest of spec, labels, every shard and the statistics: equal means equal data."""
    splits: Mapping[str, SplitInfo]
    files: Mapping[str, str]
    """SHA-256 of the files beside the shards (labels, statistics)."""
    spec: Mapping[str, Any]

    @property
    def location(self) -> str:
        """Path or URL of the dataset."""
        return self.store.location

    @property
    def folder(self) -> Path:
        """The folder of a dataset on a local disk.

        Raises:
            FormatError: it is in an object store.
        """
        if self.store.folder is None:
            raise FormatError(f"{self.location}: needed on a local disk: copy the dataset to one")
        return self.store.folder

    @property
    def sides(self) -> str:
        """The size of the records, for people."""
        if self.shape == "rectangle":
            return f"with a short side of {self.size_px} px"
        return f"of {self.size_px}x{self.size_px} px"

    def shard_paths(self, split: str) -> list[Path]:
        """Paths of the shards of a split, in order.

        Raises:
            FormatError: the dataset has no such split, or is not on a local disk.
        """
        if split not in self.splits:
            raise FormatError(
                f"{self.location}: no split {split!r}; it has {', '.join(self.splits) or 'none'}"
            )
        return [self.folder / shard.name for shard in self.splits[split].shards]


def fingerprint_of(info: Mapping[str, Any]) -> str:
    """Digest of a dataset: spec, labels, shards and statistics, but not the codec versions.

    The index has hashes of two more kinds of file that do not count: ``rgb_pca.json``, whose floats
    depend in their last bits on the processor's LAPACK, and the packed lists of sources, whose
    bytes depend on zlib. The data that they are computed from counts.
    """
    parts = ("classes", "label_digits", "label_order_sha256", "splits")
    left_out = {RGB_PCA, *map(sources_name, SPLITS)}
    files = {name: digest for name, digest in info["files"].items() if name not in left_out}
    spec = spec_for_digests(info["spec"])
    return digest_of({"spec": spec, **{name: info[name] for name in parts}, "files": files})


def load_index(location: Location) -> DatasetIndex:
    """Read and check the index of the dataset at a path or URL, or in a store.

    Raises:
        FormatError: the dataset is unfinished, malformed, edited or of another version.
        StoreError: an object store does not answer, or refuses.
    """
    store = open_store(location)
    path = store.where(DATASET_INFO)
    if store.folder is not None:
        _check_folder(store.folder)
    if not exists(store, DATASET_INFO):
        raise FormatError(
            f"{store}: no {DATASET_INFO}: not a finished dataset; run imgprep build-shards again"
        )
    info = load_json(store, DATASET_INFO, "dataset index")
    if info.get("format") != FORMAT_NAME or not is_known(info):
        raise FormatError(
            f"{path}: format {info.get('format')!r:.80} version "
            f"{info.get('schema_version')!r:.80}; this imgprep reads {FORMAT_NAME!r} versions 1 "
            f"to {SCHEMA_VERSION}"
        )
    info = as_current(info)
    try:
        index = _from_json(store, info)
        stated = fingerprint_of(info)
    except (KeyError, TypeError, ValueError, AttributeError, UsageError) as exc:
        raise FormatError(f"{path}: malformed dataset index: {exc!r:.200}") from exc
    if stated != index.fingerprint:
        raise FormatError(f"{path}: edited or damaged: its content does not match its fingerprint")
    return index


def _check_folder(folder: Path) -> None:
    try:
        is_folder = stat.S_ISDIR(folder.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise FormatError(f"{folder} does not exist") from exc
    except OSError as exc:
        raise FormatError(f"{folder} cannot be read: {exc.strerror or exc}") from exc
    if not is_folder:
        raise FormatError(f"{folder} is a file; give the folder of a dataset")


def read_checked(index: DatasetIndex, name: str) -> bytes:
    """The content of a file beside the shards, compared with its hash in the index.

    Raises:
        FormatError: the index does not list it, it cannot be read, or its hash differs.
        StoreError: an object store does not answer, or refuses.
    """
    where = index.store.where(name)
    if name not in index.files:
        raise FormatError(f"{index.store}: the index lists no {name}; build the dataset again")
    try:
        content = read_bytes(index.store, name)
    except OSError as exc:
        raise FormatError(f"{where}: {exc.strerror or exc}; restore it or build again") from exc
    if hashlib.sha256(content).hexdigest() != index.files[name]:
        raise FormatError(f"{where}: not the file that the index describes; run imgprep verify")
    return content


def load_labels(index: DatasetIndex) -> LabelMap:
    """The classes of a dataset.

    Raises:
        FormatError: the file is missing, malformed, or lists other classes than the index.
        StoreError: an object store does not answer, or refuses.
    """
    return labels_of(index, load_json(index.store, LABELS, "labels"))


def labels_of(index: DatasetIndex, value: dict[str, Any]) -> LabelMap:
    """The classes in the content of ``labels.json``.

    Raises:
        FormatError: it is malformed, or lists other classes than the index.
    """
    where = index.store.where(LABELS)
    try:
        labels = LabelMap.from_json(value)
    except FormatError as exc:
        raise FormatError(f"{where}: {exc}") from exc
    if (labels.order_sha256, len(labels)) != (index.label_order_sha256, index.classes):
        raise FormatError(f"{where}: lists other classes than the index: was it edited?")
    return labels


def _from_json(store: Store, info: dict[str, Any]) -> DatasetIndex:
    splits = {name: _split(name, value) for name, value in info["splits"].items()}
    # Checks both: a side of a million pixels would allocate terabytes.
    image = ImageSpec(
        size_px=_natural(info["spec"]["image.size_px"]),
        encoding=info["spec"]["image.encoding"],
        shape=info["spec"]["image.shape"],
    )
    return DatasetIndex(
        store=store,
        size_px=image.size_px,
        encoding=image.encoding,
        shape=image.shape,
        classes=_natural(info["classes"]),
        label_digits=_label_digits(info["label_digits"]),
        label_order_sha256=str(info["label_order_sha256"]),
        fingerprint=str(info["fingerprint"]),
        splits=splits,
        files={_plain_name(name): str(digest) for name, digest in info["files"].items()},
        spec=dict(info["spec"]),
    )


def _split(name: str, value: dict[str, Any]) -> SplitInfo:
    if name not in SPLITS:
        raise ValueError(f"split {name!r}")
    shards = tuple(
        ShardInfo(
            _plain_name(shard["name"]),
            _natural(shard["records"]),
            _natural(shard["bytes"]),
            str(shard["sha256"]),
        )
        for shard in value["shards"]
    )
    records = _natural(value["records"])
    if records != sum(shard.records for shard in shards):
        raise ValueError(f"{name}: {records} records, but its shards have another number")
    return SplitInfo(name, records, _natural(value["skipped"]), shards)


def _natural(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r} is not a count")
    return value


def _label_digits(value: object) -> int:
    digits = _natural(value)
    if digits > LABEL_DIGITS_MAX:
        raise ValueError(f"labels of {digits} digits")
    return digits


def _plain_name(value: object) -> str:
    """A file name without a folder, so that it cannot leave the dataset's folder."""
    if not isinstance(value, str) or not value or value in {".", ".."} or {"/", "\0"} & set(value):
        raise ValueError(f"{value!r} is not a plain file name")
    os.fsencode(value)  # ValueError for what no file can be named
    return value
