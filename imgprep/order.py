"""Write order: a seeded permutation of a split, equal on every machine and numpy release."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


def stream_key(seed: int, name: str) -> int:
    """128-bit key of the random stream ``name`` of ``seed``."""
    digest = hashlib.sha256(f"imgprep:{name}:{seed}".encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:16], "little")


def shuffled(count: int, *, seed: int, name: str) -> NDArray[np.int64]:
    """Permutation of ``range(count)``: int64 ``(count,)``.

    Sorts by the raw words of the counter-based Philox generator. Unlike ``Generator.permutation``,
    these words are guaranteed not to change between numpy releases (NEP 19). The stable sort
    resolves ties, improbable as they are.
    """
    words = np.random.Philox(key=stream_key(seed, name)).random_raw(count)
    return np.argsort(np.asarray(words, dtype=np.uint64), kind="stable")
