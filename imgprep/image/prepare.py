"""Turn the bytes of a source file into the pixels of a record."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata

import numpy as np
from numpy.typing import NDArray

from imgprep.image.adm import adm_crop
from imgprep.image.decode import Decoded, Notes, decode_image
from imgprep.image.geometry import Placement, Region, scaled_size
from imgprep.image.kernel import BACKEND
from imgprep.image.pillowcheck import find_pillow
from imgprep.image.resize import needed_region, resize_crop
from imgprep.spec import LONG_SIDE_MAX, ImageSpec


@dataclass(frozen=True, slots=True)
class Prepared:
    """The pixels of a record, and notes on its source."""

    image_hwc: NDArray[np.uint8]
    """A new array (height, width, 3) of RGB; all but rectangles are (size, size, 3)."""
    notes: Notes
    enlarged: bool
    """Whether the short side of the source was below the size of the record."""
    cut: bool = False
    """Whether a rectangle was too long, so that only its middle is in the record."""


def prepare(data: bytes, spec: ImageSpec) -> Prepared:
    """Decode, resize the short side and crop the centre; ImageError if the image cannot be used."""
    if spec.shape == "adm":
        return _prepare_adm(data, spec)
    size_px, filter_name, shape = spec.size_px, spec.filter, spec.shape

    def region_of(height: int, width: int) -> Region:
        return needed_region(height, width, size_px=size_px, filter_name=filter_name, shape=shape)

    decoded = decode_image(
        data, max_megapixels=spec.max_megapixels, exif=spec.exif, region_of=region_of
    )
    image_hwc = resize_crop(
        decoded.image_hwc,
        size_px=size_px,
        filter_name=filter_name,
        placement=decoded.placement,
        shape=shape,
    )
    # A region is never smaller than the record; only a whole image can be.
    enlarged = min(decoded.image_hwc.shape[:2]) < size_px
    return Prepared(image_hwc, decoded.notes, enlarged, cut=_is_cut(decoded, spec))


def _is_cut(decoded: Decoded, spec: ImageSpec) -> bool:
    """Whether a rectangle shows only the middle of its image."""
    if spec.shape != "rectangle":
        return False
    full = decoded.placement or Placement(*decoded.image_hwc.shape[:2])
    scaled_hw = scaled_size(full.full_height, full.full_width, spec.size_px)
    return max(scaled_hw) > LONG_SIDE_MAX * spec.size_px


def _prepare_adm(data: bytes, spec: ImageSpec) -> Prepared:
    decoded = decode_image(data, max_megapixels=spec.max_megapixels, exif=spec.exif)
    enlarged = min(decoded.image_hwc.shape[:2]) < spec.size_px
    return Prepared(adm_crop(decoded.image_hwc, spec.size_px), decoded.notes, enlarged)


def codecs() -> dict[str, str]:
    """Versions of the code that decides pixels and bytes; ``c-avx2`` and ``c`` give the same."""
    from PIL import __version__ as pil_version
    from PIL import features

    return {
        "kernel": "numpy" if BACKEND == "numpy" else "c",
        "numpy": np.__version__,
        "simplejpeg": metadata.version("simplejpeg"),
        "pillow": f"{find_pillow().name} {pil_version}",
        "pillow.libjpeg": features.version("jpg") or "none",
        "pillow.zlib": features.version("zlib") or "none",
    }
