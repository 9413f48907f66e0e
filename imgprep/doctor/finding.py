"""The findings of the doctor, and the report that they make up."""

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
    """The result of one check.

    Level ``ok``: as it should be, or plain information. ``note``: something is slower or missing,
    but nothing fails. ``fix``: a job would fail, or run several times slower than it could.
    """

    group: Group
    level: Level
    what: str
    """Stable name of the check for scripts, such as ``Pillow``."""
    value: str
    """The result, for people."""
    why: str = ""
    """The consequence; empty if there is none."""
    fix: str = ""
    """What to do, as a command if possible; empty if nothing is needed."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """The result as plain JSON values, for scripts."""


@dataclass(frozen=True, slots=True)
class Report:
    """All findings of one examination."""

    findings: tuple[Finding, ...]

    @property
    def exit_code(self) -> int:
        """1 if something must be fixed, else 0."""
        return EXIT_FAILED if any(each.level == "fix" for each in self.findings) else EXIT_DONE

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        return {
            "schema_version": SCHEMA_VERSION,
            "exit_code": self.exit_code,
            "findings": [asdict(each) for each in self.findings],
        }
