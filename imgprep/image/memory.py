"""Tell a lack of memory from a damaged image that asks for an absurd amount of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

BYTES_PER_PX = 32
"""More than any decoder needs for a sound image, with its copies."""
RESERVE_BYTES = 64 * 1024 * 1024
"""More than the header and the metadata of a sound image need."""
_MESSAGES = ("out of memory", "insufficient memory")


class DecoderMemoryError(MemoryError):
    """A sound image of this size could not be decoded either: the machine lacks the memory."""


@contextmanager
def memory_errors(pixels: int = 0) -> Iterator[None]:
    """Raise a decoder's failure for lack of memory as DecoderMemoryError, if it really lacks.

    If there is enough memory for a sound image of ``pixels``, the image is damaged, and the
    decoder's own exception passes.
    """
    try:
        yield
    except Exception as exc:
        if _is_memory_error(exc) and not _is_enough(pixels * BYTES_PER_PX + RESERVE_BYTES):
            raise DecoderMemoryError(str(exc)) from exc
        raise


def _is_memory_error(exc: Exception) -> bool:
    return isinstance(exc, MemoryError) or any(text in str(exc).lower() for text in _MESSAGES)


def _is_enough(n_bytes: int) -> bool:
    try:
        np.empty(n_bytes, np.uint8)
    except MemoryError:
        return False
    return True
