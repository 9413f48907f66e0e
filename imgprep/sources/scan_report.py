"""Report on a scan: layout, usable images, problems, and a comparison with ILSVRC2012."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from imgprep.errors import EXIT_DONE, EXIT_SKIPPED, UsageError
from imgprep.sources.challenges import CHALLENGES, ILSVRC2012, Challenge
from imgprep.sources.manifest import Problem, SourceScan, SplitManifest
from imgprep.spec import SplitChoice
from imgprep.wording import counted, printable, readable_bytes

FULL_SET_SHARE = 0.9
"""Below this share of the published counts a source is a subset, not a damaged full set."""
EXAMPLES_PER_KIND = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitReport:
    """The usable images of one split."""

    split: str
    images: int
    total_bytes: int
    classes: int
    """Classes with at least one image."""
    min_per_class: int
    """Over all classes, so 0 where one is empty."""
    max_per_class: int
    verdict: str
    """``matches ILSVRC2012``, ``differs`` with the differences, or ``a subset``; may be empty."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScanReport:
    """What ``imgprep scan`` prints."""

    source: str
    layout: str
    evidence: tuple[str, ...]
    classes: int
    source_classes: int
    """Classes that the source has, also those that are not used."""
    selection: str
    """Which classes are used; empty for all."""
    order_sha256: str
    splits: tuple[SplitReport, ...]
    problem_counts: dict[str, int]
    problems: tuple[Problem, ...]
    class_doubts: tuple[Problem, ...]
    notes: tuple[str, ...]
    oddities: dict[str, int]

    @classmethod
    def from_scan(cls, scan: SourceScan, split: SplitChoice = "all") -> ScanReport:
        """Summarise a scan, or one split of it.

        Raises:
            UsageError: the source lacks the split.
        """
        if split != "all" and split not in scan.splits:
            has = ", ".join(scan.splits) or "none"
            raise UsageError(f"{scan.root} has no usable split {split!r}; it has {has}")
        shown = [one for name, one in scan.splits.items() if split in ("all", name)]
        return cls(
            source=scan.root,
            layout=scan.layout,
            evidence=scan.evidence,
            classes=len(scan.labels),
            source_classes=scan.source_classes,
            selection=str(scan.selection) if scan.selection else "",
            order_sha256=scan.labels.order_sha256,
            splits=tuple(_split_report(manifest, scan) for manifest in shown),
            problem_counts=scan.problem_counts,
            problems=scan.problems,
            class_doubts=scan.class_doubts,
            notes=scan.notes,
            oddities=scan.oddities,
        )

    @property
    def exit_code(self) -> int:
        """3 if a build under ``--on-error fail`` would stop at what the scan found, else 0."""
        images = sum(split.images for split in self.splits)
        stops = not images or self.problem_counts or self.class_doubts
        return EXIT_SKIPPED if stops else EXIT_DONE

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values; undecodable file names contain surrogate escapes."""
        return asdict(self)

    def render(self) -> str:
        """The report as plain text, without a final newline."""
        lines = [
            f"source    {printable(self.source)}",
            f"layout    {self.layout}: {printable('; '.join(self.evidence))}",
            f"classes   {self.classes:,} (order sha256 {self.order_sha256[:12]})",
        ]
        if self.selection:
            lines.append(f"selection {self.selection}, of {self.source_classes:,} in the source")
        lines.append("")
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
        if self.class_doubts:
            lines += ["", f"classes   not certain, for {counted(len(self.class_doubts), 'reason')}"]
            shown_doubts = self.class_doubts[:EXAMPLES_PER_KIND]
            lines += [f"  {printable(one.where)}: {one.cause}" for one in shown_doubts]
            if len(self.class_doubts) > len(shown_doubts):
                lines.append(f"  and {len(self.class_doubts) - len(shown_doubts):,} more")
        if self.notes:
            lines += ["", "notes", *(f"  {printable(note)}" for note in self.notes)]
        if self.oddities:
            lines += ["", "noticed"]
            lines += [f"  {printable(what)}: {n:,}" for what, n in self.oddities.items()]
        return "\n".join(lines)


def _split_report(manifest: SplitManifest, scan: SourceScan) -> SplitReport:
    classes = len(scan.labels)
    challenge = next((one for one in CHALLENGES if one.name == scan.challenge), None)
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
        verdict=""
        if challenge is None
        else judge(
            manifest.split,
            len(manifest),
            filled,
            (smallest, largest),
            scan.labels.order_sha256,
            challenge,
        ),
    )


def judge(
    split: str,
    images: int,
    classes: int,
    per_class: tuple[int, int],
    order_sha256: str,
    challenge: Challenge = ILSVRC2012,
) -> str:
    """Compare a split with that of a challenge: counts, and the hash of the class names in order.

    ``per_class`` holds the number of images of the smallest and the largest class.
    """
    known = challenge.images_by_split.get(split)
    if known is None:
        return ""
    if classes < FULL_SET_SHARE * challenge.classes or images < FULL_SET_SHARE * known:
        return f"a subset of {challenge.name}, or another set"
    differences = [
        f"{counted(abs(found - expected), *nouns)} {'fewer' if found < expected else 'more'}"
        for nouns, found, expected in (
            (("image", "images"), images, known),
            (("class", "classes"), classes, challenge.classes),
        )
        if found != expected
    ]
    expected = challenge.val_images_per_class
    if split == "val" and per_class != (expected, expected):
        differences.append(f"{_span(*per_class)} images per class, not {expected}")
    order = challenge.class_order_sha256
    if classes == challenge.classes and order and order_sha256 != order:
        differences.append("other class names")
    if differences:
        return f"differs from {challenge.name}: {', '.join(differences)}"
    return f"matches {challenge.name}"


def _span(least: int, most: int) -> str:
    return f"{least:,}" if least == most else f"{least:,}-{most:,}"


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Align columns: the first and last to the left, numbers to the right."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = []
    for first, *middle, last in rows:
        cells = [first.ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(middle, widths[1:-1], strict=True)]
        lines.append("  ".join([*cells, last]).rstrip())
    return lines
