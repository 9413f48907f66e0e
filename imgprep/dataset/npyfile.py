"""Read ``.npy`` files that may come from elsewhere: plain arrays only, no larger than their bytes.

``numpy.load`` opens zips and pickles too, allocates what a header claims before it looks whether
the bytes are there, and raises a dozen types of error on damage. Here all of that is ValueError.
"""

from __future__ import annotations

import io
import math
import os
import warnings
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

HEADER_BYTES_MAX = 10_000
AXES_MAX = 8
_VERSION = (1, 0)


def read_npy(data: bytes) -> NDArray[Any]:
    """The array in the bytes of a ``.npy`` file, read-only, without a copy.

    Raises:
        ValueError: not a whole ``.npy`` 1.0 file of plain values in C order; says why.
    """
    dtype, shape, start = _header(io.BytesIO(data), len(data))
    return np.frombuffer(data, dtype, math.prod(shape), start).reshape(shape)


def map_npy(path: Path) -> NDArray[Any]:
    """The array in a ``.npy`` file, mapped into memory, read-only.

    Raises:
        OSError: the file cannot be read.
        ValueError: as ``read_npy``.
    """
    with path.open("rb") as file:
        dtype, shape, start = _header(file, os.fstat(file.fileno()).st_size)
        if math.prod(shape) == 0:  # nothing to map
            return np.empty(shape, dtype)
        # A memmap's own indexing is several times slower than that of a plain array.
        return np.memmap(file, dtype, "r", start, shape).view(np.ndarray)


def _header(file: IO[bytes], size_bytes: int) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    """(dtype, shape, offset of the data) of a file of ``size_bytes``."""
    try:
        # numpy would repair a header of Python 2 with a warning; we never wrote one.
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            if npy_format.read_magic(file) != _VERSION:
                raise ValueError("another version than 1.0")
            shape, fortran, dtype = npy_format.read_array_header_1_0(file, HEADER_BYTES_MAX)
    except OSError:
        raise
    except Exception as exc:  # whatever numpy's parsing of the header runs into
        raise ValueError(f"not a .npy file: {' '.join(str(exc).split())[:200]}") from exc
    if dtype.hasobject or not dtype.itemsize or fortran or len(shape) > AXES_MAX:
        raise ValueError(f"an array of an odd kind: {dtype!s:.80}, {len(shape)} axes")
    start = file.tell()
    if min(shape, default=0) < 0 or start + dtype.itemsize * math.prod(shape) != size_bytes:
        raise ValueError(f"{size_bytes} bytes are not those of an array of shape {shape!s:.80}")
    return dtype, shape, start
