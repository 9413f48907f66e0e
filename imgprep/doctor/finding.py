"""What the doctor finds: one value for each thing that was looked at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from imgprep.errors import EXIT_DONE, EXIT_FAILED

Level = Literal["ok", "note", "fix"]
Group = Literal["software", "training", "machine", "build"]
SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that was looked at.

    ``ok``: as it should be, or a plain fact. ``note``: something is slower or missing, and nothing
    fails. ``fix``: a job would fail, or run several times slower than this machine can.
    """

    group: Group
    level: Level
    what: str
    """Stable name of what was looked at, for scripts: ``Pillow``."""
    value: str
    """What was found, for people."""
    why: str = ""
    """What it costs."""
    fix: str = ""
    """What to do: a command where there is one."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """The same as plain JSON values, for scripts."""


@dataclass(frozen=True, slots=True)
class Report:
    """All findings of one examination."""

    findings: tuple[Finding, ...]

    @property
    def exit_code(self) -> int:
        """0, or 1 if something must be fixed."""
        return EXIT_FAILED if any(each.level == "fix" for each in self.findings) else EXIT_DONE

    def to_json(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "schema_version": SCHEMA_VERSION,
            "exit_code": self.exit_code,
            "findings": [asdict(each) for each in self.findings],
        }
