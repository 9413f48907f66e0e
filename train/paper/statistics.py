"""Whether two groups of runs differ by more than their seeds do (scipy).

Welch's t test, two-sided: the groups may differ in their spread. The runs of a group differ only in
their seed, so a small p says that the change, and not the seed, made the difference.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np
from scipy import stats

from train.paper.item import Decision

LEVEL = 0.05
"""A difference counts if it would arise by chance in fewer than one of 20 repetitions."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """Mean and spread of one group."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Arithmetic mean."""
        return float(np.mean(self.values))

    @property
    def sd(self) -> float | None:
        """Standard deviation of the population that the seeds sample; None for one seed."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Two groups, and the difference of their means."""

    changed: Summary
    baseline: Summary
    p: float | None
    """Two-sided, by Welch's t test; None with fewer than two values in a group, or no spread."""
    low: float | None
    high: float | None
    """95 % interval of the difference."""

    @property
    def difference(self) -> float:
        """Mean of the changed runs less that of the baseline."""
        return self.changed.mean - self.baseline.mean

    def decision(self, expected: int) -> Decision:
        """Compare with the paper, where the difference has the sign ``expected``."""
        if self.p is None or self.p >= LEVEL:
            return "not decidable at this scale"
        return "reproduced" if self.difference * expected > 0 else "not reproduced"


def compare_pairs(changed: Sequence[float], baseline: Sequence[float]) -> Comparison:
    """Compare two measurements of the same networks, by a paired t test."""
    first, second = Summary(values=tuple(changed)), Summary(values=tuple(baseline))
    p = low = high = None
    if len(changed) > 1 and len(set(np.subtract(changed, baseline).tolist())) > 1:
        found = stats.ttest_rel(changed, baseline)
        interval = found.confidence_interval(0.95)
        p, low, high = float(found.pvalue), float(interval.low), float(interval.high)
    return Comparison(changed=first, baseline=second, p=p, low=low, high=high)


def compare(changed: Sequence[float], baseline: Sequence[float]) -> Comparison:
    """Compare two groups of at least one value each."""
    first, second = Summary(values=tuple(changed)), Summary(values=tuple(baseline))
    p = low = high = None
    if min(len(changed), len(baseline)) > 1 and (first.sd or second.sd):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a group whose values are all equal
            found = stats.ttest_ind(changed, baseline, equal_var=False)
            interval = found.confidence_interval(0.95)
        if isfinite(found.pvalue):
            p, low, high = float(found.pvalue), float(interval.low), float(interval.high)
    return Comparison(changed=first, baseline=second, p=p, low=low, high=high)
