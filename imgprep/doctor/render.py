"""Prints a report on one screen."""

from __future__ import annotations

import textwrap

from imgprep.doctor.finding import Finding, Report
from imgprep.wording import counted

COLUMNS = 100
_LEVEL, _WHAT = 5, 13
_INDENT = " " * (_LEVEL + _WHAT)
_COMMAND = " -m pip "


def render(report: Report) -> str:
    """Return the report as text of at most 100 columns and about 40 lines."""
    lines: list[str] = []
    group = ""
    for finding in report.findings:
        if finding.group != group:
            group = finding.group
            lines.append(group)
        lines += _lines(finding)
    return "\n".join([*lines, _verdict(report)])


def _lines(finding: Finding) -> list[str]:
    head = f"{finding.level:<{_LEVEL}}{finding.what:<{_WHAT}}"
    value, why, fix = map(_printable, (finding.value, finding.why, finding.fix))
    short = "; ".join(part for part in (f"{head}{value}", why, fix) if part)
    if finding.level == "note" and len(short) <= COLUMNS:
        return [short]
    lines = _wrapped(value, head)
    if why:
        lines += _wrapped(why, _INDENT)
    return lines + _fix(fix) if fix else lines


def _fix(fix: str) -> list[str]:
    """Wrap prose; break a command with backslashes, so that it can be pasted into a shell."""
    head = f"{_INDENT}fix: "
    if _COMMAND not in fix:
        return _wrapped(fix, head)
    lines: list[str] = []
    for command in fix.split("; "):
        parts = textwrap.wrap(
            command,
            COLUMNS - 2,
            initial_indent=head,
            subsequent_indent=" " * (len(head) + 2),
            break_long_words=False,
            break_on_hyphens=False,
        )
        lines += [f"{part} \\" for part in parts[:-1]] + parts[-1:]
        head = " " * len(head)
    return lines


def _wrapped(text: str, head: str) -> list[str]:
    return textwrap.wrap(
        text,
        COLUMNS,
        initial_indent=head,
        subsequent_indent=_INDENT,
        break_long_words=False,
        break_on_hyphens=False,
    ) or [head.rstrip()]


def _verdict(report: Report) -> str:
    fixes = sum(finding.level == "fix" for finding in report.findings)
    notes = sum(finding.level == "note" for finding in report.findings)
    what = counted(fixes, "thing") if fixes else "nothing"
    return f"{what} must be fixed; {counted(notes, 'note')}"


def _printable(text: str) -> str:
    """Replace control characters, which names of folders may contain."""
    return "".join(each if each.isprintable() else "?" for each in text)
