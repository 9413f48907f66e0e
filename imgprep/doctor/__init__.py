"""``imgprep doctor``: checks this machine for builds and training, and prints one screen.

``examine`` takes the destination folder and returns a ``Report`` of findings; it fixes nothing and
leaves no files. Each of ``software``, ``training``, ``machine``, ``speed`` and ``disk`` makes the
findings of one subject, and ``render`` prints them. Start with ``examine``, then ``finding``.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from imgprep.doctor.finding import Finding, Report

__all__ = ["Finding", "Report", "ask_inside", "examine"]

ANSWER_SECONDS = 30.0
TORCH_SECONDS = 120.0
"""Importing torch with CUDA takes tens of seconds from a cold disk."""


def examine(dest: str | None = None, *, quick: bool = False) -> Report:
    """Check everything; takes about 4 seconds, or 2 with ``quick``, which measures no speed.

    ``dest`` is the destination folder of a build. None is the current folder, and then a folder
    that cannot be written is not reported as an error.
    """
    from imgprep.doctor import disk, machine, software, speed, training
    from imgprep.processors import processors

    with ThreadPoolExecutor(max_workers=len(_questions()) + 1) as pool:
        asked: dict[str, Future[dict[str, Any]]] = {
            name: pool.submit(ask_inside, name) for name in _questions()
        }
        torch = pool.submit(_ask_torch) if software.version_of("torch") else None

        def answer(question: str) -> dict[str, Any]:
            return asked[question].result()

        findings = software.examine(answer)
        findings += training.examine(answer, lambda: torch.result() if torch else {})
    # Time can be measured only after all children have ended.
    findings += machine.examine()
    rate = None
    if not quick:
        finding, rate = speed.examine(processors())
        findings.append(finding)
    findings += disk.examine(dest, quick=quick, images_per_s=rate)
    return Report(tuple(findings))


def _questions() -> list[str]:
    from imgprep.doctor.inside import QUESTIONS

    return list(QUESTIONS)


def ask_inside(question: str) -> dict[str, Any]:
    """Ask ``imgprep.doctor.inside`` in a child process.

    Raises:
        NoAnswerError: there was no answer.
    """
    from imgprep.doctor.child import ask

    code = f"from imgprep.doctor.inside import main\nmain({question!r})\n"
    return ask(code, seconds=ANSWER_SECONDS)


def _ask_torch() -> dict[str, Any]:
    from imgprep.doctor.child import ask
    from imgprep.doctor.training import TORCH_QUESTION

    return ask(TORCH_QUESTION, seconds=TORCH_SECONDS)
