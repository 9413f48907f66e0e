"""``imgprep doctor``: what this machine will do, on one screen. It mends and leaves nothing."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from imgprep.doctor.finding import Finding, Report

__all__ = ["Finding", "Report", "ask_inside", "examine"]

ANSWER_SECONDS = 30.0
TORCH_SECONDS = 120.0
"""torch with CUDA takes tens of seconds from a cold disk."""


def examine(dest: str | None = None, *, quick: bool = False) -> Report:
    """Look at everything; some 8 seconds, or 3 with ``quick``, which measures no speed.

    ``dest`` is the folder to be built into; None is the current one, of which nothing is demanded.
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
    # Only now that all children have ended may time be measured.
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
    """The answer of ``imgprep.doctor.inside``, in a process of its own; or ``NoAnswerError``."""
    from imgprep.doctor.child import ask

    code = f"from imgprep.doctor.inside import main\nmain({question!r})\n"
    return ask(code, seconds=ANSWER_SECONDS)


def _ask_torch() -> dict[str, Any]:
    from imgprep.doctor.child import ask
    from imgprep.doctor.training import TORCH_QUESTION

    return ask(TORCH_QUESTION, seconds=TORCH_SECONDS)
