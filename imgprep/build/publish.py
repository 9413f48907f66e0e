"""The last stage of a build: merge the moments, write the files beside the shards, index last."""

from __future__ import annotations

import gzip
import hashlib
import io
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgprep.build.identity import BuildIdentity
from imgprep.build.report import BuildReport
from imgprep.build.state import StatePaths, load_pixel_sum
from imgprep.colour.moments import Moments
from imgprep.dataset.card import card_text, may_write_card, timm_info
from imgprep.dataset.format import (
    CARD,
    DATASET_INFO,
    FORMAT_NAME,
    LABELS,
    MEAN_IMAGE_NPY,
    MEAN_IMAGE_PNG,
    PIXEL_SUM,
    REPORT,
    RGB_PCA,
    SCHEMA_VERSION,
    TIMM_INFO,
    brace_pattern,
    label_digits,
    sources_name,
)
from imgprep.dataset.index import DatasetIndex, fingerprint_of
from imgprep.dataset.markers import Marker, remove_marker
from imgprep.dataset.npyfile import read_npy
from imgprep.errors import BuildError
from imgprep.sources.manifest import SourceScan, SplitManifest
from imgprep.spec import BuildSpec
from imgprep.storage import Store
from imgprep.storage.atomic import json_bytes
from imgprep.storage.reading import in_order, load_json, read_bytes


@dataclass(frozen=True, slots=True)
class BuiltShards:
    """All that the last stage needs of a build whose shards are done."""

    spec: BuildSpec
    identity: BuildIdentity
    scan: SourceScan
    markers: dict[str, Sequence[Marker]]


def merge_moments(paths: StatePaths, markers: Sequence[Marker], size_px: int) -> Moments:
    """Add up the moments of all training shards, exactly.

    Raises:
        BuildError: the pixel sum of a shard is missing or damaged; its marker is removed, so
            that the next run rebuilds the shard.
    """
    store = paths.store

    def pixel_sum_of(marker: Marker) -> NDArray[np.int64] | None:
        name = paths.pixel_sum(marker.split, marker.number)
        return load_pixel_sum(store, name, marker.pixel_sum_sha256)

    total = Moments.empty(size_px)
    for marker, pixel_sum in zip(markers, in_order(store, pixel_sum_of, markers), strict=True):
        if pixel_sum is None or marker.rgb_second is None:
            remove_marker(store, marker.stem)
            raise BuildError(
                f"{marker.stem}: its pixel sums are damaged or missing in "
                f"{store.where(paths.folder)}: run the same command again to rebuild this shard"
            )
        rr, gg, bb, rg, rb, gb = marker.rgb_second
        total = total + Moments(marker.records, pixel_sum, (rr, gg, bb, rg, rb, gb))
    return total


def publish_files(paths: StatePaths, built: BuiltShards) -> dict[str, str]:
    """Write statistics, labels and sources; returns the SHA-256 of each file the index names."""

    def moments() -> Moments:
        return merge_moments(paths, built.markers["train"], built.spec.image.size_px)

    contents = contents_by_name(built, moments)
    return _write_files(paths.store, contents, list(contents))


def restore_files(
    store: Store, built: BuiltShards, index: DatasetIndex, lost: Sequence[str], report: BuildReport
) -> None:
    """Write lost files of a finished dataset again, from what is not lost; no image is read.

    The floats of ``rgb_pca.json`` and the compression of the lists of sources depend on libraries
    that are not part of the identity: if their bytes differ, the index gets their new hashes.

    Raises:
        BuildError: another file would not be as the index states.
    """

    def moments() -> Moments:
        pixel_sum = read_npy(read_bytes(store, PIXEL_SUM)).astype(np.int64)
        train = built.markers["train"]
        seconds = [marker.rgb_second for marker in train if marker.rgb_second is not None]
        rr, gg, bb, rg, rb, gb = map(sum, zip(*seconds, strict=True))
        return Moments(sum(marker.records for marker in train), pixel_sum, (rr, gg, bb, rg, rb, gb))

    files = {**index.files, **_write_files(store, contents_by_name(built, moments), lost)}
    if REPORT in lost:
        store.write(REPORT, json_bytes(report.to_json()))
    info = _index(built, files)
    _write_for_readers(store, built, info, {CARD, TIMM_INFO}.intersection(lost))
    if info["fingerprint"] != index.fingerprint:
        raise BuildError(
            f"{store}: {', '.join(lost)}: restored, but not as the index states: the source or a "
            "done marker was changed; start over with --force"
        )
    if files != index.files:
        store.write(DATASET_INFO, json_bytes(info))


