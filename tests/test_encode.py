"""prepare() and encode() of one image."""

from __future__ import annotations

import io

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from imgprep.dataset.encodings import encoding_of
from imgprep.errors import FormatError, ImageError
from imgprep.image.prepare import codecs, prepare
from imgprep.image.resize import resize_crop
from imgprep.spec import ENCODINGS, FILTERS, SUBSAMPLINGS, ImageSpec, Subsampling


def encode(image_hwc: NDArray[np.uint8], spec: ImageSpec) -> bytes:
    return encoding_of(spec.encoding).encode(image_hwc, spec)


def picture(height: int, width: int) -> NDArray[np.uint8]:
    y, x = np.mgrid[0:height, 0:width]
    waves = [128 + 100 * np.sin(x / 9 + k) * np.cos(y / 7 - k) for k in range(3)]
    return np.stack(waves, axis=2).astype(np.uint8)


def png(image_hwc: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image_hwc).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize("filter_name", FILTERS)
@pytest.mark.parametrize("shape", [(20, 31), (64, 64), (64, 90), (100, 81)])
def test_prepare_is_decode_then_resize(filter_name: str, shape: tuple[int, int]) -> None:
    spec = ImageSpec(size_px=64, filter=filter_name)  # type: ignore[arg-type]
    prepared = prepare(png(picture(*shape)), spec)
    expected = resize_crop(picture(*shape), size_px=64, filter_name=filter_name)
    assert (prepared.image_hwc == expected).all()
    assert prepared.enlarged == (min(shape) < 64)
    assert prepared.notes.format == "PNG"


@pytest.mark.parametrize("shape", [(64, 64), (64, 99), (40, 40), (99, 99)])
def test_a_record_is_not_overwritten_by_the_next_image(shape: tuple[int, int]) -> None:
    # The decoder reuses its buffer; a record must not be in it.
    spec = ImageSpec(size_px=64)
    first = prepare(simplejpeg.encode_jpeg(picture(*shape)), spec).image_hwc
    kept = first.copy()
    prepare(simplejpeg.encode_jpeg(255 - picture(*shape)), spec)
    assert (first == kept).all()


def test_prepare_applies_the_size_limit_of_the_spec() -> None:
    data = png(picture(1001, 1000))
    with pytest.raises(ImageError, match="limit of 1 megapixel "):
        prepare(data, ImageSpec(max_megapixels=1))
    assert prepare(data, ImageSpec(max_megapixels=2)).image_hwc.shape == (256, 256, 3)


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_jpeg_has_the_requested_size_subsampling_and_quality(subsampling: Subsampling) -> None:
    image_hwc = picture(64, 64)
    lengths = []
    for quality in (50, 95, 100):
        data = encode(image_hwc, ImageSpec(quality=quality, subsampling=subsampling))
        assert simplejpeg.decode_jpeg_header(data) == (64, 64, "YCbCr", subsampling)
        assert np.abs(simplejpeg.decode_jpeg(data).astype(int) - image_hwc).mean() < 12
        lengths.append(len(data))
    assert lengths == sorted(set(lengths))


def test_jpeg_uses_the_standard_tables_of_its_quality() -> None:
    data = encode(picture(64, 64), ImageSpec(quality=95))
    stream = io.BytesIO()
    Image.fromarray(picture(64, 64)).save(stream, "JPEG", quality=95)
    tables = [Image.open(io.BytesIO(d)).quantization for d in (data, stream.getvalue())]  # type: ignore[attr-defined]
    assert tables[0] == tables[1]


def test_png_is_lossless() -> None:
    data = encode(picture(64, 64), ImageSpec(encoding="png"))
    assert (np.asarray(Image.open(io.BytesIO(data))) == picture(64, 64)).all()


@settings(deadline=None, max_examples=20)
@given(st.integers(8, 4096))
def test_raw_is_npy_1_0_with_a_128_byte_header(size_px: int) -> None:
    small = np.arange(size_px * 3, dtype=np.uint32).astype(np.uint8).reshape(1, size_px, 3)
    image_hwc = np.ascontiguousarray(np.broadcast_to(small, (size_px, size_px, 3)))
    data = encode(image_hwc, ImageSpec(encoding="raw"))
    assert len(data) == 128 + image_hwc.size
    assert data[:8] == b"\x93NUMPY\x01\x00"
    loaded = np.load(io.BytesIO(data), allow_pickle=False)
    assert loaded.dtype == np.uint8
    assert (loaded == image_hwc).all()


@pytest.mark.parametrize("name", ENCODINGS)
def test_every_encoding_reads_back_what_it_wrote(name: str) -> None:
    encoding, image_hwc = encoding_of(name), picture(64, 64)
    assert encoding.name == name
    content = encoding.encode(image_hwc, ImageSpec(size_px=64, encoding=encoding.name))
    assert encoding.fault(content, 64) is None
    assert "65" in str(encoding.fault(content, 65))
    assert encoding.fault(b"", 64)
    pixels = encoding.pixels(content, 64)
    assert np.abs(pixels.astype(int) - image_hwc).max() <= (0 if encoding.is_lossless else 40)
    with pytest.raises(FormatError, match=r"the record (does not decode|decodes to)"):
        encoding.pixels(content, 65)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_same_pixels_give_the_same_bytes(encoding: str) -> None:
    spec = ImageSpec(encoding=encoding)  # type: ignore[arg-type]
    first = encode(picture(64, 64), spec)
    assert isinstance(first, bytes)
    assert encode(picture(64, 64), spec) == first


def test_codecs_name_the_versions_that_decide_the_bytes() -> None:
    versions = codecs()
    assert versions["kernel"] in ("c", "numpy")
    assert versions["simplejpeg"]
    assert versions["pillow"].split()[0] in ("pillow", "pillow-simd")
    assert all(isinstance(value, str) and value for value in versions.values())
