"""The time that a build is expected to take: one formula for the dry run and the doctor."""

from __future__ import annotations

BUILD_WORK = 1.3
"""Time of a build relative to decoding, resizing and encoding its images alone.

A build also reads, sums moments, hashes and writes. Measured as CPU time with default options on
300 ImageNet photos (mean 0.20 megapixels, 111 kB), 5 rounds in turns on 2 cores, 2026-11-27:
1.50 ms per image alone, 1.96 ms in a build.
"""


def expected_seconds(images: int, *, image_seconds: float, workers: int) -> float:
    """Seconds that ``workers`` need to build ``images``.

    ``image_seconds`` is the time in which one worker decodes, resizes and encodes an image. Assumes
    that source and destination are fast enough and that each worker has a processor.
    """
    return images * image_seconds * BUILD_WORK / workers
