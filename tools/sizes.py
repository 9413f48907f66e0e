#!/usr/bin/env python3
"""Bytes per record in each encoding, and for all of ILSVRC2012.

    .venv/bin/python tools/sizes.py FOLDER [--images N]

Prepares images from FOLDER once and writes them in every encoding, with the code that writes
shards, to /dev/null. Counts image, tar headers, padding and index.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from imgprep.dataset.encodings import encoding_of
from imgprep.dataset.format import label_bytes, record_key
from imgprep.dataset.shards import ShardWriter
from imgprep.errors import ImageError
from imgprep.image.prepare import prepare
from imgprep.spec import ImageSpec

FULL_SET_IMAGES = 1_281_167 + 50_000
FORMS: tuple[ImageSpec, ...] = (
    ImageSpec(),
    ImageSpec(subsampling="444"),
    ImageSpec(quality=90),
    ImageSpec(quality=85),
    ImageSpec(encoding="png"),
    ImageSpec(encoding="raw"),
)


def name_of(form: ImageSpec) -> str:
    """Return the command line options that select this form."""
    options = f"--encoding {form.encoding}"
    if form.encoding == "jpeg":
        options += f" --quality {form.quality} --subsampling {form.subsampling}"
    return f"`{options}`"


def record_bytes(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield for each form the bytes of the encoded image, and of its record in shard and index."""
    image_hwc = prepare(data, FORMS[0]).image_hwc
    with Path("/dev/null").open("wb") as nowhere:
        for form in FORMS:
            encoded = encoding_of(form.encoding).encode(image_hwc, form)
            sizes = []
            for copies in (1, 101):  # the difference leaves out what each shard has once
                writer = ShardWriter(nowhere, encoding_of(form.encoding).extension)
                for index in range(copies):
                    writer.add(record_key("train", index), encoded, label_bytes(0, 4))
                facts = writer.finish()
                sizes.append(facts.tar_bytes + len(facts.idx_bytes))
            yield len(encoded), (sizes[1] - sizes[0]) // 100


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--images", type=int, default=1000, metavar="N", help="at most (default: 1000)"
    )
    options = parser.parse_args()
    paths = sorted(path for path in options.folder.rglob("*") if path.is_file())
    Random(0).shuffle(paths)
    rows = []
    for path in paths[: options.images]:
        try:
            rows.append(list(record_bytes(path.read_bytes())))
        except ImageError as error:
            sys.stderr.write(f"{path}: {error}\n")
    if not rows:
        parser.error(f"{options.folder} contains no image")
    sizes = np.array(rows, dtype=np.float64)  # (images, forms, 2)
    mean = sizes.mean(axis=0)
    width = 1.96 * sizes[:, :, 1].std(axis=0) / np.sqrt(len(sizes)) * FULL_SET_IMAGES
    out = sys.stdout.write
    out(f"{len(sizes)} images of {FORMS[0].size_px}x{FORMS[0].size_px}; ")
    out(f"ILSVRC2012 is {FULL_SET_IMAGES:,} images, with the 95 % interval of the sample\n\n")
    out("| options | image, bytes | record, bytes | ILSVRC2012, GB |\n|---|---|---|---|\n")
    for form, (image, record), half in zip(FORMS, mean, width, strict=True):
        total = record * FULL_SET_IMAGES
        out(f"| {name_of(form)} | {image:,.0f} | {record:,.0f} ")
        out(f"| {total / 1e9:.1f} ± {half / 1e9:.1f} |\n")


if __name__ == "__main__":
    main()
