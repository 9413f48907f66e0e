"""Check that both JPEG decoders (region, whole image) have the same outcome for a file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from imgprep.errors import ImageError
from imgprep.image import jpegregion
from imgprep.image.prepare import prepare
from imgprep.spec import ImageSpec
from tests.fuzzing import cause


@contextmanager
def whole_decoding() -> Iterator[None]:
    """Decode as with ``IMGPREP_JPEG=full``."""
    enabled, jpegregion.ENABLED = jpegregion.ENABLED, False
    try:
        yield
    finally:
        jpegregion.ENABLED = enabled


def outcome(data: bytes, spec: ImageSpec) -> object:
    """Pixels and notes of the record, or the cause if there is none."""
    try:
        prepared = prepare(data, spec)
    except ImageError as exc:
        return cause(exc)
    return prepared.image_hwc.tobytes(), prepared.notes, prepared.enlarged


def check_outcome(data: bytes, spec: ImageSpec) -> None:
    """Assert that both decoders have the same outcome."""
    fast = outcome(data, spec)
    with whole_decoding():
        assert outcome(data, spec) == fast
