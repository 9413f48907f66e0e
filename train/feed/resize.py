"""Random parts of records, resized on a CPU in C, in a fraction of the time that DALI takes.

DALI still decodes the parts. Without the extension, and on a GPU, it also resizes them, and rounds
the results to whole levels: they differ by up to 2 levels.
"""

from __future__ import annotations

import importlib
import weakref
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from train.feed.augment import EpochDraws
from train.feed.graph_spec import GraphSpec

_resize: Any
try:
    _resize = importlib.import_module("train.feed._resize")
except ImportError:  # not built: the package was installed without a compiler
    _resize = None

KEPT_BUFFERS = 4
"""Memory of finished batches that is kept for later ones: new memory would cost a page fault for
every 4 KiB."""


def resizes_in_c(spec: GraphSpec, device: str) -> bool:
    """Whether ``PartResizer`` makes the images of this graph."""
    simple = spec.config.mean in ("channel", "none")
    return _resize is not None and device == "cpu" and spec.resizes and spec.views == 1 and simple


class PartResizer:
    """Makes the images of a batch from decoded parts. For use by one thread."""

    def __init__(self, spec: GraphSpec) -> None:
        self._spec = spec
        self._pool = ThreadPoolExecutor(spec.threads, "imgprep-resize")
        self._free: deque[NDArray[np.float32]] = deque(maxlen=KEPT_BUFFERS)
        self._divisor_rgb = np.array(spec.divisor_rgb)
        self._mean_rgb = spec.mean_rgb if spec.config.mean == "channel" else np.zeros(3)

    def images(self, parts: Sequence[NDArray[np.uint8]], draws: EpochDraws) -> NDArray[np.float32]:
        """Resize parts (height, width, 3) to images (n, crop, crop, 3), float32, as the graph would
        give them: mirrored, the mean subtracted, the noise added, divided.

        Their memory is reused once nothing refers to the result.
        """
        crop, n = self._spec.crop_px, len(parts)
        buffer = self._free.pop() if self._free else self._new_buffer()
        flat = buffer[:n].reshape(n, -1)
        step = -(-n // self._spec.threads)
        starts = range(0, n, step)
        list(self._pool.map(lambda low: self._fill(flat, parts, draws, low, low + step), starts))
        if self._spec.config.memory_format == "channels-first":
            images = buffer[:n].reshape(n, 3, crop, crop).transpose(0, 2, 3, 1)
        else:
            images = buffer[:n].reshape(n, crop, crop, 3)
        weakref.finalize(images, self._free.append, buffer).atexit = False
        return images

    def _new_buffer(self) -> NDArray[np.float32]:
        return np.empty((self._spec.batch_images, 3 * self._spec.crop_px**2), np.float32)

    def _fill(
        self,
        flat: NDArray[np.float32],
        parts: Sequence[NDArray[np.uint8]],
        draws: EpochDraws,
        low: int,
        end: int,
    ) -> None:
        crop, factor = self._spec.crop_px, tuple((1 / self._divisor_rgb).tolist())
        offset_rgb = (draws.lighting_rgb - self._mean_rgb) / self._divisor_rgb
        first = self._spec.config.memory_format == "channels-first"
        for row in range(low, min(end, len(parts))):
            mirrored = (bool(draws.flip_vertical[row]), bool(draws.flip[row]))
            offset = tuple(offset_rgb[row].tolist())
            _resize.resize(parts[row], flat[row], crop, mirrored, factor, offset, first)
