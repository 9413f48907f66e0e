"""Scan containers in threads where that is faster, and yield their images in order."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from imgprep.sources.containers import ContainerImages, Findings
from imgprep.sources.selection import ALL_CLASSES, Selection

SCAN_THREADS = 8
SLOW_SECONDS_PER_IMAGE = 30e-6
Progress = Callable[[int], None]
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class ScanOptions:
    """Which classes are scanned, and how; the result depends on nothing but the classes."""

    threads: int | None
    """None: time the first containers to tell whether threads would wait or compute."""
    progress: Progress | None
    """Called with the number of images found so far in a split."""
    stop: Callable[[], None]
    """Makes the reads of other threads fail soon, once one of them has failed."""
    selection: Selection = ALL_CLASSES

    def chosen(self, classes: Iterable[str], findings: Findings) -> list[str]:
        """Those of the classes found that are used, in lexicographic order.

        A layout calls it before it scans the classes, so that of the others nothing is read;
        ``findings`` learns of all of them.
        """
        names = sorted(classes, key=os.fsencode)
        findings.class_names.update(names)
        return [name for name in names if self.selection.takes(name)]


def scan_each(
    scan: Callable[[Item], ContainerImages], items: Sequence[Item], options: ScanOptions
) -> Iterator[ContainerImages]:
    """Scan containers and yield their images in the order of ``items``.

    A scan of cached headers is limited by Python and faster in one thread. On a cold disk or over
    a network a scan waits, and many can wait at once.
    """
    total = 0
    threads = options.threads
    began = time.perf_counter()
    alone = len(items) if threads == 1 else 2 if threads is None else 0
    pool = ThreadPoolExecutor(threads or SCAN_THREADS, "imgprep-scan")
    try:
        pending: Iterator[ContainerImages] = map(scan, items[:alone])
        for number in range(len(items)):
            if number == alone:
                slow = time.perf_counter() - began > SLOW_SECONDS_PER_IMAGE * total
                threaded = threads is not None or slow
                rest = items[alone:]
                pending = pool.map(scan, rest) if threaded else map(scan, rest)
            images = next(pending)
            total += len(images)
            if options.progress:
                options.progress(total)
            yield images
    except BaseException:
        options.stop()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
