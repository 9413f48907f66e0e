"""img2dataset with a list of file:// URLs: two processes with four threads each.

Its processes are spawned and import everything again, so its own clock is used: from the start of
the first shard to the end of the last, as its ``_stats.json`` files say. It shrinks by area,
enlarges by Lanczos, and writes grey photos as grey records.
"""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

from _task import PROCESSES, QUALITY, SHARD_IMAGES, SIZE_PX, arguments, list_photos, report

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # no search for a newer version on the network

from img2dataset import download  # type: ignore[import-not-found]


def write_list(path: Path, source: Path) -> int:
    photos = list_photos(source.resolve())
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("url", "caption"))
        rows.writerows((Path(photo).as_uri(), label) for photo, label in photos)
    return len(photos)


def main() -> None:
    source, out = arguments()
    url_list = out / "photos.csv"
    count = write_list(url_list, source)
    download(
        url_list=str(url_list),
        input_format="csv",
        url_col="url",
        caption_col="caption",
        output_folder=str(out / "shards"),
        output_format="webdataset",
        image_size=SIZE_PX,
        resize_mode="center_crop",
        encode_quality=QUALITY,
        processes_count=PROCESSES,
        thread_count=4,
        # At least two shards per process, so that neither waits long for the other at the end.
        number_sample_per_shard=min(SHARD_IMAGES, -(-count // (2 * PROCESSES))),
        extract_exif=False,
        compute_hash=None,
    )
    stats = [json.loads(path.read_text()) for path in (out / "shards").glob("*_stats.json")]
    done = sum(one["successes"] for one in stats)
    report(done, max(s["end_time"] for s in stats) - min(s["start_time"] for s in stats))


if __name__ == "__main__":
    main()
