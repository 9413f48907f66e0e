"""The fast JPEG decoder: the window of a whole decode bit by bit, or nothing at all."""

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
from imgprep.image import jpegwindow
from imgprep.image.geometry import Part, Window
from imgprep.image.jpegfile import JpegHeader, read_header
from imgprep.spec import ImageSpec
from tests.decoding import check_outcome
from tests.imagefiles import ARITHMETIC, ODD_SAMPLING, jpeg, picture, saved, with_exif

pytestmark = pytest.mark.skipif(not jpegwindow.ENABLED, reason="the C extension is not in use")

ROOM_BYTES = 1 << 24
"""Pillow guesses the size of a progressive file, too small for noise; it must fit its buffer."""

PILLOW_SAMPLINGS = {"444": 0, "422": 1, "420": 2}


@pytest.fixture(autouse=True, scope="module")
def room() -> Iterator[None]:
    """For the files of this module alone: Pillow writes other files in pieces of this length."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageFile, "MAXBLOCK", ROOM_BYTES)
        yield


@cache
def texture(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    """From smooth to pure noise, by the seed."""
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


def by_window(data: bytes, window: Window) -> tuple[NDArray[np.uint8], Part] | None:
    """The result in a buffer whose old content would show."""
    header = read_header(data)
    buffer = np.full(header.height_px * header.width_px * 3, 77, np.uint8)
    return jpegwindow.decode_window(data, header, window, buffer)


def whole(header: JpegHeader) -> Window:
    return Window(0, header.height_px, 0, header.width_px)


def check(data: bytes, window: Window, full: NDArray[np.uint8]) -> None:
    found = by_window(data, window)
    assert found is not None
    pixels, part = found
    assert (part.full_height, part.full_width) == full.shape[:2]
    assert part.holds(window, pixels.shape)
    assert len(pixels) == window.bottom - window.top
    inside = pixels[:, window.left - part.left : window.right - part.left]
    assert (inside == full[window.top : window.bottom, window.left : window.right]).all()


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
def test_a_window_is_that_part_of_the_whole_image(data: bytes, choice: st.DataObject) -> None:
    full = simplejpeg.decode_jpeg(data, "RGB")
    assert jpegwindow.is_plain(read_header(data))
    check(data, whole(read_header(data)), full)
    for _ in range(3):
        rows, columns = choice.draw(spans(full.shape[0])), choice.draw(spans(full.shape[1]))
        check(data, Window(*rows, *columns), full)


@pytest.mark.parametrize("sampling", ["444", "422", "420", "440", "grey"])
@pytest.mark.parametrize("restart", [0, 3])
def test_every_first_and_last_row_and_column(sampling: str, restart: int) -> None:
    data = encoded(texture(53, 171, 5), sampling, 90, restart)
    full = simplejpeg.decode_jpeg(data, "RGB")
    for at in range(53):
        check(data, Window(at, 53, 0, 171), full)
        check(data, Window(0, at + 1, 20, 130), full)
    for at in range(100):
        check(data, Window(16, 48, at, at + 71), full)


@pytest.mark.parametrize("quality", [1, 99, 100])
def test_extreme_coefficients(quality: int) -> None:
    y, x = np.mgrid[0:64, 0:80]
    board = np.repeat(((x + y) % 2 * 255).astype(np.uint8)[:, :, None], 3, axis=2)
    blocks = np.repeat(((x // 8 + y // 8) % 2 * 255).astype(np.uint8)[:, :, None], 3, axis=2)
    noise = np.random.default_rng(0).integers(0, 2, (64, 80, 3)).astype(np.uint8) * 255
    for image_hwc in (board, blocks, noise):
        for sampling in ("444", "420", "grey"):
            data = encoded(image_hwc, sampling, quality, 0)
            check(data, Window(0, 64, 0, 80), simplejpeg.decode_jpeg(data, "RGB"))


# ---- the same outcome ----------------------------------------------------------------------


@given(
    files(side_max=300),
    st.sampled_from([8, 31, 64, 128]),
    st.sampled_from(["area", "area", "box", "lanczos"]),
    st.integers(1, 8),
    st.sampled_from(["ignore", "apply"]),
)
def test_both_paths_prepare_the_same_record(
    data: bytes, size_px: int, filter_name: str, orientation: int, exif: str
) -> None:
    spec = ImageSpec(size_px=size_px, filter=filter_name, exif=exif)  # type: ignore[arg-type]
    check_outcome(with_exif(data, orientation), spec)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_what_it_does_not_do_takes_the_other_path(mode: str, progressive: bool) -> None:
    data = saved(Image.fromarray(picture()).convert(mode), "JPEG", progressive=progressive)
    plain = mode != "CMYK" and not progressive
    header = read_header(data)
    assert jpegwindow.is_plain(header) == plain
    assert (by_window(data, whole(header)) is not None) == plain
    check_outcome(data, ImageSpec(size_px=16))


def test_odd_kinds_are_declined() -> None:
    clean = jpeg()
    adobe_rgb = saved(Image.fromarray(picture()), "JPEG", keep_rgb=True)
    bad_profile = clean[:2] + b"\xff\xe2\x00\x10ICC_PROFILE\x00\x09\x01" + clean[2:]
    junk_inside = clean[:-2] + b"junk" + clean[-2:]
    for data in (ARITHMETIC, ODD_SAMPLING, adobe_rgb, bad_profile, junk_inside):
        header = read_header(data)
        plain = jpegwindow.is_plain(header)
        assert plain == (data not in (ARITHMETIC, ODD_SAMPLING))
        assert not plain or by_window(data, whole(header)) is None
        check_outcome(data, ImageSpec(size_px=8))


@pytest.mark.parametrize("restart", [0, 2])
def test_truncation_is_noticed_below_and_beside_the_window(restart: int) -> None:
    data = encoded(texture(90, 120, 3), "420", 80, restart)
    scan = read_header(data).scan_offset
    for end in range(scan + 14, len(data), 61):
        assert by_window(data[:end], Window(0, 8, 0, 70)) is None
        check_outcome(data[:end], ImageSpec(size_px=16))


def test_restart_markers_out_of_turn_are_declined() -> None:
    data = encoded(texture(64, 64, 2), "420", 80, 2)
    third = data.index(b"\xff\xd2", read_header(data).scan_offset)
    for marker in (b"\xff\xd3", b"\xff\xd1", b"\xff\xd9", b"\xff\x00", b"\x00\xd2", b"\xff\xff"):
        damaged = data[:third] + marker + data[third + 2 :]
        assert by_window(damaged, Window(0, 8, 0, 8)) is None
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
    window = Window(header.height_px // 3, -(-header.height_px // 2), 0, header.width_px)
    if jpegwindow.is_plain(header) and by_window(damaged, window) is not None:
        check(damaged, window, simplejpeg.decode_jpeg(damaged, "RGB", strict=True))
    check_outcome(damaged, ImageSpec(size_px=16, max_megapixels=1))


@given(st.binary(max_size=400), st.integers(0, 700))
def test_noise_after_any_prefix_does_no_harm(noise: bytes, keep: int) -> None:
    data = VICTIMS[0][:keep] + noise
    buffer = np.empty(72 * 100 * 3, np.uint8)
    found = jpegwindow._jpeg.decode_window(data, buffer, 72, 100, 0, 72, 0, 100)
    assert found is None or found == (0, 100)


# ---- the C function itself -----------------------------------------------------------------


def test_windows_that_make_no_sense_are_refused() -> None:
    decode, buffer = jpegwindow._jpeg.decode_window, np.empty(40 * 60 * 3, np.uint8)
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
        with pytest.raises(ValueError, match="inside an image"):
            decode(jpeg(), buffer, *numbers)
    with pytest.raises(OverflowError):
        decode(jpeg(), buffer, 2**70, 60, 0, 40, 0, 60)
    with pytest.raises(TypeError):
        decode(jpeg(), buffer, 40, 60)
    with pytest.raises(ValueError, match="contiguous"):
        decode(jpeg(), np.empty(80 * 60 * 3, np.uint8)[::2], 40, 60, 0, 40, 0, 60)
    with pytest.raises(ValueError, match="read-only"):
        decode(jpeg(), np.frombuffer(bytes(40 * 60 * 3), np.uint8), 40, 60, 0, 40, 0, 60)


def test_what_does_not_fit_is_declined() -> None:
    decode, buffer = jpegwindow._jpeg.decode_window, np.empty(40 * 60 * 3, np.uint8)
    assert decode(jpeg(), buffer[:-1], 40, 60, 0, 40, 0, 60) is None
    assert decode(jpeg(), buffer, 60, 40, 0, 40, 0, 40) is None  # another size than declared
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
                jpegwindow._jpeg.decode_window(case, buffer, 300, 400, 50, 250, 50, 350)

    rounds(20)
    before = resident_kib()
    rounds(400)
    assert resident_kib() - before < 4096  # one leak of a scan each time would be 20 times that


def test_the_switch_knows_two_words() -> None:
    assert all(jpegwindow.choose(word) for word in (None, "", "auto"))
    assert not jpegwindow.choose("full")
    with pytest.raises(UsageError, match="IMGPREP_JPEG is 'fast'"):
        jpegwindow.choose("fast")


@pytest.mark.parametrize(("value", "used"), [("auto", "True"), ("full", "False")])
def test_the_environment_is_read(value: str, used: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", "from imgprep.image.jpegwindow import ENABLED; print(ENABLED)"],
        env={**os.environ, "IMGPREP_JPEG": value},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == used
