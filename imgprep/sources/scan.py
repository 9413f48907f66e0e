"""Report on a scan: what is there, what of it is usable, how it compares with ILSVRC2012."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from imgprep.errors import SourceError
from imgprep.sources.detect import TRAIN_TAR, VAL_TAR, readable_bytes
from imgprep.sources.manifest import Problem, SourceScan, SplitManifest
from imgprep.sources.open_tree import open_tree
from imgprep.sources.tree import Tree
from imgprep.sources.truth import DEVKIT_NAME
from imgprep.wording import printable

KNOWN_CLASSES = 1000
KNOWN_IMAGES = {"train": 1_281_167, "val": 50_000}
KNOWN_PER_VAL_CLASS = 50
# Below this share of the known counts a source is a subset, not a damaged full set.
FULL_SET_SHARE = 0.9
EXAMPLES_PER_KIND = 3
MD5_BY_ARCHIVE = {
    TRAIN_TAR: "1d675b47d978889d74fa0da5fadfb00e",
    VAL_TAR: "29b22e2961454d5413ddabcf34fc5622",
    f"{DEVKIT_NAME}.tar.gz": "fa75699e90414af021442c21a62c3abf",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitReport:
    """The usable images of one split."""

    split: str
    images: int
    total_bytes: int
    classes: int
    """Classes with at least one image."""
    min_per_class: int
    """Of all classes, so 0 where one is empty."""
    max_per_class: int
    verdict: str
    """``matches ILSVRC2012``, how it differs, or ``a subset``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScanReport:
    """What ``imgprep scan`` shows."""

    source: str
    layout: str
    evidence: tuple[str, ...]
    classes: int
    order_sha256: str
    splits: tuple[SplitReport, ...]
    problem_counts: dict[str, int]
    problems: tuple[Problem, ...]
    oddities: dict[str, int]

    @classmethod
    def from_scan(cls, scan: SourceScan) -> ScanReport:
        """Summarise a scan."""
        return cls(
            source=scan.root,
            layout=scan.layout,
            evidence=scan.evidence,
            classes=len(scan.labels),
            order_sha256=scan.labels.order_sha256,
            splits=tuple(
                _split_report(manifest, len(scan.labels)) for manifest in scan.splits.values()
            ),
            problem_counts=scan.problem_counts,
            problems=scan.problems,
            oddities=scan.oddities,
        )

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values; undecodable file names keep their surrogate escapes."""
        return asdict(self)

    def render(self) -> str:
        """The report as plain text, without a newline at the end."""
        lines = [
            f"source    {printable(self.source)}",
            f"layout    {self.layout}: {printable('; '.join(self.evidence))}",
            f"classes   {self.classes:,} (order sha256 {self.order_sha256[:12]})",
            "",
        ]
        lines += _table(
            [("split", "images", "size", "classes", "per class", "")]
            + [
                (
                    split.split,
                    f"{split.images:,}",
                    readable_bytes(split.total_bytes),
                    f"{split.classes:,}",
                    _span(split.min_per_class, split.max_per_class),
                    split.verdict,
                )
                for split in self.splits
            ]
        )
        total = sum(self.problem_counts.values())
        lines += ["", f"problems  {total:,}" if total else "problems  none"]
        for kind, count in self.problem_counts.items():
            lines.append(f"  {kind}: {count:,}")
            of_kind = [problem for problem in self.problems if problem.kind == kind]
            shown = of_kind[:EXAMPLES_PER_KIND]
            lines += [f"    {printable(one.where)}: {one.cause}" for one in shown]
            if count > len(shown):
                lines.append(f"    and {count - len(shown):,} more")
        if self.oddities:
            lines += ["", "noticed"]
            lines += [f"  {printable(what)}: {n:,}" for what, n in self.oddities.items()]
        return "\n".join(lines)


def _split_report(manifest: SplitManifest, classes: int) -> SplitReport:
    per_class = np.bincount(manifest.rows["label"], minlength=classes)
    smallest = int(per_class.min()) if len(per_class) else 0
    largest = int(per_class.max()) if len(per_class) else 0
    filled = int(np.count_nonzero(per_class))
    return SplitReport(
        split=manifest.split,
        images=len(manifest),
        total_bytes=manifest.total_bytes,
        classes=filled,
        min_per_class=smallest,
        max_per_class=largest,
        verdict=judge(manifest.split, len(manifest), filled, (smallest, largest)),
    )


def judge(split: str, images: int, classes: int, per_class: tuple[int, int]) -> str:
    """Compare counts with ILSVRC2012; ``per_class`` is the least and the most in one class."""
    known = KNOWN_IMAGES[split]
    if classes < FULL_SET_SHARE * KNOWN_CLASSES or images < FULL_SET_SHARE * known:
        return "a subset of ILSVRC2012, or another set"
    faults = [
        f"{abs(found - expected):,} {what} {'fewer' if found < expected else 'more'}"
        for what, found, expected in (
            ("images", images, known),
            ("classes", classes, KNOWN_CLASSES),
        )
        if found != expected
    ]
    if split == "val" and per_class != (KNOWN_PER_VAL_CLASS, KNOWN_PER_VAL_CLASS):
        faults.append(f"{_span(*per_class)} images a class, not {KNOWN_PER_VAL_CLASS}")
    return f"differs from ILSVRC2012: {', '.join(faults)}" if faults else "matches ILSVRC2012"


def _span(least: int, most: int) -> str:
    return f"{least:,}" if least == most else f"{least:,}-{most:,}"


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Columns aligned: the first and last to the left, numbers to the right."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = []
    for first, *middle, last in rows:
        cells = [first.ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(middle, widths[1:-1], strict=True)]
        lines.append("  ".join([*cells, last]).rstrip())
    return lines


@dataclass(frozen=True, slots=True)
class ChecksumResult:
    """The MD5 of one official archive."""

    name: str
    md5: str
    expected: str

    @property
    def ok(self) -> bool:
        """Whether the archive is the published one."""
        return self.md5 == self.expected


def checksum_archives(
    location: str | Path, progress: Callable[[int, int], None] | None = None
) -> list[ChecksumResult]:
    """Hash the official archives of a source, side by side; none there, none returned.

    Args:
        location: the folder of the archives, a path or a URL.
        progress: called with (bytes done, bytes in total), from one thread at a time.

    Raises:
        SourceError: an archive cannot be read.
    """
    tree = open_tree(location)
    names = [name for name in MD5_BY_ARCHIVE if tree.is_file(name)]
    if not names:
        return []
    total_bytes = sum(tree.size_bytes(name) for name in names)
    lock = threading.Lock()
    done_bytes = 0

    def advance(read_bytes: int) -> None:
        nonlocal done_bytes
        with lock:
            done_bytes += read_bytes
            if progress:
                progress(done_bytes, total_bytes)

    with ThreadPoolExecutor(len(names), "imgprep-md5") as pool:
        try:
            digests = list(pool.map(lambda name: _md5(tree, name, advance), names))
        except BaseException:
            tree.stop()
            raise
    return [
        ChecksumResult(name, digest, MD5_BY_ARCHIVE[name])
        for name, digest in zip(names, digests, strict=True)
    ]


def _md5(tree: Tree, name: str, advance: Callable[[int], None]) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    try:
        for chunk in tree.chunks(name):
            digest.update(chunk)
            advance(len(chunk))
    except OSError as exc:
        raise SourceError(f"{tree.where(name)} cannot be read: {exc.strerror or exc}") from exc
    return digest.hexdigest()
