"""The limit: simplejpeg decodes every photo and encodes one 256x256 record.

Usage: peer_limit.py SOURCE OUT [PROCESSES]   (default: 2)

Nothing is read (the bytes are in memory), resized or written while the clock runs. The images to
encode are made in advance from up to 256 real photos, and repeated.
"""

from __future__ import annotations

import gc
import io
import sys
import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import simplejpeg
from _pillow import pillow_record
from _task import PROCESSES, QUALITY, arguments, list_photos, report
from PIL import Image

ENCODED = 256
WORKERS = int(sys.argv[3]) if len(sys.argv) > 3 else PROCESSES

jpegs: list[bytes] = []
records: list[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]] = []


def decode_and_encode(index: int) -> int:
    simplejpeg.decode_jpeg(jpegs[index], colorspace="RGB")
    image = records[index % len(records)]
    return len(
        simplejpeg.encode_jpeg(image, quality=QUALITY, colorspace="RGB", colorsubsampling="420")
    )


def main() -> None:
    source, _ = arguments()
    photos = list_photos(source)
    jpegs.extend(Path(path).read_bytes() for path, _ in photos)
    for path, _ in photos[:: -(-len(photos) // ENCODED)]:
        records.append(np.asarray(Image.open(io.BytesIO(pillow_record(path)))))
    gc.freeze()
    with get_context("fork").Pool(WORKERS) as pool:
        pool.map(decode_and_encode, range(WORKERS), chunksize=1)
        start = time.perf_counter()
        count = sum(
            size > 0
            for size in pool.imap_unordered(decode_and_encode, range(len(photos)), chunksize=8)
        )
        seconds = time.perf_counter() - start
    report(count, seconds)


if __name__ == "__main__":
    main()
