#!/usr/bin/env python3
"""Milliseconds per image of each pixel stage, and the difference of `area` from Pillow's BOX.

    .venv/bin/python tools/bench_pixels.py FOLDER [--rounds N] [--limit N]

Measures all files in FOLDER, in one thread. A stage's figure is the least time over the rounds,
since other work on the machine can only add. All stages of one image run before the next image, as
in a build, so that each stage finds its input in the cache.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import sys
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from PIL import Image

from imgprep.dataset.encodings import encoding_of
from imgprep.image import kernel
from imgprep.image.decode import decode_image
from imgprep.image.geometry import centre_crop, scaled_size
from imgprep.image.prepare import codecs
from imgprep.image.resize import needed_region, resize_crop
from imgprep.spec import ImageSpec

SPEC = ImageSpec()
ENCODING = encoding_of(SPEC.encoding)
STAGES = ("decode", "resize and crop", "moments", "encode")
region_of = partial(needed_region, size_px=SPEC.size_px, filter_name=SPEC.filter)


def one_round(files: list[bytes], pixel_sum_hwc: np.ndarray) -> list[float]:
    """Return the seconds spent in each stage over all files."""
    spent = [0.0] * len(STAGES)
    for data in files:
        marks = [time.perf_counter()]
        decoded = decode_image(
            data, max_megapixels=SPEC.max_megapixels, exif=SPEC.exif, region_of=region_of
        )
        marks.append(time.perf_counter())
        image_hwc = resize_crop(
            decoded.image_hwc,
            size_px=SPEC.size_px,
            filter_name=SPEC.filter,
            placement=decoded.placement,
        )
        marks.append(time.perf_counter())
        kernel.add_moments(image_hwc, pixel_sum_hwc)
        marks.append(time.perf_counter())
        ENCODING.encode(image_hwc, SPEC)
        marks.append(time.perf_counter())
        for stage in range(len(STAGES)):
            spent[stage] += marks[stage + 1] - marks[stage]
    return spent


def print_times(files: list[bytes], rounds: int) -> None:
    pixel_sum_hwc = np.zeros((SPEC.size_px, SPEC.size_px, 3), np.uint32)
    columns = {}
    for backend in kernel.available_backends():
        kernel.BACKEND = backend
        one_round(files[:20], pixel_sum_hwc)
        columns[backend] = [one_round(files, pixel_sum_hwc) for _ in range(rounds)]
    print(f"{'ms/image':<16}" + "".join(f"{name:>10}" for name in columns))
    for stage, name in enumerate(STAGES):
        values = (min(r[stage] for r in runs) for runs in columns.values())
        print(f"{name:<16}" + "".join(f"{v / len(files) * 1e3:>10.3f}" for v in values))
    totals = (min(sum(r) for r in runs) for runs in columns.values())
    print(f"{'all':<16}" + "".join(f"{v / len(files) * 1e3:>10.3f}" for v in totals))


def print_distances(files: list[bytes]) -> None:
    """Compare `area` with its exact definition and with Pillow's BOX, on images that shrink."""
    squares: dict[str, list[float]] = {"exact area": [], "Pillow BOX": []}
    largest = dict.fromkeys(squares, 0)
    for data in files:
        image_hwc = decode_image(data, max_megapixels=SPEC.max_megapixels, exif="ignore").image_hwc
        if min(image_hwc.shape[:2]) <= SPEC.size_px:
            continue
        height, width, _ = image_hwc.shape
        scaled_hw = scaled_size(height, width, SPEC.size_px)
        crop = centre_crop(scaled_hw, SPEC.size_px)
        area = kernel.area_shrink(image_hwc, scaled_hw, crop).astype(int)
        full = Image.fromarray(image_hwc).resize(scaled_hw[::-1], Image.Resampling.BOX)
        others = {
            "exact area": kernel.area_shrink(image_hwc, scaled_hw, crop, backend="numpy"),
            "Pillow BOX": np.asarray(full)[crop.top :, crop.left :][
                : crop.height_px, : crop.width_px
            ],
        }
        for name, other in others.items():
            difference = area - other
            squares[name].append(float((difference**2).mean()))
            largest[name] = max(largest[name], int(np.abs(difference).max()))
    for name, errors in squares.items():
        psnr = 10 * np.log10(255**2 / np.maximum(errors, 1e-9))
        print(
            f"area ({kernel.BACKEND}) against {name}: PSNR mean {psnr.mean():.1f} dB, "
            f"least {psnr.min():.1f} dB, largest difference {largest[name]} "
            f"({len(errors)} images)"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--limit", type=int, default=1000)
    options = parser.parse_args()
    paths = sorted(path for path in options.folder.rglob("*") if path.is_file())[: options.limit]
    if not paths:
        parser.error(f"{options.folder} contains no files")
    files = [path.read_bytes() for path in paths]
    print(f"{len(files)} images; " + ", ".join(f"{k} {v}" for k, v in codecs().items()))
    print_times(files, options.rounds)
    kernel.BACKEND = kernel.available_backends()[0]
    print_distances(files)


if __name__ == "__main__":
    main()
