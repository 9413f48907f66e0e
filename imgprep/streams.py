"""Standard streams that are closed, or on a full disk. Both command lines follow one rule.

* stderr is for people. What cannot be written there is lost, and the command continues.
* stdout carries the result. If it cannot be written, the command says so on stderr and exits with
  1. But if the result is also on disk, or is the exit code, stdout is only a ``summary``: the
  command says that the summary is lost, and keeps its exit code.
* A pipe whose reader has ended (``| head``) is not reported.
* A stream that was closed (``2>&-``) becomes /dev/null. Otherwise the next file that we open gets
  its number, and what a library prints to stderr is written into a shard.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


class _Stream(io.FileIO):
    """File descriptor 1 or 2, with failed writes noted or ignored."""

    failure: OSError | None = None
    ignores_failures = False

    def write(self, data: bytes) -> int:  # type: ignore[override]
        """Write; raises ``OSError`` unless failures are ignored."""
        try:
            written: int | None = super().write(data)
        except OSError as exc:
            self.failure = exc
            if not self.ignores_failures:
                raise
            return len(data)
        if written is None and self.ignores_failures:  # a non-blocking pipe that is full
            return len(data)
        return written  # type: ignore[return-value]


class Streams:
    """stdout and stderr of this process, by the rule above."""

    def __init__(self) -> None:
        for number in (0, 1, 2):
            _ensure_open(number)
        if sys.stdin is None:
            sys.stdin = open(0, closefd=False)  # noqa: SIM115
        self._stdout, sys.stdout = _replaced(1, sys.stdout)
        self._stderr, sys.stderr = _replaced(2, sys.stderr)
        self._stderr.ignores_failures = True

    def stdout_failure(self) -> str | None:
        """Why stdout could not be written; None if it could. Later output is discarded."""
        failure = self._stdout.failure
        if failure is None:
            return None
        self._stdout.ignores_failures = True
        return failure.strerror or str(failure)

    @contextmanager
    def summary(self, program: str) -> Iterator[None]:
        """Print on stdout within the block what is also on disk, or is the exit code."""
        try:
            yield
        except OSError as exc:
            why = self.stdout_failure()
            if why is None:
                raise
            if not isinstance(exc, BrokenPipeError):
                sys.stderr.write(f"{program}: cannot write the summary to stdout: {why}\n")


def _ensure_open(number: int) -> None:
    try:
        os.fstat(number)
    except OSError:
        null = os.open(os.devnull, os.O_RDWR)
        if null == number:
            os.set_inheritable(number, True)
        else:
            os.dup2(null, number)
            os.close(null)


def _replaced(number: int, old: TextIO | None) -> tuple[_Stream, TextIO]:
    raw = _Stream(number, "wb", closefd=False)
    text = io.TextIOWrapper(
        io.BufferedWriter(raw),  # type: ignore[type-var]
        encoding=old.encoding if old else "utf-8",
        errors=old.errors if old else "backslashreplace",
        line_buffering=number == 2 or raw.isatty(),
    )
    return raw, text
