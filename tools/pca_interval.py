#!/usr/bin/env python3
"""Bootstrap intervals of a dataset's colour PCA: its change if other photographs had been drawn.

    .venv/bin/python tools/pca_interval.py DATASET [--draws N] [--seed N]

Prints the stored standard deviations of the three components, and their 95 % intervals over draws
of as many records with replacement. Reads JPEG and PNG records.
"""

from __future__ import annotations

import argparse
import io
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imgprep.colour.moments import MomentsAccumulator, RgbMoments
from imgprep.colour.pca import fit_pca
from imgprep.colour.stats import load_moments
from imgprep.dataset.index import load_index

PERCENTILES = (2.5, 97.5)


def moments_of_records(dataset: Path) -> Iterator[RgbMoments]:
    """Yield the colour moments of each training record."""
    for shard in load_index(dataset).splits["train"].shards:
        with tarfile.open(dataset / shard.name) as tar:
            for member in tar:
                file = tar.extractfile(member)
                if file is not None and member.name.endswith((".jpg", ".png")):
                    image_hwc = np.asarray(Image.open(io.BytesIO(file.read())).convert("RGB"))
                    one = MomentsAccumulator(len(image_hwc))
                    one.add(image_hwc)
                    yield one.moments().rgb


def stdevs_of_draws(records: list[RgbMoments], draws: int, seed: int) -> NDArray[np.float64]:
    """Return (draws, 3): the components' standard deviations in each draw, in levels 0-255."""
    rng = np.random.default_rng(seed)
    sums = np.array([(*one.sums, *one.second) for one in records], dtype=object)
    size_px, count = records[0].size_px, len(records)
    found = []
    for _ in range(draws):
        r, g, b, *second = sums[rng.integers(0, count, count)].sum(axis=0).tolist()
        rr, gg, bb, rg, rb, gb = second
        moments = RgbMoments(count, size_px, (r, g, b), (rr, gg, bb, rg, rb, gb))
        found.append(fit_pca(moments, "gradient-ascent").stdevs)
    return np.array(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("dataset", type=Path, metavar="DATASET")
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    records = list(moments_of_records(options.dataset))
    if len(records) < 2:
        parser.error(f"{options.dataset} has fewer than two JPEG or PNG training records")
    draws = stdevs_of_draws(records, options.draws, options.seed)
    low, high = np.percentile(draws, PERCENTILES, axis=0)
    stored = fit_pca(load_moments(options.dataset)).stdevs
    sys.stdout.write(f"{len(records)} training records, {options.draws} draws\n")
    for k in range(3):
        sys.stdout.write(f"PC{k + 1}  {stored[k]:8.2f}  95 % {low[k]:.1f}-{high[k]:.1f}\n")


if __name__ == "__main__":
    main()
