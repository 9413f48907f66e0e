"""JPEG files that lack scans or their end, define their height late, or have too many scans."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from PIL import Image

from imgprep.errors import ImageError
from imgprep.image import jpegregion
from imgprep.image.geometry import Region
from imgprep.image.jpegfile import read_header
from imgprep.image.jpegscans import read_scans
from imgprep.image.jpegwhole import NO_END
from imgprep.spec import ImageSpec
from tests.decoding import check_outcome
from tests.imagefiles import ARITHMETIC, ODD_SAMPLING, by_pillow, decode, jpeg, picture, saved
from tests.jpegparts import (
    joined,
    many_scans,
    segment,
    split_scans,
    three_scans,
    without_height,
)

MODES = ["RGB", "L", "CMYK"]


def progressive(mode: str = "RGB") -> bytes:
    return saved(Image.fromarray(picture()).convert(mode), "JPEG", progressive=True)


# ---- missing scans -------------------------------------------------------------------------


@pytest.mark.parametrize("restart", [0, 3])
def test_a_baseline_file_of_three_scans_is_read(restart: int) -> None:
    header, scans = three_scans(picture(), quality=95, restart_marker_blocks=restart)
    tables = (
        segment(0xFE, b"comment") + header[header.index(b"\xff\xdb") : header.index(b"\xff\xc0")]
    )
    for data in (joined(header, scans), joined(header, (tables + scan for scan in scans))):
        decoded = decode(data)
        assert decoded.notes.warnings == ()
        assert np.abs(decoded.image_hwc.astype(int) - by_pillow(data)).max() <= 1
        assert np.abs(decoded.image_hwc.astype(int) - picture()).mean() < 4


@pytest.mark.parametrize("kept", [[0], [1], [2], [0, 1], [0, 2], [1, 2], [0, 0, 1]])
def test_a_baseline_file_that_lacks_a_scan_is_bad(kept: list[int]) -> None:
    header, scans = three_scans(picture())
    data = joined(header, (scans[index] for index in kept))
    missing = 3 - len(set(kept))
    with pytest.raises(ImageError, match=f"scans are missing: {missing} of 3 components"):
        decode(data)
    check_outcome(data, ImageSpec(size_px=16))


@pytest.mark.parametrize("mode", MODES)
def test_a_progressive_file_that_lacks_scans_is_bad(mode: str) -> None:
    data = progressive(mode)
    header, scans = split_scans(data)
    assert len(scans) == {"RGB": 10, "L": 6, "CMYK": 18}[mode]
    assert (decode(joined(header, scans)).image_hwc == decode(data).image_hwc).all()
    for kept in range(1, len(scans)):
        with pytest.raises(ImageError, match="damaged JPEG: scans are missing"):
            decode(joined(header, scans[:kept]))
        with pytest.raises(ImageError, match="truncated JPEG: scans are missing"):
            decode(joined(header, scans[:kept], end=b""))


def test_a_progressive_file_that_lacks_a_scan_in_the_middle_is_bad() -> None:
    header, scans = split_scans(progressive())
    for missing in range(len(scans)):
        with pytest.raises(ImageError, match="damaged JPEG"):
            decode(joined(header, scans[:missing] + scans[missing + 1 :]))


def test_a_scan_without_its_data_is_bad() -> None:
    header, scans = split_scans(progressive())
    length = scans[-1].index(b"\xff\xda") + 10
    with pytest.raises(ImageError, match="damaged JPEG"):
        decode(joined(header, [*scans[:-1], scans[-1][:length]]))


def test_components_with_the_same_identifier_are_counted_in_order() -> None:
    start, scans = split_scans(jpeg())
    header = bytearray(start)
    frame = header.index(b"\xff\xc0")
    header[frame + 10 : frame + 19 : 3] = b"\1\1\1"
    scan = bytearray(scans[0])
    scan[5:11:2] = b"\1\1\1"
    data = joined(bytes(header), [bytes(scan)])
    assert read_scans(data, read_header(data)).incomplete_components == 0
    assert (decode(data).image_hwc == decode(jpeg()).image_hwc).all()


@pytest.mark.parametrize("data", [ARITHMETIC, ODD_SAMPLING, jpeg(), progressive("L")])
def test_complete_files_of_other_kinds_are_complete(data: bytes) -> None:
    scans = read_scans(data, read_header(data))
    assert scans.incomplete_components == 0
    assert scans.has_end


# ---- the end marker and the height ----------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 1}])
@pytest.mark.parametrize("mode", MODES)
def test_a_file_that_lacks_only_its_end_marker_is_read_with_a_warning(
    mode: str, options: dict[str, object]
) -> None:
    data = saved(Image.fromarray(picture()).convert(mode), "JPEG", **options)
    expected = decode(data).image_hwc.copy()
    for cut in (1, 2):
        decoded = decode(data[:-cut])
        assert (decoded.image_hwc == expected).all()
        assert decoded.notes.warnings == (NO_END,)
        check_outcome(data[:-cut], ImageSpec(size_px=16))
    for cut in (3, 4, 20):
        with pytest.raises(ImageError, match="truncated JPEG"):
            decode(data[:-cut])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_a_height_in_a_dnl_segment_is_used(mode: str, options: dict[str, object]) -> None:
    plain = saved(Image.fromarray(picture()).convert(mode), "JPEG", **options)
    expected = decode(plain).image_hwc.copy()
    decoded = decode(without_height(plain))
    assert (decoded.image_hwc == expected).all()
    assert decoded.notes.warnings == ()
    check_outcome(without_height(plain), ImageSpec(size_px=16))


def test_a_height_of_zero_without_a_dnl_segment_after_the_first_scan_is_bad() -> None:
    data = without_height(jpeg())
    dnl = data.index(b"\xff\xdc")
    for damaged in (
        data[:dnl] + data[dnl + 6 :],
        data[: dnl + 4] + b"\0\0" + data[dnl + 6 :],
        without_height(progressive(), after_scan=1),
    ):
        with pytest.raises(ImageError, match="declares an empty image of 60x0 pixels"):
            decode(damaged)


def test_the_height_in_a_dnl_segment_is_checked_against_the_limit() -> None:
    data = without_height(jpeg())
    dnl = data.index(b"\xff\xdc")
    with pytest.raises(ImageError, match="declares 60x65535 pixels, above the limit"):
        decode(data[: dnl + 4] + b"\xff\xff" + data[dnl + 6 :], max_megapixels=3)


@pytest.mark.skipif(not jpegregion.ENABLED, reason="the C extension is not in use")
def test_the_region_decoder_skips_a_dnl_segment() -> None:
    header, scans = split_scans(jpeg())
    data = joined(header, [scans[0] + segment(0xDC, b"\0\x28")])
    buffer = np.empty(40 * 60 * 3, np.uint8)
    assert jpegregion.decode_region(data, read_header(data), Region(0, 40, 0, 60), buffer)


def test_a_header_of_very_many_segments_does_not_need_much_memory() -> None:
    data = jpeg()
    data = data[:2] + segment(0xFE, b"") * 20_000 + data[2:]
    expected = decode(jpeg()).image_hwc.copy()
    tracemalloc.start()
    try:
        decoded = decode(data[:-2])
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (decoded.image_hwc == expected).all()
    assert peak_bytes < 4 * len(data)


# ---- too many scans -------------------------------------------------------------------------


def test_more_scans_than_the_image_size_allows_are_rejected_before_decoding() -> None:
    bands = [(k, k) for k in range(1, 64)]
    data = many_scans(1000, bands, bits=14)
    assert read_scans(data, read_header(data)).count == 883
    with pytest.raises(
        ImageError, match=r"883 scans of 1000x1000 pixels, which .* is 100 scans of 1 megapixel "
    ):
        decode(data, max_megapixels=1)
    assert (decode(data, max_megapixels=9).image_hwc == 128).all()


def test_as_many_scans_as_the_limit_allows_are_read() -> None:
    data = many_scans(1000, [(k, k) for k in range(1, 64)], bits=1)
    assert read_scans(data, read_header(data)).count == 64
    decoded = decode(data, max_megapixels=1)
    assert decoded.notes.warnings == ()
    assert (decoded.image_hwc == 128).all()


@pytest.mark.parametrize("side_px", [1, 16])
def test_a_small_image_may_have_every_legal_scan(side_px: int) -> None:
    data = many_scans(side_px, [(k, k) for k in range(1, 64)], bits=14)
    assert (decode(data, max_megapixels=1).image_hwc == 128).all()
