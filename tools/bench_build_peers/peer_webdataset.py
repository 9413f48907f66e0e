"""webdataset's ShardWriter with Pillow in a pool of two processes (Pillow or pillow-simd).

Usage: peer_webdataset.py SOURCE OUT [filter] [workers|main]

``workers``: each process writes its own shards. ``main``: the processes send records to the main
process, which writes them.
"""

from __future__ import annotations

import sys
import time
from multiprocessing import get_context
from pathlib import Path

import webdataset
from _pillow import pillow_record
from _task import PROCESSES, SHARD_IMAGES, Photo, arguments, list_photos, report

FILTER = sys.argv[3] if len(sys.argv) > 3 else "bilinear"
WRITERS = sys.argv[4] if len(sys.argv) > 4 else "workers"


def record(item: tuple[int, Photo]) -> dict[str, object]:
    index, (path, label) = item
    return {"__key__": f"{index:08d}", "jpg": pillow_record(path, FILTER), "cls": label}


def write_shard(job: tuple[Path, int, list[tuple[int, Photo]]]) -> None:
    out, shard, items = job
    pattern = str(out / "shard-%06d.tar")
    with webdataset.ShardWriter(pattern, start_shard=shard, maxcount=10**9, verbose=0) as sink:
        for item in items:
            sink.write(record(item))


def main() -> None:
    source, out = arguments()
    start = time.perf_counter()
    items = list(enumerate(list_photos(source)))
    with get_context("fork").Pool(PROCESSES) as pool:
        if WRITERS == "main":
            pattern = str(out / "shard-%06d.tar")
            with webdataset.ShardWriter(pattern, maxcount=SHARD_IMAGES, verbose=0) as sink:
                for one in pool.imap(record, items, chunksize=8):
                    sink.write(one)
        else:
            # At least two shards per process, so that neither waits long for the other at the end.
            step = min(SHARD_IMAGES, -(-len(items) // (2 * PROCESSES)))
            jobs = [
                (out, shard, items[first : first + step])
                for shard, first in enumerate(range(0, len(items), step))
            ]
            for _ in pool.imap_unordered(write_shard, jobs):
                pass
    report(len(items), time.perf_counter() - start)


if __name__ == "__main__":
    main()
