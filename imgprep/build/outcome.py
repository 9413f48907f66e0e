"""The outcome of a build, for people and for scripts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from imgprep.build.report import BuildReport
from imgprep.dataset.format import REPORT, brace_pattern
from imgprep.dataset.index import DatasetIndex
from imgprep.wording import counted, readable_bytes


@dataclass(frozen=True, slots=True)
class BuildOutcome:
    """A finished build."""

    index: DatasetIndex
    report: BuildReport
    read_images: int
    """Images that this run read; 0 if all shards were done before."""
    built_records: int
    """Records that this run made of them."""
    restored: tuple[str, ...] = ()
    """Lost files beside the shards that this run wrote again."""

    def to_json(self) -> dict[str, Any]:
        """For scripts: what was built, how fast, what was left out."""
        return {
            "fingerprint": self.index.fingerprint,
            "read_images": self.read_images,
            "built_records": self.built_records,
            "restored": list(self.restored),
            "splits": {
                name: {
                    "records": split.records,
                    "shards": len(split.shards),
                    "pattern": brace_pattern(name, len(split.shards)),
                }
                for name, split in self.index.splits.items()
            },
            "skipped_images": self.report.skipped_images,
            "scan_problems": self.report.scan_problems,
            "timings": self.report.timings,
            "exit_code": self.report.exit_code,
        }

    def render(self) -> str:
        """For people: where the shards are, what was left out, what to do next."""
        lines, store = [], self.index.store
        for name, split in self.index.splits.items():
            pattern = brace_pattern(name, len(split.shards))
            size = readable_bytes(sum(shard.bytes for shard in split.shards))
            lines.append(
                f"{name:5} {counted(split.records, 'record')}, {size}: {store.where(pattern)}"
            )
        if self.read_images:
            rate = self.report.timings["images_per_second"]
            read = counted(self.read_images, "image")
            lines.append(
                f"built {counted(self.built_records, 'record')} from {read} at {rate:,.0f} img/s"
            )
        else:
            lines.append("nothing to build: all shards were done")
        if self.restored:
            lines.append(f"restored {', '.join(self.restored)}")
        if left_out := self._left_out():
            lines.append(f"left out {left_out}: see {store.where(REPORT)}")
        stats = f"; imgprep stats {store}" if "train" in self.index.splits else ""
        lines.append(f"next: imgprep verify {store} --decode{stats}")
        return "\n".join(lines)

    def _left_out(self) -> str:
        images, problems = self.report.skipped_images, self.report.scan_problems
        parts = [f"{counted(images, 'bad image')}"] if images else []
        if problems:
            parts.append(f"{counted(problems, 'entry', 'entries')} that the scan rejected")
        return " and ".join(parts)
