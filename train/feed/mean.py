"""The mean that the graph subtracted from each image, to add it back for people to look at."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from train.config import InputConfig
from train.feed.augment import EpochDraws, warp_matrices
from train.feed.dataset import TrainingSet
from train.feed.graph_spec import mean_rgb


def subtracted_mean(
    config: InputConfig, data: TrainingSet, draws: EpochDraws
) -> NDArray[np.float32]:
    """Return the mean that was subtracted from each image: (n, crop, crop, 3), levels 0-255.

    For ``aligned`` it moves and mirrors with the crop; outside the record its edge is repeated.
    """
    crop = config.crop_px
    shape = (len(draws), crop, crop, 3)
    if config.mean == "none":
        return np.zeros(shape, np.float32)
    if config.mean == "channel":
        return np.broadcast_to(mean_rgb(data, config), shape)
    if config.mean == "centre":
        low = (data.size_px - crop) // 2
        window = data.mean_image_hwc[low : low + crop, low : low + crop]
        return np.broadcast_to(window, shape)
    # Each axis is mapped on its own, because the graph neither rotates nor shears.
    centres = np.arange(crop) + 0.5
    matrices = warp_matrices(draws, crop)
    x, y = (
        np.floor(matrices[:, axis, axis, None] * centres + matrices[:, axis, 2, None])
        .clip(0, data.size_px - 1)
        .astype(np.int64)
        for axis in (0, 1)
    )
    return data.mean_image_hwc[y[:, :, None], x[:, None, :]]


def viewable(
    images: torch.Tensor, config: InputConfig, data: TrainingSet, draws: EpochDraws
) -> NDArray[np.uint8]:
    """Convert images (n, 3, crop, crop) as the network sees them to pixels (n, crop, crop, 3).

    ``sd_rgb`` is multiplied, the mean is added, and the result is clipped; nothing else is undone.
    Where the preset divides by 1 + the noise's standard deviation, the pictures have that much less
    contrast.
    """
    sd_rgb = np.array(config.sd_rgb or (1, 1, 1), np.float32)
    seen: NDArray[np.float32] = images.float().permute(0, 2, 3, 1).cpu().numpy()
    levels = seen * sd_rgb + subtracted_mean(config, data, draws)
    return np.asarray(np.rint(levels).clip(0, 255), dtype=np.uint8)
