"""The published facts of ILSVRC2012: names, checksums and counts of the official archives."""

from __future__ import annotations

TRAIN_TAR = "ILSVRC2012_img_train.tar"
VAL_TAR = "ILSVRC2012_img_val.tar"
DEVKIT_NAME = "ILSVRC2012_devkit_t12"
DEVKIT_ARCHIVES = (f"{DEVKIT_NAME}.tar.gz", f"{DEVKIT_NAME}.tgz", f"{DEVKIT_NAME}.tar")
MD5_BY_ARCHIVE = {
    TRAIN_TAR: "1d675b47d978889d74fa0da5fadfb00e",
    VAL_TAR: "29b22e2961454d5413ddabcf34fc5622",
    DEVKIT_ARCHIVES[0]: "fa75699e90414af021442c21a62c3abf",
}
BYTES_BY_ARCHIVE = {TRAIN_TAR: 147_897_477_120, VAL_TAR: 6_744_924_160}
CLASSES = 1000
CLASS_ORDER_SHA256 = "385e0240499426c022b773be1ae4da780f057b89c9694c7f47199f62746b6edd"
"""SHA-256 of the 1000 sorted WordNet ids, as ``dataset.labels.order_digest`` computes it."""
IMAGES_BY_SPLIT = {"train": 1_281_167, "val": 50_000}
VAL_IMAGES_PER_CLASS = 50
