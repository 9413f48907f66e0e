"""The progress of a scan or build, as lines on stderr."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from imgprep.progress import StatusLine
from imgprep.wording import counted, plain, readable_bytes

if TYPE_CHECKING:
    from imgprep.dataset.markers import Skip
    from imgprep.sources.manifest import SourceScan


class ProgressLines:
    """Prints the progress of a scan or build on stderr."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._terminal = sys.stderr.isatty()
        self._status = StatusLine(sys.stderr, quiet=quiet)
        self._meter: Any = None

    def scanning(self, images: int) -> None:
        self._status.show(f"scan: {counted(images, 'image')}")

    def hashing(self, done_bytes: int, total_bytes: int) -> None:
        done, total = readable_bytes(done_bytes), readable_bytes(total_bytes)
        self._status.show(f"checksum: {done} of {total}")

    def scanned(self, scan: SourceScan) -> None:
        self.end_line()
        self._line(f"source: {scan.layout}: " + "; ".join(scan.evidence))
        if scan.selection:
            self._line(f"  {scan.selection}, of {scan.source_classes:,} in the source")
        for name, rows in scan.splits.items():
            images = counted(len(rows), "image")
            self._line(f"  {name}: {images}, {readable_bytes(rows.total_bytes)}")
        for note in scan.notes:
            self._line(f"  {note}")

    def started(self, images: int, shards: int, shards_done: int) -> None:
        from imgprep.progress import Meter

        if shards_done:
            self._line(f"already done: {shards_done:,} of {counted(shards, 'shard')}")
        if images:
            self._meter = Meter(sys.stderr, "build", images, quiet=self._quiet)

    def advanced(self, done: int, bad: Sequence[Skip]) -> None:
        self._meter.advance(done, len(bad))

    def retried(self, why: str, done: int, bad: Sequence[Skip]) -> None:
        self.end_line()
        if self._terminal and not self._quiet:
            click.echo("\r\x1b[K", nl=False, err=True)  # the meter's bar
        self._line(why)
        self._meter.advance(-done, -len(bad))

    def publishing(self) -> None:
        self.end_meter()
        self._line("adding up the sums of all shards, writing statistics and index")

    def end_meter(self) -> None:
        if self._meter is not None:
            self._meter.finish()
            self._meter = None

    def end_line(self) -> None:
        self._status.end()

    def _line(self, text: str) -> None:
        if not self._quiet:
            click.echo(plain(text), err=True)
