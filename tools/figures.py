#!/usr/bin/env python3
"""Draw the pictures for the documentation from a dataset that `imgprep build-shards` made.

    .venv/bin/python tools/figures.py DATASET [--out FOLDER]

mean-image.png  the mean image, as the build wrote it
records.png     the first records of each class, one row per class
colour-axes.png the middle record with AlexNet's lighting noise added: a row for each principal
                component, from -3 to +3 standard deviations of the noise

Draws JPEG and PNG records. The committed pictures show the demo's dataset (photographs under CC BY
2.0).
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

TILE_PX = 96
GAP_PX = 4
RECORDS_A_CLASS = 8
CLASSES_MAX = 8
NOISE_STDEV = 0.1
"""Standard deviation of each of the three factors that AlexNet draws per image."""
NOISE_STEPS = (-3.0, -1.5, 0.0, 1.5, 3.0)
PALETTE_COLOURS = 256


def records(dataset: Path, split: str) -> Iterator[tuple[str, int, Image.Image]]:
    """Yield key, label and image of each record of a split, in the order of the shards."""
    info = json.loads((dataset / "dataset_info.json").read_text())
    for shard in info["splits"][split]["shards"]:
        with tarfile.open(dataset / shard["name"]) as tar:
            members = {member.name: tar.extractfile(member) for member in tar}
            for name, file in members.items():
                key, _, extension = name.partition(".")
                label = members[f"{key}.cls"]
                if extension in ("jpg", "png") and file is not None and label is not None:
                    yield key, int(label.read()), Image.open(io.BytesIO(file.read()))


def grid(rows: list[list[Image.Image]]) -> Image.Image:
    """Arrange pictures of one size in rows and columns with white gaps."""
    width_px, height_px = rows[0][0].size
    columns = max(map(len, rows))
    size = (
        columns * (width_px + GAP_PX) - GAP_PX,
        len(rows) * (height_px + GAP_PX) - GAP_PX,
    )
    sheet = Image.new("RGB", size, "white")
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            sheet.paste(picture, (x * (width_px + GAP_PX), y * (height_px + GAP_PX)))
    return sheet


def tile(picture: Image.Image) -> Image.Image:
    return picture.convert("RGB").resize((TILE_PX, TILE_PX), Image.Resampling.BOX)


def first_of_each_class(dataset: Path) -> list[list[Image.Image]]:
    """Return the records of each class with the lowest keys, which follow the source's order."""
    found: dict[int, list[Image.Image]] = {}
    for _, label, picture in sorted(records(dataset, "train"), key=lambda record: record[0]):
        row = found.setdefault(label, [])
        if len(row) < RECORDS_A_CLASS:
            row.append(tile(picture))
    return [found[label] for label in sorted(found)[:CLASSES_MAX]]


def colour_axes(dataset: Path) -> list[list[Image.Image]]:
    """Return a row per component: one record shifted along it by multiples of the noise."""
    pca = json.loads((dataset / "rgb_pca.json").read_text())
    stdevs = np.sqrt(np.array(pca["eigenvalues"]))
    axes = np.array(pca["eigenvectors"])
    shown = sorted(records(dataset, "train"), key=lambda record: record[0])
    _, _, picture = shown[len(shown) // 2]
    levels: NDArray[np.float64] = np.asarray(tile(picture), dtype=np.float64)
    return [
        [
            Image.fromarray(
                np.clip(
                    np.floor(levels + step * NOISE_STDEV * stdevs[k] * axes[:, k] + 0.5), 0, 255
                ).astype(np.uint8)
            )
            for step in NOISE_STEPS
        ]
        for k in range(3)
    ]


def save(picture: Image.Image, path: Path) -> None:
    picture.save(path, "PNG", optimize=True)
    sys.stdout.write(f"{path}: {picture.width}x{picture.height}, {path.stat().st_size:,} bytes\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("dataset", type=Path, metavar="DATASET")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "pictures")
    options = parser.parse_args()
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    with Image.open(options.dataset / "mean_image.png") as mean_image:
        save(mean_image, out / "mean-image.png")
    sheet = grid(first_of_each_class(options.dataset))
    # The overview may lose colours to stay small; the colour axes must not.
    save(sheet.quantize(PALETTE_COLOURS, Image.Quantize.MEDIANCUT), out / "records.png")
    save(grid(colour_axes(options.dataset)), out / "colour-axes.png")


if __name__ == "__main__":
    main()
