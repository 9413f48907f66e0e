"""Resize and crop as image generators do it: ``center_crop_arr`` of openai/guided-diffusion.

ADM, DiT and their successors are trained on this crop and measured against it. Every step uses the
filter and the rounding of the published function (``guided_diffusion/image_datasets.py``), which
differ from ours: Python's ``round`` takes halves to the even number.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imgprep.image.geometry import Placement, centre_crop
from imgprep.image.resize import BICUBIC

WHOLE_PX_MAX = 1 << 24
"""Pixels up to which the scaled image is made whole, as the published function makes it."""


def adm_crop(image_hwc: NDArray[np.uint8], size_px: int) -> NDArray[np.uint8]:
    """The central ``size_px`` square of a whole image (height, width, 3) uint8, as a new array.

    Equal to the published function in every bit, except for a long, narrow image whose scaled
    version would have more than ``WHOLE_PX_MAX`` pixels and more than the image itself: of that,
    only the square is made, within 2 levels.
    """
    image = Image.fromarray(image_hwc)
    while min(image.size) >= 2 * size_px:
        width, height = image.size
        image = image.resize((width // 2, height // 2), Image.Resampling.BOX)
    scale = size_px / min(image.size)
    wide, tall = (round(side * scale) for side in image.size)
    crop = centre_crop((tall, wide), size_px)
    if wide * tall > max(WHOLE_PX_MAX, image.width * image.height, 4 * size_px**2):
        placement = Placement(image.height, image.width)
        return BICUBIC(np.asarray(image), (tall, wide), crop, placement=placement)
    scaled = image.resize((wide, tall), Image.Resampling.BICUBIC)
    right, bottom = crop.left + size_px, crop.top + size_px
    return np.array(scaled.crop((crop.left, crop.top, right, bottom)))
