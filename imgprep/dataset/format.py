"""The on-disk format, declared once: names, record layout, versions. README.md documents it.

A dataset folder holds, for each split, ``<split>-<number>.tar`` (USTAR) and ``.idx`` (DALI index),
then the labels and statistics, and last ``dataset_info.json``. The folder ``.imgprep`` is for the
build: its identity and the done marker of each shard. A record is two tar members with one key:
``<key>.<image extension>`` and ``<key>.cls``.
"""

from __future__ import annotations

from typing import Final

SCHEMA_VERSION: Final = 3
"""Version of the index, the build identity, the done markers and the report.

Versions 1 and 2 are still read."""
RGB_PCA_VERSION: Final = 1
"""Version of ``rgb_pca.json``, which did not change with schema versions 2 and 3."""
FORMAT_NAME: Final = "imgprep"
SPLITS: Final = ("train", "val", "test")

DATASET_INFO: Final = "dataset_info.json"
LABELS: Final = "labels.json"
MEAN_IMAGE_NPY: Final = "mean_image.npy"
MEAN_IMAGE_PNG: Final = "mean_image.png"
PIXEL_SUM: Final = "pixel_sum.npy"
RGB_PCA: Final = "rgb_pca.json"
REPORT: Final = "report.json"
CARD: Final = "README.md"
"""For Hugging Face and people; not written over a README.md that is somebody else's."""
TIMM_INFO: Final = "_info.json"
"""For the WebDataset reader of timm."""
STATE_FOLDER: Final = ".imgprep"
IDENTITY: Final = f"{STATE_FOLDER}/identity.json"
DONE_FOLDER: Final = f"{STATE_FOLDER}/done"
"""Done markers are not beside the shards: stock readers take JSON beside a tar for its data."""

LABEL_EXTENSION: Final = "cls"
LABEL_DIGITS_MIN: Final = 4
LABEL_DIGITS_MAX: Final = 18
"""More digits, in a label or in the number of a key, do not fit into 64 bits."""
DALI_INDEX_VERSION: Final = "v1.2"
NPY_HEADER_BYTES: Final = 128
"""Every ``raw`` record starts with a .npy 1.0 header of this length; pixels follow, HWC uint8."""


def shard_stem(split: str, number: int) -> str:
    """``train-000012``: the name of a shard without its extension."""
    return f"{split}-{number:06d}"


def marker_name(stem: str) -> str:
    """Name of the done marker of a shard."""
    return f"{DONE_FOLDER}/{stem}.json"


def brace_pattern(split: str, shards: int) -> str:
    """The shards of a split in WebDataset's brace notation, with inclusive ends."""
    if shards == 1:
        return f"{shard_stem(split, 0)}.tar"
    return f"{split}-{{{0:06d}..{shards - 1:06d}}}.tar"


def record_key(split: str, index: int) -> str:
    """Key of the record made from row ``index`` of the split's manifest; unique in the dataset."""
    return f"{split}-{index:08d}"


def sources_name(split: str) -> str:
    """File that maps each key of a split to its label and source file."""
    return f"{split}-sources.tsv.gz"


def label_digits(classes: int) -> int:
    """Width of the ASCII label; constant in a dataset, so that DALI need not parse lengths."""
    return max(LABEL_DIGITS_MIN, len(str(max(classes - 1, 0))))


def label_bytes(label: int, digits: int) -> bytes:
    """Content of the ``.cls`` member: zero-padded ASCII digits."""
    return b"%0*d" % (digits, label)


def published_names() -> tuple[str, ...]:
    """Files beside the shards; ``dataset_info.json`` is written last."""
    sources = tuple(sources_name(split) for split in SPLITS)
    return (
        MEAN_IMAGE_NPY,
        MEAN_IMAGE_PNG,
        PIXEL_SUM,
        RGB_PCA,
        LABELS,
        *sources,
        TIMM_INFO,
        REPORT,
        DATASET_INFO,
    )
