"""Pictures for a page: pixels as data URIs."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

JPEG_QUALITY = 88


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """An image on a page; ``alt`` describes it in words."""

    uri: str
    width_px: int
    height_px: int
    alt: str
    caption: str = ""
    shown_px: int | None = None
    """Width on the page; None: its own width."""
    pixelated: bool = False
    """Enlarge pixels as squares, without smoothing."""


def png(
    image_hwc: NDArray[np.uint8],
    *,
    alt: str,
    caption: str = "",
    shown_px: int | None = None,
    pixelated: bool = False,
) -> Picture:
    """Encode pixels (height, width, 3), uint8, without loss."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image_hwc).save(buffer, "PNG", optimize=True)
    return Picture(
        uri=_uri("image/png", buffer.getvalue()),
        width_px=image_hwc.shape[1],
        height_px=image_hwc.shape[0],
        alt=alt,
        caption=caption,
        shown_px=shown_px,
        pixelated=pixelated,
    )


def jpeg(
    image_hwc: NDArray[np.uint8], *, alt: str, caption: str = "", shown_px: int | None = None
) -> Picture:
    """Encode pixels (height, width, 3), uint8, as a small JPEG, for photos."""
    import simplejpeg

    data = simplejpeg.encode_jpeg(
        np.ascontiguousarray(image_hwc), quality=JPEG_QUALITY, colorsubsampling="444"
    )
    return Picture(
        uri=_uri("image/jpeg", data),
        width_px=image_hwc.shape[1],
        height_px=image_hwc.shape[0],
        alt=alt,
        caption=caption,
        shown_px=shown_px,
    )


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
