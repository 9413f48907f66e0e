"""The statistics that lie beside the shards, read back and checked."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from imgprep.atomic import read_json
from imgprep.errors import FormatError
from imgprep.format import DATASET_INFO, PIXEL_SUM, RGB_PCA
from imgprep.moments import Moments, RgbMoments
from imgprep.stats import moments_from_json, rgb_moments_from_json


def load_rgb_moments(folder: Path) -> RgbMoments:
    """Moments of the colours of the training set, from ``rgb_pca.json``.

    Raises:
        FormatError: missing or malformed.
    """
    path = folder / RGB_PCA
    if not path.exists():
        why = "built without the train split" if (folder / DATASET_INFO).exists() else "unfinished"
        raise FormatError(f"{path}: not there: the dataset is missing or {why}")
    return rgb_moments_from_json(read_json(path, "RGB PCA"))


def load_moments(folder: Path) -> Moments:
    """All moments of the training set, from ``rgb_pca.json`` and ``pixel_sum.npy``.

    Raises:
        FormatError: missing or malformed, or the two disagree.
    """
    path = folder / PIXEL_SUM
    try:
        pixel_sum_hwc = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as exc:
        raise FormatError(f"{path}: cannot read the pixel sum: {exc}") from exc
    return moments_from_json(read_json(folder / RGB_PCA, "RGB PCA"), pixel_sum_hwc)
