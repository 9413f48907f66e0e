"""mosaicml-streaming's MDSWriter in each of two processes, with a merged index.

Pillow encodes the JPEG bytes at quality 95, and they are stored as bytes: MDS's own ``jpeg`` column
would use Pillow's default quality of 75.
"""

from __future__ import annotations

import time
from multiprocessing import get_context
from pathlib import Path

import _torchvision_cpu  # noqa: F401  (before streaming, which imports torchvision)
from _pillow import pillow_record
from _task import PROCESSES, Photo, arguments, list_photos, report, shares
from streaming import MDSWriter  # type: ignore[import-not-found]
from streaming.base.util import merge_index  # type: ignore[import-not-found]

COLUMNS = {"image": "bytes", "label": "int"}


def write_share(job: tuple[Path, list[Photo]]) -> None:
    out, photos = job
    with MDSWriter(out=str(out), columns=COLUMNS) as sink:
        for path, label in photos:
            sink.write({"image": pillow_record(path), "label": label})


def main() -> None:
    source, out = arguments()
    start = time.perf_counter()
    photos = list_photos(source)
    jobs = [(out / str(part), share) for part, share in enumerate(shares(photos, PROCESSES))]
    with get_context("fork").Pool(PROCESSES) as pool:
        pool.map(write_share, jobs, chunksize=1)
    merge_index(str(out), keep_local=True)
    report(len(photos), time.perf_counter() - start)


if __name__ == "__main__":
    main()
