"""The report of a build: counts, skipped images, timings, and the exit code."""

from __future__ import annotations

import platform
import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from imgprep import __version__
from imgprep.dataset.format import SCHEMA_VERSION
from imgprep.dataset.markers import FileWarning, Marker, Skip
from imgprep.errors import EXIT_DONE, EXIT_SKIPPED

KNOWN_ODDITIES = "ILSVRC2012 train holds 22 CMYK images and 1 PNG named .JPEG"

SPLIT_WARNINGS_MAX = 10_000
"""Images with a decoder warning that the report names; ``counts`` has the number of all."""


@dataclass(slots=True)
class BuildReport:
    """Everything that ``report.json`` says."""

    records: Counter[str] = field(default_factory=Counter)
    """Records by split."""
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    """Formats, modes, EXIF, enlarged: by split."""
    skipped: dict[str, list[Skip]] = field(default_factory=dict)
    """Images left out while building, by split."""
    warnings: dict[str, list[FileWarning]] = field(default_factory=dict)
    """Images that were used although their decoder warned, by split."""
    problems: list[dict[str, str]] = field(default_factory=list)
    """What the scan rejected: kind, where, cause."""
    problem_counts: dict[str, int] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    """Seconds and rates of the run that wrote this report."""
    codecs: dict[str, str] = field(default_factory=dict)

    def add(self, marker: Marker) -> None:
        """Count a finished shard."""
        self.records[marker.split] += marker.records
        self.counts.setdefault(marker.split, Counter()).update(marker.counts)
        self.skipped.setdefault(marker.split, []).extend(marker.skipped)
        named = self.warnings.setdefault(marker.split, [])
        named.extend(marker.warnings[: SPLIT_WARNINGS_MAX - len(named)])

    @property
    def skipped_images(self) -> int:
        """Images that the build left out."""
        return sum(map(len, self.skipped.values()))

    @property
    def scan_problems(self) -> int:
        """Entries of the source that the scan rejected."""
        return sum(self.problem_counts.values())

    @property
    def exit_code(self) -> int:
        """0, or 3 if anything was left out."""
        return EXIT_SKIPPED if self.skipped_images or self.scan_problems else EXIT_DONE

    def to_json(self) -> dict[str, Any]:
        """Content of ``report.json``."""
        return {
            "schema_version": SCHEMA_VERSION,
            "records": dict(self.records),
            "counts": {split: dict(sorted(c.items())) for split, c in self.counts.items()},
            "known": KNOWN_ODDITIES,
            "skipped": {
                split: [{"where": skip.where, "cause": skip.cause} for skip in skips]
                for split, skips in self.skipped.items()
            },
            "warnings": {
                split: [{"where": each.where, "cause": each.cause} for each in named]
                for split, named in self.warnings.items()
            },
            "problems": self.problems,
            "problem_counts": self.problem_counts,
            "timings": {name: round(value, 3) for name, value in self.timings.items()},
            "versions": {
                "imgprep": __version__,
                "python": platform.python_version(),
                "platform": f"{sys.platform} {platform.machine()}",
                **self.codecs,
            },
        }
