"""Asks questions in child processes, which import the packages that they ask about.

A package that is broken, hangs or crashes then costs only one answer, and nothing heavy is imported
into this process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any

# The child gets the search path of its parent, so that both import the same files.
_PREAMBLE = "import json, sys\nsys.path[:] = json.loads(sys.argv[1])\n"


class NoAnswerError(Exception):
    """The child gave no answer; the message is the reason in a few words."""


def command(code: str, *arguments: str) -> list[str]:
    """Return a command that runs ``code`` in another Python; ``sys.argv[2:]`` are arguments."""
    return [sys.executable, "-c", _PREAMBLE + code, json.dumps(sys.path), *arguments]


def environment() -> dict[str, str]:
    """Return this environment, with one thread per library and no Python warnings."""
    return {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


def ask(code: str, *, seconds: float) -> dict[str, Any]:
    """Run ``code``, whose last line of output is a JSON object, and return that object.

    Raises:
        NoAnswerError: it failed, crashed, printed something else, or took over ``seconds``.
    """
    try:
        ran = subprocess.run(
            command(code),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            stdin=subprocess.DEVNULL,
            env=environment(),
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise NoAnswerError(f"no answer within {seconds:g} s") from exc
    except OSError as exc:
        raise NoAnswerError(str(exc)) from exc
    if ran.returncode:
        raise NoAnswerError(_reason(ran.returncode, ran.stderr))
    try:
        answer = json.loads(ran.stdout.splitlines()[-1])
    except (ValueError, IndexError) as exc:
        raise NoAnswerError("the answer is not JSON") from exc
    if not isinstance(answer, dict):
        raise NoAnswerError("the answer is not a JSON object")
    return answer


def _reason(code: int, complaint: str) -> str:
    if code < 0:
        return f"Python was killed by {signal.Signals(-code).name}"
    lines = complaint.strip().splitlines()
    return lines[-1] if lines else f"Python ended with exit code {code}"
