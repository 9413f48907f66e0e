"""Checks the output of a peer: counts every record and decodes a sample.

    _check.py tar|mds|litdata OUT IMAGES rgb|grey-too

Runs in our own environment, which has simplejpeg. It parses the formats itself rather than with the
writer's library.
"""

from __future__ import annotations

import json
import struct
import sys
import tarfile
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import simplejpeg

SIZE_PX = 256
DECODED = 24


def tar_records(out: Path) -> Iterator[bytes]:
    """Yield every ``.jpg`` member of every tar below ``out``."""
    for path in sorted(out.rglob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(".jpg"):
                    stream = tar.extractfile(member)
                    assert stream is not None
                    yield stream.read()


def _offset_records(data: bytes) -> Iterator[bytes]:
    """Yield the samples of a file that starts with their number n and n + 1 offsets, all uint32."""
    (count,) = struct.unpack_from("<I", data)
    offsets = struct.unpack_from(f"<{count + 1}I", data, 4)
    for start, end in pairwise(offsets):
        yield data[start:end]


def mds_records(out: Path) -> Iterator[bytes]:
    """Yield the ``image`` column; its uint32 size comes first, since the label has a fixed size."""
    for shard in json.loads((out / "index.json").read_text())["shards"]:
        assert shard["column_names"] == ["image", "label"], shard["column_names"]
        for sample in _offset_records((out / shard["raw_data"]["basename"]).read_bytes()):
            (size,) = struct.unpack_from("<I", sample)
            yield sample[4 : 4 + size]


def litdata_records(out: Path) -> Iterator[bytes]:
    """Yield the ``image`` leaf, the first of two; the uint32 sizes of both come before it."""
    for chunk in json.loads((out / "index.json").read_text())["chunks"]:
        for sample in _offset_records((out / chunk["filename"]).read_bytes()):
            (size,) = struct.unpack_from("<I", sample)
            yield sample[8 : 8 + size]


READERS: dict[str, Callable[[Path], Iterator[bytes]]] = {
    "tar": tar_records,
    "mds": mds_records,
    "litdata": litdata_records,
}


def check_record(data: bytes, *, grey_too: bool) -> None:
    """Exit with a message unless ``data`` is a JPEG of 256x256 RGB pixels, 4:2:0."""
    height, width, colours, subsampling = simplejpeg.decode_jpeg_header(data)
    shape = simplejpeg.decode_jpeg(data, colorspace="RGB", strict=True).shape
    form = (height, width, colours, subsampling)
    wanted = {(SIZE_PX, SIZE_PX, "YCbCr", "420")}
    if grey_too:
        wanted.add((SIZE_PX, SIZE_PX, "Gray", "Gray"))
    if form not in wanted or shape != (SIZE_PX, SIZE_PX, 3):
        sys.exit(f"a record is {form}, decoded {shape}; expected {wanted}")


def main() -> None:
    kind, out, images, colours = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    step = max(1, images // DECODED)
    count = decoded = 0
    for data in READERS[kind](out):
        if count % step == 0:
            check_record(data, grey_too=colours == "grey-too")
            decoded += 1
        count += 1
    if count != images:
        sys.exit(f"{out} contains {count} records, expected {images}")
    sys.stdout.write(f"{count} records, {decoded} decoded\n")


if __name__ == "__main__":
    main()
