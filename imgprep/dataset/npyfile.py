"""Read untrusted ``.npy`` files: plain arrays only, never larger than the file.

``numpy.load`` also opens zips and pickles, allocates the size that a header claims before it looks
whether the bytes exist, and raises a dozen error types on damage. Here all of that is ValueError.
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
    """The array in the bytes of a ``.npy`` file, read-only and without a copy.

    Raises:
        ValueError: not a whole ``.npy`` 1.0 file of plain values in C order, with the reason.
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
        if math.prod(shape) == 0:  # an empty file cannot be mapped
            return np.empty(shape, dtype)
        # Indexing a memmap is several times slower than indexing a plain array.
        return np.memmap(file, dtype, "r", start, shape).view(np.ndarray)


def _header(file: IO[bytes], size_bytes: int) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    """Dtype, shape and offset of the data of a file of ``size_bytes``."""
    try:
        # numpy repairs headers written by Python 2, with a warning; we never write those.
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            if npy_format.read_magic(file) != _VERSION:
                raise ValueError("its version is not 1.0")
            shape, fortran, dtype = npy_format.read_array_header_1_0(file, HEADER_BYTES_MAX)
    except OSError:
        raise
    except Exception as exc:  # numpy's parser raises many types
        raise ValueError(f"not a .npy file: {' '.join(str(exc).split())[:200]}") from exc
    if dtype.hasobject or not dtype.itemsize or fortran or len(shape) > AXES_MAX:
        raise ValueError(f"unsupported kind of array: {dtype!s:.80}, {len(shape)} axes")
    start = file.tell()
    if min(shape, default=0) < 0 or start + dtype.itemsize * math.prod(shape) != size_bytes:
        raise ValueError(f"{size_bytes} bytes do not hold an array of shape {shape!s:.80}")
    return dtype, shape, start
