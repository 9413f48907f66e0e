"""Colour and orientation of the first-layer filters by column, as in the paper's figure 3.

The paper says (6.1) that the filters of one column mostly ignore colour, that those of the other
are mostly about colour, and that this happens in every run. Two measures of each filter:

``colour``
    Share of its energy (sum of squares) that is not the same in R, G and B: 0 for a grey filter, 1
    for one that ignores brightness, 2/3 on average for noise.
``orientation``
    Coherence of its structure tensor, summed over R, G and B (Di Zenzo 1986): 0 where no direction
    stands out, 1 for straight bars.

Suffixes: n filters, c channels, h rows, w columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from imgprep.wording import counted
from train.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from train.net.layout import NetLayout

LAYER = "conv1.weight"
NAMES = "ab"
"""Names of the columns, in order."""
SIGNIFICANT = 0.05
"""The columns differ if a difference this large is this rare among equal columns."""
LEARNED = 0.5
"""Below this median of ``learned`` the filters are still the noise that they began as."""

Array = NDArray[np.float64]


def colour_shares(filters_nchw: NDArray[np.float32]) -> Array:
    """Return the share of each filter's energy that R, G and B do not have in common (n,).

    A filter without energy has 0.
    """
    filters = filters_nchw.astype(np.float64)
    total = (filters**2).sum((1, 2, 3))
    common = 3 * (filters.mean(1) ** 2).sum((1, 2))
    return np.asarray(1 - _ratio(common, total, empty=1.0)).clip(0, 1)


def coherences(filters_nchw: NDArray[np.float32]) -> Array:
    """Return the coherence of each filter's structure tensor (n,); 0 for a filter without edges."""
    filters = filters_nchw.astype(np.float64)
    down, across = np.gradient(filters, axis=2), np.gradient(filters, axis=3)
    yy, xx, xy = (
        (a * b).sum((1, 2, 3)) for a, b in ((down, down), (across, across), (down, across))
    )
    return _ratio(np.hypot(xx - yy, 2 * xy), xx + yy, empty=0.0)


def learned_shares(filters_nchw: NDArray[np.float32], start_nchw: NDArray[np.float32]) -> Array:
    """Return the share of each filter's energy that a multiple of its start does not explain (n,).

    0 for a filter that only grew or shrank, 1 for one that has nothing of its start left.
    """
    now, start = (
        each.reshape(len(each), -1).astype(np.float64) for each in (filters_nchw, start_nchw)
    )
    explained = (now * start).sum(1) ** 2
    possible = (now**2).sum(1) * (start**2).sum(1)
    return np.asarray(1 - _ratio(explained, possible, empty=1.0)).clip(0, 1)


