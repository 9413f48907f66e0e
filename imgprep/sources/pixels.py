"""Bare pixels of a source as an image file (PPM), which the decoder reads like any other."""

from __future__ import annotations

import re
from typing import Literal, get_args

import numpy as np

from imgprep.dataset.format import NPY_HEADER_BYTES
from imgprep.errors import ImageError

Form = Literal["file", "planes", "npy"]
"""What the bytes of an image in a source are: an image file; the red, green and blue planes of 32
pixels square (CIFAR); or a ``raw`` record of imgprep."""
FORMS: tuple[Form, ...] = get_args(Form)
CIFAR_PX = 32
CIFAR_BYTES = 3 * CIFAR_PX**2
_SHAPE = re.compile(rb"'shape': \((\d{1,5}), (\d{1,5}), 3\)")


def image_file(data: bytes, form: Form) -> bytes:
    """Return the image file of some bytes of a source.

    Raises:
        ImageError: they do not have this form.
    """
    if form == "planes":
        return _from_planes(data)
    return _from_npy(data) if form == "npy" else data


def _from_planes(data: bytes) -> bytes:
    if len(data) != CIFAR_BYTES:
        raise ImageError(f"{len(data):,} bytes are not {CIFAR_PX}x{CIFAR_PX} pixels")
    planes = np.frombuffer(data, np.uint8).reshape(3, CIFAR_PX, CIFAR_PX)
    return _ppm(CIFAR_PX, CIFAR_PX, planes.transpose(1, 2, 0).tobytes())


def _from_npy(data: bytes) -> bytes:
    found = _SHAPE.search(data, 0, NPY_HEADER_BYTES)
    height, width = map(int, found.groups()) if found else (0, 0)
    if not found or len(data) != NPY_HEADER_BYTES + 3 * height * width:
        raise ImageError("not a raw record: its header and its length do not agree")
    return _ppm(height, width, data[NPY_HEADER_BYTES:])


def _ppm(height: int, width: int, rgb: bytes) -> bytes:
    return b"P6 %d %d 255\n" % (width, height) + rgb
