"""Progress on stderr: a bar on a terminal, otherwise a line every few seconds."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, field
from typing import TextIO

PLAIN_SECONDS = 10.0
BAR_SECONDS = 0.2
BAR_COLUMNS = 30


def duration(seconds: float) -> str:
    """``1:02:03`` or ``2:03``."""
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"


@dataclass(slots=True)
class Meter:
    """Prints the progress of a job; ``advance`` is cheap enough to call for every message."""

    stream: TextIO
    verb: str
    """Name of the job, such as ``build``."""
    total: int
    noun: str = "images"
    unit: str = "img"
    """Short form of ``noun``, for the rate."""
    quiet: bool = False
    done: int = 0
    bad: int = 0
    started_at: float = field(default_factory=time.monotonic)
    _printed_at: float = 0.0
    _bar_open: bool = False

    def advance(self, done: int, bad: int = 0) -> None:
        """Count images, and print if the last line is old enough."""
        self.done += done
        self.bad += bad
        interval = BAR_SECONDS if self._is_terminal() else PLAIN_SECONDS
        now = time.monotonic()
        if now - max(self._printed_at, self.started_at) >= interval:
            self._printed_at = now
            self._print(end=False)

    def finish(self) -> None:
        """Print the final state and end the line."""
        self._print(end=True)

    def _is_terminal(self) -> bool:
        return self.stream.isatty()

    def _print(self, *, end: bool) -> None:
        if self.quiet:
            return
        if not self._is_terminal():
            self.stream.write(self.line() + "\n")
        else:
            columns = max(20, shutil.get_terminal_size().columns - 1)
            share = (self.done + self.bad) / self.total if self.total else 1.0
            filled = min(BAR_COLUMNS, int(BAR_COLUMNS * share))
            bar = "█" * filled + "░" * (BAR_COLUMNS - filled)
            text = f"{bar} {self.line()}"[:columns]
            self.stream.write(f"\r{text}\x1b[K" + ("\n" if end else ""))
        self.stream.flush()

    def line(self) -> str:
        """``build: 1,200 of 3,000 images (40.0 %), 980 img/s, 0:02 left, 3 bad``."""
        seconds = max(time.monotonic() - self.started_at, 1e-9)
        done = self.done + self.bad
        rate, left = done / seconds, self.total - done
        eta = f"{duration(left / rate)} left" if rate > 0 and left > 0 else duration(seconds)
        share = 100 * done / self.total if self.total else 100.0
        return (
            f"{self.verb}: {done:,} of {self.total:,} {self.noun} ({share:.1f} %), "
            f"{rate:,.0f} {self.unit}/s, {eta}" + (f", {self.bad:,} bad" if self.bad else "")
        )


@dataclass(slots=True)
class StatusLine:
    """One line that is rewritten on a terminal, and printed every few seconds elsewhere."""

    stream: TextIO
    quiet: bool = False
    plain_seconds: float = PLAIN_SECONDS
    _printed_at: float = field(default_factory=time.monotonic)
    _open: bool = False

    def show(self, text: str) -> None:
        """Show the present state."""
        if self.quiet:
            return
        if self.stream.isatty():
            self.stream.write(f"\r{text}\x1b[K")
            self._open = True
        elif time.monotonic() - self._printed_at >= self.plain_seconds:
            self._printed_at = time.monotonic()
            self.stream.write(f"{text}\n")
        self.stream.flush()

    def end(self) -> None:
        """End the line on a terminal, so that other output can follow."""
        if self._open:
            self.stream.write("\n")
            self.stream.flush()
            self._open = False
