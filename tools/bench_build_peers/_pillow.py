"""Makes a record in the usual way with the Pillow of the environment."""

from __future__ import annotations

import io

from _task import QUALITY, SIZE_PX
from PIL import Image


def pillow_record(path: str, filter_name: str = "bilinear") -> bytes:
    """Return the record of one photo, made in the usual way with the installed Pillow."""
    resample = Image.Resampling[filter_name.upper()]
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    width, height = image.size
    scale = SIZE_PX / min(width, height)
    width, height = max(SIZE_PX, round(width * scale)), max(SIZE_PX, round(height * scale))
    image = image.resize((width, height), resample)
    left, top = (width - SIZE_PX) // 2, (height - SIZE_PX) // 2
    image = image.crop((left, top, left + SIZE_PX, top + SIZE_PX))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY, subsampling="4:2:0")
    return buffer.getvalue()
