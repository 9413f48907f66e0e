"""Small archives in the shape of CIFAR-10's two, made from random pixels."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.trees import tar_bytes

CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
BATCH = 12
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Cifar:
    """Pixels (batches, images, 3, 32, 32) and labels; the last batch is the test batch."""

    pixels: Pixels
    labels: NDArray[np.uint8]

    @classmethod
    def random(cls, seed: int = 0) -> Cifar:
        draw = np.random.default_rng(seed)
        pixels = draw.integers(0, 256, (6, BATCH, 3, 32, 32), np.uint8)
        return cls(pixels, draw.integers(0, 10, (6, BATCH), np.uint8))

    def binary(self) -> dict[str, bytes]:
        """Files of the binary version, by name."""
        rows = np.concatenate(
            [self.labels[..., None], self.pixels.reshape(6, BATCH, -1)], 2, dtype=np.uint8
        )
        names = [*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin"]
        files = {name: rows[k].tobytes() for k, name in enumerate(names)}
        return {"batches.meta.txt": "\n".join(CLASSES).encode() + b"\n\n", **files}

    def python(self) -> dict[str, bytes]:
        """Files of the python version, by name, as Python 2 wrote them."""
        names = [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]
        files = {
            name: python2(
                {
                    "batch_label": f"training batch {k + 1} of 5",
                    "labels": self.labels[k].tolist(),
                    "data": self.pixels[k].reshape(BATCH, -1),
                    "filenames": [f"photo_{k}_{n}.png" for n in range(BATCH)],
                }
            )
            for k, name in enumerate(names)
        }
        meta = {"num_cases_per_batch": BATCH, "label_names": list(CLASSES), "num_vis": 3072}
        return {"batches.meta": python2(meta), **files}


def write_archive(path: Path, folder: str, files: Mapping[str, bytes]) -> Path:
    """Write the files below a folder as a .tar.gz."""
    members = [(f"{folder}/{name}", content) for name, content in files.items()]
    path.write_bytes(gzip.compress(tar_bytes(members), 1))
    return path


def python2(value: object) -> bytes:
    """Pickle plain data as cPickle of Python 2 did, with protocol 2 and byte strings."""
    return b"\x80\x02" + _pickled(value) + b"."


def _pickled(value: object) -> bytes:
    if isinstance(value, dict):
        pairs = b"".join(_pickled(key) + _pickled(each) for key, each in value.items())
        return b"}(" + pairs + b"u"
    if isinstance(value, list):
        return b"](" + b"".join(map(_pickled, value)) + b"e"
    if isinstance(value, str | bytes):
        data = value.encode() if isinstance(value, str) else value
        short = len(data) < 256
        return (b"U%c" % len(data) if short else b"T" + struct.pack("<i", len(data))) + data
    if isinstance(value, np.ndarray):
        dtype = (
            b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNN" + 2 * _pickled(-1) + b"K\x00tb"
        )
        shape = b"(" + b"".join(map(_pickled, value.shape)) + b"t"
        empty = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
        return empty + b"(K\x01" + shape + dtype + b"\x89" + _pickled(value.tobytes()) + b"tb"
    assert isinstance(value, int)
    return b"K%c" % value if 0 <= value < 256 else b"J" + struct.pack("<i", value)
