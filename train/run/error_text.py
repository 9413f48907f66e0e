"""Classification errors as text: per cent, and top-5 only where there are more than five classes.

Imports nothing heavy, because readers of logs use it too.
"""

from __future__ import annotations


def has_top5(classes: int | None) -> bool:
    """Whether a top-5 error says anything: with five classes or fewer it is 0. None: unknown."""
    return classes is None or classes > 5


def per_cent(fraction: float, digits: int = 2) -> str:
    """``40.66 %`` of 0.4066."""
    return f"{100 * fraction:.{digits}f} %"


def error_text(top1: float, top5: float, classes: int | None, *, digits: int = 2) -> str:
    """``top-1 error 40.66 %, top-5 error 18.21 %`` of two fractions."""
    text = f"top-1 error {per_cent(top1, digits)}"
    return f"{text}, top-5 error {per_cent(top5, digits)}" if has_top5(classes) else text
