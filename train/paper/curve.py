"""How soon a training curve comes down to a level."""

from __future__ import annotations

from collections.abc import Sequence


def span_means(rows: Sequence[tuple[int, float]], updates: int) -> tuple[float, ...]:
    """Return the mean of each span of ``updates``, such as an epoch.

    ``rows`` are those of the log: the number of updates so far, and the mean over those since the
    row before, which counts for each of them, also where a span ends between them. Updates after
    the last row are left out.
    """
    values: list[float] = []
    for done, mean in rows:
        values += [mean] * (done - len(values))
    spans = (values[first : first + updates] for first in range(0, len(values), updates))
    return tuple(sum(each) / len(each) for each in spans)


def spans_to(means: Sequence[float], level: float) -> float | None:
    """Return the number of spans until their mean is at most ``level``, by linear interpolation
    between two spans; None if it never is."""
    before = None
    for span, mean in enumerate(means, 1):
        if mean <= level:
            if before is None or before == mean:
                return float(span)
            return span - 1 + (before - level) / (before - mean)
        before = mean
    return None
