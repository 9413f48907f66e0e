"""The fast JPEG decoder returns the same pixels as a whole decode, or declines the file."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageFile

from imgprep.errors import ImageError, UsageError
from imgprep.image import jpegregion
from imgprep.image.geometry import Placement, Region
from imgprep.image.jpegfile import JpegHeader, read_header
from imgprep.spec import ImageSpec
from tests.decoding import check_outcome
from tests.imagefiles import ARITHMETIC, ODD_SAMPLING, jpeg, picture, saved, with_exif

pytestmark = pytest.mark.skipif(not jpegregion.ENABLED, reason="the C extension is not in use")

BUFFER_BYTES = 1 << 24
"""Pillow underestimates the size of a progressive file of noise, which must fit its buffer."""

PILLOW_SAMPLINGS = {"444": 0, "422": 1, "420": 2}


@pytest.fixture(autouse=True, scope="module")
def large_write_buffer() -> Iterator[None]:
    """Enlarge Pillow's write buffer, for this module only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageFile, "MAXBLOCK", BUFFER_BYTES)
        yield


@cache
def texture(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    """A pattern between smooth and pure noise, chosen by the seed."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = np.stack([np.sin(x / (3 + k) + seed) + np.cos(y / (5 - k)) for k in range(3)], axis=2)
    noise = rng.integers(-128, 128, (height, width, 3)) * (seed % 4) / 3
    return np.clip(128 + 60 * waves + noise, 0, 255).astype(np.uint8)


def encoded(image_hwc: NDArray[np.uint8], sampling: str, quality: int, restart: int) -> bytes:
    """A baseline JPEG with standard or (odd quality) optimised Huffman tables."""
    if sampling == "440":
        return bytes(simplejpeg.encode_jpeg(image_hwc, quality, colorsubsampling="440"))
    image = Image.fromarray(image_hwc)
    options: dict[str, object] = {"quality": quality, "restart_marker_blocks": restart}
    if quality % 2:
        options["optimize"] = True
    if sampling == "grey":
        return saved(image.convert("L"), "JPEG", **options)
    return saved(image, "JPEG", subsampling=PILLOW_SAMPLINGS[sampling], **options)


def by_region(data: bytes, region: Region) -> tuple[NDArray[np.uint8], Placement] | None:
    """The result, decoded into a buffer whose old content would be visible."""
    header = read_header(data)
    buffer = np.full(header.height_px * header.width_px * 3, 77, np.uint8)
    return jpegregion.decode_region(data, header, region, buffer)


def whole(header: JpegHeader) -> Region:
    return Region(0, header.height_px, 0, header.width_px)


def check(data: bytes, region: Region, full: NDArray[np.uint8]) -> None:
    result = by_region(data, region)
    assert result is not None
    pixels, placement = result
    assert (placement.full_height, placement.full_width) == full.shape[:2]
    assert placement.contains(region, pixels.shape)
    assert len(pixels) == region.bottom - region.top
    inside = pixels[:, region.left - placement.left : region.right - placement.left]
    assert (inside == full[region.top : region.bottom, region.left : region.right]).all()


@st.composite
def spans(draw: st.DrawFn, length: int) -> tuple[int, int]:
    start = draw(st.integers(0, length - 1))
    return start, draw(st.integers(start + 1, length))


@st.composite
def files(draw: st.DrawFn, side_max: int = 700) -> bytes:
    side = st.one_of(st.integers(1, 40), st.integers(1, side_max))
    image_hwc = texture(draw(side), draw(side), draw(st.integers(0, 7)))
    sampling = draw(st.sampled_from(["444", "422", "420", "440", "grey"]))
    restart = draw(st.sampled_from([0, 0, 1, 2, 7, 100]))
    return encoded(image_hwc, sampling, draw(st.integers(1, 100)), restart)


# ---- the same pixels -----------------------------------------------------------------------


@settings(max_examples=200)
@given(files(), st.data())
def test_a_region_equals_the_same_pixels_of_the_whole_image(
    data: bytes, choice: st.DataObject
) -> None:
    full = simplejpeg.decode_jpeg(data, "RGB")
    assert jpegregion.is_plain(read_header(data))
    check(data, whole(read_header(data)), full)
    for _ in range(3):
        rows, columns = choice.draw(spans(full.shape[0])), choice.draw(spans(full.shape[1]))
        check(data, Region(*rows, *columns), full)


@pytest.mark.parametrize("sampling", ["444", "422", "420", "440", "grey"])
@pytest.mark.parametrize("restart", [0, 3])
def test_every_first_and_last_row_and_column(sampling: str, restart: int) -> None:
    data = encoded(texture(53, 171, 5), sampling, 90, restart)
    full = simplejpeg.decode_jpeg(data, "RGB")
    for at in range(53):
        check(data, Region(at, 53, 0, 171), full)
        check(data, Region(0, at + 1, 20, 130), full)
    for at in range(100):
        check(data, Region(16, 48, at, at + 71), full)


@pytest.mark.parametrize("quality", [1, 99, 100])
def test_extreme_coefficients(quality: int) -> None:
    y, x = np.mgrid[0:64, 0:80]
    board = np.repeat(((x + y) % 2 * 255).astype(np.uint8)[:, :, None], 3, axis=2)
    blocks = np.repeat(((x // 8 + y // 8) % 2 * 255).astype(np.uint8)[:, :, None], 3, axis=2)
    noise = np.random.default_rng(0).integers(0, 2, (64, 80, 3)).astype(np.uint8) * 255
    for image_hwc in (board, blocks, noise):
        for sampling in ("444", "420", "grey"):
            data = encoded(image_hwc, sampling, quality, 0)
            check(data, Region(0, 64, 0, 80), simplejpeg.decode_jpeg(data, "RGB"))


# ---- the same outcome ----------------------------------------------------------------------


@given(
    files(side_max=300),
    st.sampled_from([8, 31, 64, 128]),
    st.sampled_from(["area", "area", "box", "lanczos"]),
    st.integers(1, 8),
    st.sampled_from(["ignore", "apply"]),
)
def test_both_decoders_prepare_the_same_record(
    data: bytes, size_px: int, filter_name: str, orientation: int, exif: str
) -> None:
    spec = ImageSpec(size_px=size_px, filter=filter_name, exif=exif)  # type: ignore[arg-type]
    check_outcome(with_exif(data, orientation), spec)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_unsupported_kinds_go_to_the_other_decoder(mode: str, progressive: bool) -> None:
    data = saved(Image.fromarray(picture()).convert(mode), "JPEG", progressive=progressive)
    plain = mode != "CMYK" and not progressive
    header = read_header(data)
    assert jpegregion.is_plain(header) == plain
    assert (by_region(data, whole(header)) is not None) == plain
    check_outcome(data, ImageSpec(size_px=16))


def test_odd_kinds_are_declined() -> None:
    clean = jpeg()
    adobe_rgb = saved(Image.fromarray(picture()), "JPEG", keep_rgb=True)
    bad_profile = clean[:2] + b"\xff\xe2\x00\x10ICC_PROFILE\x00\x09\x01" + clean[2:]
    junk_inside = clean[:-2] + b"junk" + clean[-2:]
    for data in (ARITHMETIC, ODD_SAMPLING, adobe_rgb, bad_profile, junk_inside):
        header = read_header(data)
        plain = jpegregion.is_plain(header)
        assert plain == (data not in (ARITHMETIC, ODD_SAMPLING))
        assert not plain or by_region(data, whole(header)) is None
        check_outcome(data, ImageSpec(size_px=8))


@pytest.mark.parametrize("restart", [0, 2])
def test_truncation_is_noticed_below_and_beside_the_region(restart: int) -> None:
    data = encoded(texture(90, 120, 3), "420", 80, restart)
    scan = read_header(data).scan_offset
    for end in range(scan + 14, len(data), 61):
        assert by_region(data[:end], Region(0, 8, 0, 70)) is None
        check_outcome(data[:end], ImageSpec(size_px=16))


def test_restart_markers_out_of_order_are_declined() -> None:
    data = encoded(texture(64, 64, 2), "420", 80, 2)
    third = data.index(b"\xff\xd2", read_header(data).scan_offset)
    for marker in (b"\xff\xd3", b"\xff\xd1", b"\xff\xd9", b"\xff\x00", b"\x00\xd2", b"\xff\xff"):
        damaged = data[:third] + marker + data[third + 2 :]
        assert by_region(damaged, Region(0, 8, 0, 8)) is None
        check_outcome(damaged, ImageSpec(size_px=16))


VICTIMS = [
    encoded(texture(72, 100, 2), sampling, quality, restart)
    for sampling, quality, restart in [
        ("420", 90, 0),
        ("420", 75, 3),
        ("422", 51, 0),
        ("444", 95, 1),
        ("440", 80, 0),
        ("grey", 85, 4),
    ]
]


@settings(max_examples=400)
@given(
    st.sampled_from(VICTIMS),
    st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 255)), max_size=4),
    st.one_of(st.just(0), st.integers(0, 3000)),
    st.booleans(),
)
def test_damage_is_declined_or_decoded_as_the_other_decoder_does(
    victim: bytes, writes: list[tuple[int, int]], cut: int, in_scan: bool
) -> None:
    data = bytearray(victim)
    start = read_header(victim).scan_offset if in_scan else 0
    for offset, value in writes:
        data[start + offset % (len(data) - start)] = value
    damaged = bytes(data[: max(len(data) - cut, 4)])
    try:
        header = read_header(damaged)
    except ImageError:
        return
    if not 0 < header.height_px * header.width_px <= 1_000_000:
        return
    region = Region(header.height_px // 3, -(-header.height_px // 2), 0, header.width_px)
    if jpegregion.is_plain(header) and by_region(damaged, region) is not None:
        check(damaged, region, simplejpeg.decode_jpeg(damaged, "RGB", strict=True))
    check_outcome(damaged, ImageSpec(size_px=16, max_megapixels=1))


@given(st.binary(max_size=400), st.integers(0, 700))
def test_noise_after_any_prefix_does_not_crash(noise: bytes, keep: int) -> None:
    data = VICTIMS[0][:keep] + noise
    buffer = np.empty(72 * 100 * 3, np.uint8)
    found = jpegregion._jpeg.decode_region(data, buffer, 72, 100, 0, 72, 0, 100)
    assert found is None or isinstance(found, str) or found == (0, 100)


# ---- the C function itself -----------------------------------------------------------------


def test_invalid_regions_are_rejected() -> None:
    decode, buffer = jpegregion._jpeg.decode_region, np.empty(40 * 60 * 3, np.uint8)
    assert decode(jpeg(), buffer, 40, 60, 0, 40, 0, 60) == (0, 60)
    for numbers in [
        (40, 60, -1, 40, 0, 60),
        (40, 60, 0, 41, 0, 60),
        (40, 60, 9, 9, 0, 60),
        (40, 60, 0, 40, -1, 60),
        (40, 60, 0, 40, 0, 61),
        (40, 60, 0, 40, 60, 60),
        (0, 0, 0, 0, 0, 0),
        (2**40, 60, 0, 2**40, 0, 60),
    ]:
        with pytest.raises(ValueError, match="inside the image"):
            decode(jpeg(), buffer, *numbers)
    with pytest.raises(OverflowError):
        decode(jpeg(), buffer, 2**70, 60, 0, 40, 0, 60)
    with pytest.raises(TypeError):
        decode(jpeg(), buffer, 40, 60)
    with pytest.raises(ValueError, match="contiguous"):
        decode(jpeg(), np.empty(80 * 60 * 3, np.uint8)[::2], 40, 60, 0, 40, 0, 60)
    with pytest.raises(ValueError, match="read-only"):
        decode(jpeg(), np.frombuffer(bytes(40 * 60 * 3), np.uint8), 40, 60, 0, 40, 0, 60)


def test_a_small_buffer_or_another_size_is_declined() -> None:
    decode, buffer = jpegregion._jpeg.decode_region, np.empty(40 * 60 * 3, np.uint8)
    assert decode(jpeg(), buffer[:-1], 40, 60, 0, 40, 0, 60) is None
    assert decode(jpeg(), buffer, 60, 40, 0, 40, 0, 40) is None  # not the declared size
    assert decode(b"", buffer, 40, 60, 0, 40, 0, 60) is None


@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory from /proc")
def test_memory_does_not_grow() -> None:
    def resident_kib() -> int:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0])

    data = encoded(texture(300, 400, 1), "420", 90, 5)
    cases = [data, data[: len(data) // 2], data[:400], data[:-2], data[:2000] + data[2100:]]
    buffer = np.empty(300 * 400 * 3, np.uint8)

    def rounds(n: int) -> None:
        for _ in range(n):
            for case in cases:
                jpegregion._jpeg.decode_region(case, buffer, 300, 400, 50, 250, 50, 350)

    rounds(20)
    before = resident_kib()
    rounds(400)
    assert resident_kib() - before < 4096  # leaking one scan per call would add 20 times that


def test_the_decoder_is_selected_by_name() -> None:
    assert all(jpegregion.choose(word) for word in (None, "", "auto"))
    assert not jpegregion.choose("full")
    with pytest.raises(UsageError, match="IMGPREP_JPEG must be auto or full; got 'fast'"):
        jpegregion.choose("fast")


@pytest.mark.parametrize(("value", "used"), [("auto", "True"), ("full", "False")])
def test_the_environment_selects_the_decoder(value: str, used: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", "from imgprep.image.jpegregion import ENABLED; print(ENABLED)"],
        env={**os.environ, "IMGPREP_JPEG": value},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == used
