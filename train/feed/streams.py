"""The streams of random numbers of an epoch, by name.

Each has its own key of numpy's Philox, which can start at any word: so the numbers of some
positions can be drawn without those before them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imgprep.order import stream_key

PHILOX_WORDS = 4
"""Words that numpy's Philox makes at each step."""


@dataclass(frozen=True, slots=True)
class Streams:
    """The random streams of one epoch."""

    seed: int
    epoch: int

    def words(self, name: str, count: int, skip: int = 0) -> NDArray[np.uint64]:
        """Return the words of a stream from number ``skip`` on."""
        generator = np.random.Philox(key=stream_key(self.seed, f"epoch-{name}:{self.epoch}"))
        generator.advance(skip // PHILOX_WORDS)
        rest = skip % PHILOX_WORDS
        return np.asarray(generator.random_raw(rest + count)[rest:], dtype=np.uint64)

    def words_at(self, name: str, chunk_n: NDArray[np.int64], width: int) -> NDArray[np.uint64]:
        """Return the ``width`` words of each chunk: (n, width)."""
        low, high = int(chunk_n.min(initial=2**62)), int(chunk_n.max(initial=-1)) + 1
        if low >= high:
            return np.zeros((0, width), np.uint64)
        words = self.words(name, width * (high - low), width * low).reshape(-1, width)
        in_order = len(words) == len(chunk_n) and bool((np.diff(chunk_n) == 1).all())
        return words if in_order else words[chunk_n - low]

    def integers(self, name: str, count: int, below: int) -> NDArray[np.int64]:
        """Draw uniform integers from 0 to ``below`` - 1; the bias is under ``below`` / 2^32."""
        return _below(self.words(name, count), below)

    def integers_at(
        self, name: str, chunk_n: NDArray[np.int64], below: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Draw two uniform integers for each chunk (n, 2); ``below`` is (n, 2) or one number."""
        return _below(self.words_at(name, chunk_n, 2), below)

    def uniform_at(self, name: str, chunk_n: NDArray[np.int64]) -> NDArray[np.float64]:
        """Draw a uniform number for each chunk (n,); see ``uniform``."""
        return _uniform(self.words_at(name, chunk_n, 1)[:, 0])

    def uniform(self, name: str, count: int) -> NDArray[np.float64]:
        """Draw uniform numbers on (0, 1), ends excluded: the middles of 2^53 equal steps."""
        return _uniform(self.words(name, count))

    def normal(self, name: str, count: int) -> NDArray[np.float64]:
        """Draw standard normal numbers by the method of Box and Muller."""
        u = self.uniform(name, 2 * count).reshape(2, count)
        return np.asarray(np.sqrt(-2 * np.log(u[0])) * np.cos(2 * np.pi * u[1]))


def _below(words: NDArray[np.uint64], below: int | NDArray[np.int64]) -> NDArray[np.int64]:
    scaled = (words >> np.uint64(32)) * np.asarray(below, np.uint64)
    return (scaled >> np.uint64(32)).astype(np.int64)


def _uniform(words: NDArray[np.uint64]) -> NDArray[np.float64]:
    return ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
