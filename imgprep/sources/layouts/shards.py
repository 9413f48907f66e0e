"""A dataset that ``build-shards`` wrote, as a source: a smaller copy is made from its records.

Classes, labels, splits and the order of the keys stay. A key also keeps its number, unless the
dataset was built without some images, or only some classes are taken.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imgprep.dataset.encodings import encoding_of
from imgprep.dataset.format import DATASET_INFO
from imgprep.dataset.index import DatasetIndex, ShardInfo, load_index, load_labels
from imgprep.dataset.shard_walk import BadTarError, records
from imgprep.errors import SourceError, UsageError
from imgprep.sources.containers import ContainerBuilder, ContainerImages, Findings
from imgprep.sources.faults import unreadable
from imgprep.sources.layout import Candidate, LabelledImages, Layout
from imgprep.sources.tree import Tree, wrapped_ns
from imgprep.spec import SplitChoice
from imgprep.storage.urls import is_url
from imgprep.wording import counted

VERIFY = "imgprep verify shows what is damaged"


def detect(tree: Tree) -> Candidate | None:
    """Recognise a finished dataset by its index.

    Raises:
        UsageError: it is at a URL.
    """
    if not tree.is_file(DATASET_INFO):
        return None
    if is_url(tree.location):
        raise UsageError(
            f"{tree.where()}: a dataset is a source only on a local disk: copy it there"
        )
    return Candidate(
        layout="shards",
        evidence=(f"found {DATASET_INFO}, the index of a dataset",),
        labelled=partial(_scan, Path(tree.location)),
    )


def _scan(folder: Path, split: SplitChoice, findings: Findings) -> LabelledImages:
    index = load_index(folder)
    labels = load_labels(index)
    wanted = [name for name in index.splits if split in ("all", name)]
    splits = {name: list(_containers(index, name)) for name in wanted}
    if index.encoding == "jpeg":
        findings.notes.append(
            "the records are JPEG: pixels that are resized from them have been compressed once more"
        )
    is_bare = not encoding_of(index.encoding).needs_decoder
    return LabelledImages(
        labels=labels, splits=splits, form="npy" if is_bare else "file", sort_by_name=True
    )


def _containers(
    index: DatasetIndex, split: str
) -> Iterator[tuple[ContainerImages, NDArray[np.int32]]]:
    for shard in index.splits[split].shards:
        path = index.folder / shard.name
        try:
            with path.open("rb") as file:
                if path.stat().st_size != shard.bytes:
                    raise SourceError(
                        f"{path} has {path.stat().st_size:,} bytes, but the index says "
                        f"{shard.bytes:,}: {VERIFY}"
                    )
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as tar:
                    yield _images(index, shard, tar, wrapped_ns(path.stat().st_mtime_ns))
        except OSError as exc:
            raise unreadable(str(path), exc) from exc


def _images(
    index: DatasetIndex, shard: ShardInfo, tar: mmap.mmap, mtime_ns: int
) -> tuple[ContainerImages, NDArray[np.int32]]:
    """List the records of one shard, and read their labels."""
    where = index.folder / shard.name
    builder = ContainerBuilder(shard.name, shard.name, ":")
    label_of: dict[bytes, int] = {}
    try:
        for image, label in records(tar, encoding_of(index.encoding).extension):
            name = image.name.encode("ascii")
            digits = tar[label.offset : label.offset + label.size_bytes]
            if not digits.isdigit() or int(digits) >= index.classes:
                classes = counted(index.classes, "class", "classes")
                raise SourceError(f"{where}: {label.name} is not one of {classes}: {VERIFY}")
            label_of[name] = int(digits)
            builder.add(name, image.offset, image.size_bytes, mtime_ns)
    except BadTarError as exc:
        raise SourceError(f"{where}: {exc}: {VERIFY}") from exc
    images = builder.finish()
    if len(images) != shard.records:
        raise SourceError(
            f"{where} has {counted(len(images), 'record')}, but the index says "
            f"{shard.records:,}: {VERIFY}"
        )
    return images, np.array([label_of[name] for name in images.each_name()], np.int32)


LAYOUT = Layout(
    expected=f"{DATASET_INFO} and the shards of a dataset that imgprep built",
    detect=detect,
)
