"""Measures how many images per second a build prepares, on real photographs, for two seconds.

One process is measured alone, and then one per usable processor together, so that the figure
includes how much they slow each other down.
"""

from __future__ import annotations

import importlib.util
import json
import random
import select
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgprep.build.build_time import BUILD_WORK, expected_seconds
from imgprep.doctor.child import NoAnswerError, command, environment
from imgprep.doctor.disk import IMAGENET_IMAGES, RECORD_BYTES
from imgprep.doctor.finding import Finding
from imgprep.progress import duration
from imgprep.wording import counted

PHOTOS = 8
CUT_HEIGHT_PX, CUT_WIDTH_PX = 375, 533
"""0.20 megapixels, the mean of ImageNet."""
CUT_QUALITY = 97
"""Gives about as many bytes as the mean ImageNet photo."""
CUT_WORK = 0.86
"""Time to prepare one of these cuts relative to an ImageNet photo (median over 300 photos, by CPU
time, 9 rounds in turns, 2026-11-27)."""
ROUND_SECONDS = 0.8
PROCESSES_MAX = 64
START_SECONDS = 30.0
_WORK = "from imgprep.doctor.speed import serve\nserve()\n"


@dataclass(frozen=True, slots=True)
class BuildSpeed:
    """The result of the measurement."""

    alone_images_per_s: float
    together_images_per_s: float
    processes: int
    images: int
    """Images prepared in total."""
    source_bytes: int
    """Mean file size of a photo."""


def photos() -> list[bytes]:
    """Cut photographs that scikit-learn installs into JPEGs like ImageNet's; seeded.

    Raises:
        LookupError: the photographs are not installed.
    """
    import numpy as np
    import simplejpeg

    spec = importlib.util.find_spec("sklearn")
    places = list(spec.submodule_search_locations or ()) if spec else []
    paths = [
        path for place in places for path in sorted((Path(place) / "datasets/images").glob("*.jpg"))
    ]
    if not paths:
        raise LookupError("scikit-learn's photographs are not installed")
    whole = [simplejpeg.decode_jpeg(path.read_bytes()) for path in paths]
    draw = random.Random(0)
    cuts = []
    for number in range(PHOTOS):
        image_hwc = whole[number % len(whole)]
        top = draw.randrange(image_hwc.shape[0] - CUT_HEIGHT_PX + 1)
        left = draw.randrange(image_hwc.shape[1] - CUT_WIDTH_PX + 1)
        cut_hwc = image_hwc[top : top + CUT_HEIGHT_PX, left : left + CUT_WIDTH_PX]
        cuts.append(
            bytes(
                simplejpeg.encode_jpeg(
                    np.ascontiguousarray(cut_hwc), quality=CUT_QUALITY, colorsubsampling="420"
                )
            )
        )
    return cuts


def serve() -> None:
    """Run the child: for each number of seconds on stdin, work that long and print how much."""
    from imgprep.dataset.encodings import encoding_of
    from imgprep.image.prepare import prepare
    from imgprep.spec import ImageSpec

    spec, cuts = ImageSpec(), photos()
    encoding = encoding_of(spec.encoding)

    def one(number: int) -> None:
        encoding.encode(prepare(cuts[number % len(cuts)], spec).image_hwc, spec)

    for number in range(len(cuts)):  # warm up
        one(number)
    _say({"bytes": sum(map(len, cuts)) // len(cuts)})
    for line in sys.stdin:
        started, number = time.perf_counter(), 0
        while time.perf_counter() - started < float(line):
            one(number)
            number += 1
        _say({"images": number, "seconds": time.perf_counter() - started})


def _say(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def measure(processes: int) -> BuildSpeed:
    """Measure in child processes.

    Raises:
        NoAnswerError: a child failed.
    """
    workers = [_Worker() for _ in range(processes)]
    try:
        sizes = [worker.answer(START_SECONDS)["bytes"] for worker in workers]
        workers[0].begin()
        alone = workers[0].answer(START_SECONDS)
        images = alone["images"]
        rate = alone["images"] / alone["seconds"]
        if processes > 1:
            for worker in workers:
                worker.begin()
            answers = [worker.answer(START_SECONDS) for worker in workers]
            rate = sum(each["images"] / each["seconds"] for each in answers)
            images += sum(each["images"] for each in answers)
    finally:
        for worker in workers:
            worker.end()
    return BuildSpeed(alone["images"] / alone["seconds"], rate, processes, images, sizes[0])


class _Worker:
    """A child process that works when asked."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            command(_WORK),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )

    def begin(self) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(f"{ROUND_SECONDS}\n")
            self._process.stdin.flush()

    def answer(self, seconds: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], seconds)[0]:
            raise NoAnswerError(f"no answer within {seconds:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            assert self._process.stderr is not None
            complaint = self._process.stderr.read().strip().splitlines()
            raise NoAnswerError(complaint[-1] if complaint else "the worker ended without an error")
        found: dict[str, Any] = json.loads(line)
        return found

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


def examine(cores: int) -> tuple[Finding, float | None]:
    """Return the finding, and images per second of the whole machine; None if not measured."""
    try:
        found = measure(min(cores, PROCESSES_MAX))
    except NoAnswerError as exc:
        value = f"not measured: {exc}"
        return Finding(group="build", level="note", what="build speed", value=value), None
    image_seconds = found.processes / found.together_images_per_s / CUT_WORK
    seconds = expected_seconds(IMAGENET_IMAGES, image_seconds=image_seconds, workers=cores)
    rate = IMAGENET_IMAGES / seconds
    alone = found.alone_images_per_s * CUT_WORK / BUILD_WORK
    value = (
        f"about {rate:,.0f} img/s with {counted(cores, 'job')} ({alone:,.0f} with one): "
        f"all of ImageNet in {duration(seconds)}"
    )
    beyond = "" if found.processes == cores else f", scaled from {found.processes} processes"
    why = (
        f"estimated from {found.images:,} images of {found.source_bytes // 1000} kB{beyond}; the "
        f"source must deliver {rate * found.source_bytes / 1e6:,.0f} MB/s and the disk take "
        f"{rate * RECORD_BYTES / 1e6:,.0f} MB/s, and other programs slow it down"
    )
    facts = {
        "images_per_s": round(rate, 1),
        "images_per_s_one_job": round(alone, 1),
        "jobs": cores,
        "processes_measured": found.processes,
        "images_measured": found.images,
        "source_bytes_mean": found.source_bytes,
        "imagenet_seconds": round(seconds),
    }
    finding = Finding(
        group="build", level="ok", what="build speed", value=value, why=why, facts=facts
    )
    return finding, rate
