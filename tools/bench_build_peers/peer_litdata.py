"""litdata.optimize with two workers; records are Pillow's JPEG bytes and the label."""

from __future__ import annotations

import time

from _pillow import pillow_record
from _task import PROCESSES, Photo, arguments, list_photos, report
from litdata import optimize  # type: ignore[import-not-found]


def record(photo: Photo) -> dict[str, object]:
    path, label = photo
    return {"image": pillow_record(path), "label": label}


def main() -> None:
    source, out = arguments()
    start = time.perf_counter()
    photos = list_photos(source)
    optimize(
        fn=record,
        inputs=photos,
        output_dir=str(out),
        num_workers=PROCESSES,
        chunk_bytes="64MB",
        # With fork the workers do not import everything again.
        start_method="fork",
        optimize_dns=False,
        verbose=False,
    )
    report(len(photos), time.perf_counter() - start)


if __name__ == "__main__":
    main()
