"""The two ways to decode a JPEG, part or whole: an image fares the same by both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from imgprep.errors import ImageError
from imgprep.image import jpegwindow
from imgprep.image.prepare import prepare
from imgprep.spec import ImageSpec
from tests.fuzzing import cause


@contextmanager
def full_path() -> Iterator[None]:
    """As with ``IMGPREP_JPEG=full``."""
    enabled, jpegwindow.ENABLED = jpegwindow.ENABLED, False
    try:
        yield
    finally:
        jpegwindow.ENABLED = enabled


def outcome(data: bytes, spec: ImageSpec) -> object:
    """Pixels and notes of the record, or why there is none."""
    try:
        prepared = prepare(data, spec)
    except ImageError as exc:
        return cause(exc)
    return prepared.image_hwc.tobytes(), prepared.notes, prepared.enlarged


def check_outcome(data: bytes, spec: ImageSpec) -> None:
    """The same by both."""
    fast = outcome(data, spec)
    with full_path():
        assert outcome(data, spec) == fast
