# mypy: ignore-errors
"""DALI on the CPU decodes, resizes and crops in two threads; the main thread writes records."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import simplejpeg
from _tar import TarShards
from _task import PROCESSES, QUALITY, SIZE_PX, Photo, arguments, list_photos, report
from nvidia.dali import fn, pipeline_def, types

BATCH = 32


@pipeline_def(batch_size=BATCH, num_threads=PROCESSES, device_id=None)
def photos_256(photos: list[Photo]) -> Any:
    jpegs, labels = fn.readers.file(
        files=[path for path, _ in photos], labels=[label for _, label in photos]
    )
    images = fn.decoders.image(jpegs, device="cpu", output_type=types.RGB)
    images = fn.resize(images, resize_shorter=SIZE_PX, interp_type=types.INTERP_LINEAR)
    return fn.crop(images, crop=(SIZE_PX, SIZE_PX)), labels


def write(out: Path, photos: list[Photo]) -> int:
    pipeline = photos_256(photos)
    pipeline.build()
    with TarShards(out) as sink:
        while sink.count < len(photos):
            images, labels = pipeline.run()
            # The reader starts again at the end, so the last batch is cut.
            for i in range(min(BATCH, len(photos) - sink.count)):
                jpeg = simplejpeg.encode_jpeg(
                    images.at(i), quality=QUALITY, colorspace="RGB", colorsubsampling="420"
                )
                sink.add(jpeg, int(labels.at(i)[0]))
        return sink.count


def main() -> None:
    source, out = arguments()
    start = time.perf_counter()
    count = write(out, list_photos(source))
    report(count, time.perf_counter() - start)


if __name__ == "__main__":
    main()
