"""A reference implementation of the augmentation in numpy, image by image, simple and slow.

Suffixes: ``hwc`` row, column, channel; ``yx`` row and column.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from train.config import InputConfig
from train.feed.augment import EpochDraws
from train.feed.dataset import TrainingSet

Float = NDArray[np.float64]


def pixels_of(content: bytes) -> NDArray[np.uint8]:
    """Decode a record of any encoding: (size, size, 3)."""
    if content.startswith(b"\x93NUMPY"):
        return np.asarray(np.load(io.BytesIO(content)))
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def lighting_noise(data: TrainingSet, config: InputConfig, alpha: Float) -> Float:
    """Shift of R, G, B for three alphas, as the paper and the source define it."""
    total = np.zeros(3)
    for k in range(3):
        variance, axis = data.pca.eigenvalues[k], data.pca.eigenvectors[:, k]
        if config.lighting == "sqrt-eigenvalue":
            total += alpha[k] * np.sqrt(variance) * axis
        else:
            total += 255 * alpha[k] * (variance / 255**2) * axis
    return total


def augmented(
    data: TrainingSet, config: InputConfig, draws: EpochDraws, records: list[bytes], lit: bool
) -> Float:
    """Compute the images that the graph must give: (n, 3, crop, crop)."""
    out = []
    for i, content in enumerate(records):
        rows, columns = (
            _places(config, int(draws.crop_yx[i, axis]), bool(mirrored[i]), float(draws.scale[i]))
            for axis, mirrored in ((0, draws.flip_vertical), (1, draws.flip))
        )
        if config.crop == "resized":
            crop_hwc = _resized(config, draws, i, pixels_of(content)).astype(np.float64)
            rows = columns = np.zeros(config.crop_px)  # all of it is inside the record
        else:
            image_hwc = pixels_of(content).astype(np.float64)
            if config.mean == "aligned":
                image_hwc = image_hwc - data.mean_image_hwc
            crop_hwc = _sample(image_hwc, rows, columns)
        low = (data.size_px - config.crop_px) // 2
        if config.mean == "centre":
            high = low + config.crop_px
            crop_hwc = crop_hwc - data.mean_image_hwc[low:high, low:high]
        if config.mean == "channel":
            crop_hwc = crop_hwc - (config.mean_rgb or data.pca.mean_rgb)
        crop_hwc *= (_inside(rows, data.size_px)[:, None] * _inside(columns, data.size_px))[
            ..., None
        ]
        if lit:
            crop_hwc = crop_hwc + draws.lighting_rgb[i]
            if config.lighting_divide:
                crop_hwc = crop_hwc / (1 + config.lighting_sd)
        if config.sd_rgb is not None:
            crop_hwc = crop_hwc / np.array(config.sd_rgb)
        out.append(crop_hwc.transpose(2, 0, 1))
    return np.array(out)


def _resized(
    config: InputConfig, draws: EpochDraws, i: int, image_hwc: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Cut the part out and resize it with Pillow, as torchvision does; then mirror."""
    (top, left), (height, width) = draws.crop_yx[i].tolist(), draws.crop_hw[i].tolist()
    part = Image.fromarray(image_hwc[top : top + height, left : left + width])
    pixels = np.asarray(part.resize((config.crop_px,) * 2, Image.Resampling.BILINEAR))
    pixels = pixels[:, ::-1] if draws.flip[i] else pixels
    return pixels[::-1] if draws.flip_vertical[i] else pixels


def _places(config: InputConfig, corner: int, mirrored: bool, scale: float) -> Float:
    """Positions in the record of the crop's rows (or columns); pixel centres are at integers."""
    from_middle = (np.arange(config.crop_px) + 0.5 - config.crop_px / 2) / scale
    if mirrored:
        from_middle = -from_middle
    return np.asarray(corner + config.crop_px / 2 + from_middle - 0.5, dtype=np.float64)


def _sample(image_hwc: Float, rows: Float, columns: Float) -> Float:
    """Interpolate bilinearly; outside the image its edge is repeated."""
    size = len(image_hwc)
    low_r, low_c = np.floor(rows).astype(int), np.floor(columns).astype(int)
    part_r, part_c = (rows - low_r)[:, None, None], (columns - low_c)[None, :, None]

    def at(r: NDArray[np.int64], c: NDArray[np.int64]) -> Float:
        return np.asarray(image_hwc[np.clip(r, 0, size - 1)][:, np.clip(c, 0, size - 1)])

    top = at(low_r, low_c) * (1 - part_c) + at(low_r, low_c + 1) * part_c
    bottom = at(low_r + 1, low_c) * (1 - part_c) + at(low_r + 1, low_c + 1) * part_c
    return np.asarray(top * (1 - part_r) + bottom * part_r)


def _inside(places: Float, size: int) -> Float:
    nearest = np.floor(places + 0.5)
    return np.asarray((nearest >= 0) & (nearest < size), dtype=np.float64)
