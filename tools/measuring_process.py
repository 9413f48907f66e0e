"""A process of a benchmark that waits until it is told to measure itself."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from typing import Any


class MeasuringProcess:
    """Runs a worker that prints a line when it is ready, and an answer in JSON for each line of
    seconds on its stdin."""

    def __init__(self, name: str, command: Sequence[object]) -> None:
        """Start it and wait until it is ready.

        Raises:
            RuntimeError: it ended instead.
        """
        self.name = name
        self._process = subprocess.Popen(
            list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._answer()

    def measure(self, seconds: float) -> dict[str, Any]:
        """Let it measure for so long; returns its answer. Raises as the constructor."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._answer())
        return answer

    def close(self) -> None:
        """Let it end, and wait for that."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} failed with code {self._process.wait()}")
        return line