def contents_by_name(
    built: BuiltShards, moments: Callable[[], Moments]
) -> dict[str, Callable[[], bytes]]:
    """What makes the content of each file beside the shards, except report and index."""
    merged = cache(moments)
    contents: dict[str, Callable[[], bytes]] = {}
    if built.markers.get("train"):
        contents[PIXEL_SUM] = lambda: _npy(merged().pixel_sum_hwc)
        contents[MEAN_IMAGE_NPY] = lambda: _npy(merged().mean_image_hwc())
        contents[MEAN_IMAGE_PNG] = lambda: _png(merged().mean_image_hwc())
        contents[RGB_PCA] = lambda: _rgb_pca(merged())
    contents[LABELS] = lambda: json_bytes(built.scan.labels.to_json())
    for split in built.markers:
        contents[sources_name(split)] = partial(_sources, built.scan.splits[split])
    return contents


def _write_files(
    store: Store, contents: dict[str, Callable[[], bytes]], names: Sequence[str]
) -> dict[str, str]:
    """Write some of the files; returns the SHA-256 of those that the index names."""
    files: dict[str, str] = {}
    for name in names:
        if name in contents:
            data = contents[name]()
            store.write(name, data)
            files[name] = hashlib.sha256(data).hexdigest()
    files.pop(MEAN_IMAGE_PNG, None)
    return files


def publish_index(
    paths: StatePaths, built: BuiltShards, files: dict[str, str], report: BuildReport
) -> None:
    """Write what describes the dataset, and the index last: then it is whole."""
    info = _index(built, files)
    _write_for_readers(paths.store, built, info, {CARD, TIMM_INFO})
    paths.store.write(REPORT, json_bytes(report.to_json()))
    paths.store.write(DATASET_INFO, json_bytes(info))


def _write_for_readers(
    store: Store, built: BuiltShards, info: dict[str, Any], names: Set[str]
) -> None:
    """Write what other people's readers look for, but never over somebody else's README.md."""
    if TIMM_INFO in names:
        store.write(TIMM_INFO, json_bytes(timm_info(info)))
    if CARD in names and may_write_card(store, info["fingerprint"]):
        pca = load_json(store, RGB_PCA, "colour PCA") if RGB_PCA in info["files"] else None
        store.write(CARD, card_text(info, built.scan.labels, pca).encode())


def _rgb_pca(moments: Moments) -> bytes:
    from imgprep.colour.pca import fit_pca
    from imgprep.colour.stats import rgb_pca_json

    return json_bytes(rgb_pca_json(moments, fit_pca(moments)))


def _npy(array: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _png(mean_image: np.ndarray[Any, Any]) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.floor(mean_image + 0.5).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def _sources(manifest: SplitManifest) -> bytes:
    """A line for each manifest row: number in the key, label, source file (tabs escaped)."""
    labels = manifest.rows["label"]
    file = io.BytesIO()  # 20 MB for ImageNet
    with gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0) as packed:
        for start in range(0, len(manifest), 4096):
            lines = [
                f"{row}\t{labels[row]}\t{_one_line(manifest.where(row))}\n"
                for row in range(start, min(start + 4096, len(manifest)))
            ]
            packed.write("".join(lines).encode("utf-8", "surrogateescape"))
    return file.getvalue()


def _one_line(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


def _index(built: BuiltShards, files: dict[str, str]) -> dict[str, Any]:
    labels = built.scan.labels
    info: dict[str, Any] = {
        "format": FORMAT_NAME,
        "schema_version": SCHEMA_VERSION,
        "spec": built.identity.spec,
        "codecs": built.identity.codecs,
        "source": {
            name: value
            for name, value in built.identity.source.items()
            if "modified" not in name  # a copy of the images gives the same dataset
        },
        "classes": len(labels.classes),
        "label_digits": label_digits(len(labels.classes)),
        "label_order_sha256": labels.order_sha256,
        "splits": {split: _split(split, list(m)) for split, m in built.markers.items()},
        "files": dict(sorted(files.items())),
    }
    info["fingerprint"] = fingerprint_of(info)
    return info


def _split(split: str, markers: Sequence[Marker]) -> dict[str, Any]:
    return {
        "records": sum(marker.records for marker in markers),
        "skipped": sum(len(marker.skipped) for marker in markers),
        "pattern": brace_pattern(split, len(markers)),
        "shards": [
            {
                "name": f"{marker.stem}.tar",
                "records": marker.records,
                "bytes": marker.bytes,
                "sha256": marker.sha256,
            }
            for marker in markers
        ],
    }
