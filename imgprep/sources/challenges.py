"""The published facts of the ImageNet challenges: names, checksums and counts of the archives."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

_SPLIT_WORDS = {"val": "validation", "test": "test"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Challenge:
    """The names, checksums and counts of one challenge."""

    name: str
    """``ILSVRC2012``; also the beginning of the names of its images."""
    train_tar: str
    val_tar: str
    test_tar: str = ""
    """Empty where the labels of the test split were never published."""
    devkit_name: str
    """The folder in the devkit archive."""
    devkit_archives: tuple[str, ...]
    """Names of the devkit archive; the first is the published one."""
    images_by_split: Mapping[str, int]
    classes: int = 1000
    class_order_sha256: str = ""
    """SHA-256 of the sorted WordNet ids as ``dataset.labels.order_digest`` makes it, if known."""
    val_images_per_class: int = 50
    md5_by_archive: Mapping[str, str] = field(default_factory=dict)
    bytes_by_archive: Mapping[str, int] = field(default_factory=dict)

    @property
    def image_tars(self) -> tuple[str, ...]:
        """The archives of images."""
        return tuple(filter(None, (self.train_tar, self.val_tar, self.test_tar)))

    @property
    def id_field(self) -> str:
        """The field of ``meta.mat`` that numbers the classes."""
        return f"{self.name}_ID"

    def ground_truth(self, split: str) -> str:
        """File with the id of the class of each image of ``val`` or ``test``."""
        return f"{self.name}_{_SPLIT_WORDS[split]}_ground_truth.txt"

    def number(self, split: str, name: bytes) -> int | None:
        """The number in ``ILSVRC2012_val_00000001.JPEG`` (any ending, any folder before it)."""
        match = _image_name(self.name, split).match(name.rpartition(b"/")[2])
        return int(match[1]) if match else None


@cache
def _image_name(challenge: str, split: str) -> re.Pattern[bytes]:
    return re.compile(rf"{challenge}_{split}_(\d{{8}})(?:\.|$)".encode())


_DEVKIT_2012 = "ILSVRC2012_devkit_t12"
ILSVRC2012 = Challenge(
    name="ILSVRC2012",
    train_tar="ILSVRC2012_img_train.tar",
    val_tar="ILSVRC2012_img_val.tar",
    devkit_name=_DEVKIT_2012,
    devkit_archives=(f"{_DEVKIT_2012}.tar.gz", f"{_DEVKIT_2012}.tgz", f"{_DEVKIT_2012}.tar"),
    images_by_split={"train": 1_281_167, "val": 50_000},
    class_order_sha256="385e0240499426c022b773be1ae4da780f057b89c9694c7f47199f62746b6edd",
    md5_by_archive={
        "ILSVRC2012_img_train.tar": "1d675b47d978889d74fa0da5fadfb00e",
        "ILSVRC2012_img_val.tar": "29b22e2961454d5413ddabcf34fc5622",
        f"{_DEVKIT_2012}.tar.gz": "fa75699e90414af021442c21a62c3abf",
    },
    bytes_by_archive={
        "ILSVRC2012_img_train.tar": 147_897_477_120,
        "ILSVRC2012_img_val.tar": 6_744_924_160,
    },
)
ILSVRC2010 = Challenge(
    name="ILSVRC2010",
    train_tar="ILSVRC2010_images_train.tar",
    val_tar="ILSVRC2010_images_val.tar",
    test_tar="ILSVRC2010_images_test.tar",
    devkit_name="devkit-1.0",
    devkit_archives=(
        *("ILSVRC2010_devkit-1.0.tar.gz", "ILSVRC2010_devkit-1.0.tgz"),
        *("ILSVRC2010_devkit-1.0.tar", "devkit-1.0.tar.gz"),
    ),
    images_by_split={"train": 1_261_406, "val": 50_000, "test": 150_000},
)
CHALLENGES = (ILSVRC2012, ILSVRC2010)
DEVKIT_FOLDERS = tuple(challenge.devkit_name for challenge in CHALLENGES)
"""Names of folders that are not classes, also with something after them."""
FALL_2011_TAR = "fall11_whole.tar"
"""All of ImageNet in the release of fall 2011: a tar of 21,841 class tars."""