def _ratio(part: Array, whole: Array, *, empty: float) -> Array:
    return np.divide(part, whole, out=np.full_like(whole, empty), where=whole > 0)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ColumnFilters:
    """The filters of one column and their measures, each (n,)."""

    column: str
    """``a`` or ``b``."""
    filters_nchw: NDArray[np.float32]
    colour: Array
    orientation: Array
    learned: Array
    """Share of each filter that is not its initial noise, see ``learned_shares``."""

    def to_json(self) -> dict[str, Any]:
        """For scripts: the measures."""
        return {
            "column": self.column,
            "colour": self.colour.tolist(),
            "orientation": self.orientation.tolist(),
            "learned": self.learned.tolist(),
        }


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RunFilters:
    """The first layer of one run."""

    run: str
    columns: tuple[ColumnFilters, ...]
    """Two, or one for a net of one column."""
    colour_p: float | None
    """How often equal columns would differ as much in colour: p of the two-sided Mann-Whitney
    test; None for one column."""
    orientation_p: float | None

    @property
    def is_learned(self) -> bool:
        """Whether the filters are more than their initial noise."""
        values = np.concatenate([column.learned for column in self.columns])
        return bool(np.median(values) >= LEARNED)

    @property
    def colour_difference(self) -> float | None:
        """Difference of the columns' mean colour, without sign: chance decides which has more."""
        if len(self.columns) == 1:
            return None
        first, second = (float(column.colour.mean()) for column in self.columns)
        return abs(first - second)

    def to_json(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "run": self.run,
            "columns": [column.to_json() for column in self.columns],
            "colour_p": self.colour_p,
            "orientation_p": self.orientation_p,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Specialisation:
    """The first layers of all seeds, together."""

    runs: tuple[RunFilters, ...]
    colour_p: float | None
    """Fisher's combination of the runs' p; None if no run has two columns."""

    @property
    def is_learned(self) -> bool:
        """Whether the filters of all runs are more than their initial noise."""
        return all(run.is_learned for run in self.runs)

    @property
    def is_large_enough(self) -> bool:
        """Whether columns of this size, in so many runs, can differ significantly at all."""
        sizes = [len(run.columns[0].colour) for run in self.runs if len(run.columns) == 2]
        return bool(sizes) and _combined_p([2 / comb(2 * n, n) for n in sizes]) < SIGNIFICANT

    @property
    def appears(self) -> bool | None:
        """Whether the columns specialise; None if that cannot be decided."""
        if self.colour_p is None or not (self.is_learned and self.is_large_enough):
            return None
        return self.colour_p < SIGNIFICANT

    def verdict(self) -> str:
        """Say in a sentence or two whether the columns specialise, or why it is not decidable."""
        if self.colour_p is None:
            return "The net has one column, and this compares two."
        filters = counted(len(self.runs[0].columns[0].colour), "filter")
        if not self.is_large_enough:
            return (
                f"A column has {filters}, too few to compare with "
                f"{counted(len(self.runs), 'seed')}: use a wider net or more seeds."
            )
        if not self.is_learned:
            return (
                "The filters are still mostly the noise that they began as: the difference of the "
                "columns says nothing before they have learned more."
            )
        differences = [run.colour_difference or 0.0 for run in self.runs]
        span = " to ".join(
            dict.fromkeys(f"{each:.2f}" for each in (min(differences), max(differences)))
        )
        start = "The columns specialise" if self.appears else "No specialisation is visible"
        return f"{start}: their mean colour differs by {span} (p {self.colour_p:.2g})."

    def to_json(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "runs": [run.to_json() for run in self.runs],
            "colour_p": self.colour_p,
            "is_learned": self.is_learned,
            "is_large_enough": self.is_large_enough,
            "appears": self.appears,
        }


def run_filters(
    run: str, state: Mapping[str, Tensor], start: Mapping[str, Tensor], layout: NetLayout
) -> RunFilters:
    """Measure the first layer of a net with canonical weights ``state``.

    ``start`` holds its initial weights, as of ``train.net.init.initial_state``.

    Raises:
        CheckpointError: a state has no filters ``conv1.weight`` of three channels, or the two do
            not belong to the same net.
    """
    now, before = _filters(state), _filters(start)
    if now.shape != before.shape:
        raise CheckpointError(
            f"{run}: {LAYER} has shape {now.shape}, its initial weights have {before.shape}"
        )
    columns = tuple(
        ColumnFilters(
            column=NAMES[k],
            filters_nchw=part,
            colour=colour_shares(part),
            orientation=coherences(part),
            learned=learned_shares(part, first),
        )
        for k, (part, first) in enumerate(
            zip(np.split(now, layout.columns), np.split(before, layout.columns), strict=True)
        )
    )
    return RunFilters(
        run=run,
        columns=columns,
        colour_p=_difference_p([column.colour for column in columns]),
        orientation_p=_difference_p([column.orientation for column in columns]),
    )


def specialisation(runs: Sequence[RunFilters]) -> Specialisation:
    """Combine the runs of several seeds.

    Raises:
        ConfigError: there are no runs.
    """
    if not runs:
        raise ConfigError("figure 3 needs at least one finished run")
    known = [run.colour_p for run in runs if run.colour_p is not None]
    return Specialisation(runs=tuple(runs), colour_p=_combined_p(known) if known else None)


def _filters(state: Mapping[str, Tensor]) -> NDArray[np.float32]:
    weight = state.get(LAYER)
    if weight is None or weight.dim() != 4 or weight.shape[1] != 3 or min(weight.shape) < 2:
        raise CheckpointError(f"the checkpoint has no filters {LAYER} (n, 3, side, side)")
    values: NDArray[np.float32] = weight.detach().float().cpu().numpy()
    return np.nan_to_num(values)


def _difference_p(groups: Sequence[Array]) -> float | None:
    if len(groups) == 1:
        return None
    from scipy.stats import mannwhitneyu

    if np.ptp(np.concatenate(groups)) == 0:
        return 1.0
    return float(mannwhitneyu(*groups, alternative="two-sided").pvalue)


def _combined_p(values: Sequence[float]) -> float:
    from scipy.stats import combine_pvalues

    return float(combine_pvalues(values, method="fisher").pvalue)
