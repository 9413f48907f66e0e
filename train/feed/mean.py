"""What the graph took off each image as its mean, to put it back for people to look at."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from train.config import InputConfig
from train.feed.augment import EpochDraws
from train.feed.dataset import TrainingSet
from train.feed.inputs import warp_matrices


def mean_under(config: InputConfig, data: TrainingSet, draws: EpochDraws) -> NDArray[np.float32]:
    """The mean that was subtracted from each image: (n, crop, crop, 3), levels 0-255.

    For ``aligned`` it moves and turns with the crop; beyond the record its edge goes on.
    """
    crop = config.crop_px
    shape = (len(draws), crop, crop, 3)
    if config.mean == "none":
        return np.zeros(shape, np.float32)
    if config.mean == "channel":
        return np.broadcast_to(data.pca.mean_rgb.astype(np.float32), shape)
    if config.mean == "centre":
        low = (data.size_px - crop) // 2
        window = data.mean_image_hwc[low : low + crop, low : low + crop]
        return np.broadcast_to(window, shape)
    # Both axes are mapped by themselves: a warp of this graph neither turns nor shears.
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
    """Images (n, 3, crop, crop) as the network sees them, as pixels (n, crop, crop, 3) to look at.

    The mean is added and the result clipped; nothing else is undone: where the preset divides by
    1 + the noise's deviation, what remains is that much paler.
    """
    levels = images.float().permute(0, 2, 3, 1).cpu().numpy() + mean_under(config, data, draws)
    return np.rint(levels).clip(0, 255).astype(np.uint8)
