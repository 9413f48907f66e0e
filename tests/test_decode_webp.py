"""WebP files, where the installed Pillow can read them."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from PIL import Image, features

from imgprep.errors import ImageError
from tests.imagefiles import by_pillow, decode, picture, saved

pytestmark = pytest.mark.skipif(
    not features.check("webp"), reason="this build of Pillow has no libwebp"
)


def test_lossless_pixels_are_kept_and_the_orientation_is_read() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = saved(Image.fromarray(picture()), "WEBP", lossless=True, exif=exif)
    assert (decode(data).image_hwc == picture()).all()
    assert decode(data).notes.format == "WEBP"
    assert (decode(data, exif="apply").image_hwc == np.rot90(picture(), -1)).all()


def test_alpha_is_dropped_and_the_first_frame_is_used() -> None:
    pixels = np.dstack([picture(), np.full((40, 60), 9, np.uint8)])
    data = saved(Image.fromarray(pixels), "WEBP", lossless=True, exact=True)
    assert (decode(data).image_hwc == picture()).all()
    frames = [Image.fromarray(picture()), Image.new("RGB", (60, 40))]
    data = saved(frames[0], "WEBP", lossless=True, save_all=True, append_images=frames[1:])
    assert (decode(data).image_hwc == picture()).all()


@pytest.mark.parametrize("lossless", [True, False])
def test_a_truncated_file_is_bad_even_if_its_sizes_are_corrected(lossless: bool) -> None:
    data = saved(Image.fromarray(picture(120, 160)), "WEBP", lossless=lossless)
    assert (decode(data).image_hwc == by_pillow(data)).all()
    for end in range(20, len(data) - 8, len(data) // 20):
        cut = data[:end]
        outer = cut[:4] + struct.pack("<I", end - 8) + cut[8:]
        inner = outer[:16] + struct.pack("<I", end - 20) + outer[20:]
        for damaged in (cut, outer, inner):
            with pytest.raises(ImageError, match="damaged WEBP"):
                decode(damaged)
