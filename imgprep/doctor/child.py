"""Ask a question in a process of its own: a package that is broken, hangs or crashes costs an
answer, not the examination, and nothing heavy is imported into this process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any

# The child has the search path of its parent, so that both would import the same files.
_PREAMBLE = "import json, sys\nsys.path[:] = json.loads(sys.argv[1])\n"


class NoAnswerError(Exception):
    """The child gave no answer; the message says why, in a few words."""


def command(code: str, *arguments: str) -> list[str]:
    """The command line that runs ``code`` in another Python; ``sys.argv[2:]`` are arguments."""
    return [sys.executable, "-c", _PREAMBLE + code, json.dumps(sys.path), *arguments]


def environment() -> dict[str, str]:
    """That of this process, with one thread a library and no warnings in the answer."""
    return {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


def ask(code: str, *, seconds: float) -> dict[str, Any]:
    """Run ``code``, whose last line of output is a JSON object, and give that object back.

    Raises:
        NoAnswerError: it failed, crashed, said something else, or took more than ``seconds``.
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
        raise NoAnswerError("an answer that cannot be understood") from exc
    if not isinstance(answer, dict):
        raise NoAnswerError("an answer that cannot be understood")
    return answer


def _reason(code: int, complaint: str) -> str:
    if code < 0:
        return f"Python was killed by {signal.Signals(-code).name}"
    lines = complaint.strip().splitlines()
    return lines[-1] if lines else f"Python ended with exit code {code}"
