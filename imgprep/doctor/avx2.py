"""Was pillow-simd compiled with AVX2? Its fast paths are chosen by the compiler, not when it runs.

Nothing in the library says so, and timing proves nothing. But a resampler compiled with AVX2 is
full of two instructions that AVX2 brought, ``vpshufb ymm`` and ``vpmovzx ymm``, whose codes take
four bytes, so that the 2.5 MB of the library hardly hold one by chance. Builds of pillow-simd 12.1
hold 1571 with ``-mavx2`` and none without.
"""

from __future__ import annotations

import re
from pathlib import Path

MANY = 100
"""So many are no chance."""
FEW = 4
"""So few may be."""
_LIBRARY_BYTES_MAX = 64 << 20
# VEX prefix C4, map 0F38; then W and the register, L = 1 (ymm), 66; then the operation.
_VPMOVZX = re.compile(rb"\xc4[\x02\x22\x42\x62\x82\xa2\xc2\xe2]\x7d[\x30-\x35]", re.DOTALL)
_VPSHUFB = re.compile(
    rb"\xc4[\x02\x22\x42\x62\x82\xa2\xc2\xe2]"
    rb"[\x05\x0d\x15\x1d\x25\x2d\x35\x3d\x45\x4d\x55\x5d\x65\x6d\x75\x7d]\x00",
    re.DOTALL,
)


def avx2_instructions(library: Path) -> int | None:
    """Codes of the two instructions in a file; None if it cannot be read or is too large."""
    try:
        if library.stat().st_size > _LIBRARY_BYTES_MAX:
            return None
        content = library.read_bytes()
    except OSError:
        return None
    return sum(len(pattern.findall(content)) for pattern in (_VPMOVZX, _VPSHUFB))


def compiled_with_avx2(pil_folder: Path) -> bool | None:
    """Whether the ``_imaging`` library in a ``PIL`` folder was; None where it is not certain."""
    for library in pil_folder.glob("_imaging.*.so"):
        count = avx2_instructions(library)
        if count is None or FEW < count < MANY:
            return None
        return count >= MANY
    return None
