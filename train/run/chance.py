"""The warning that a network has not learned anything yet."""

from __future__ import annotations

import math

from train.run.metrics import TopK

CHANCE_MARGIN = 0.02
"""A loss within this fraction of ln(classes) counts as chance."""


def chance_warning(loss: float, classes: int, steps: int) -> str | None:
    """What to try if the loss (nats) after ``steps`` updates is still that of guessing."""
    chance = math.log(classes)
    if abs(loss - chance) > CHANCE_MARGIN * chance:
        return None
    return (
        f"after {steps:,} steps the loss is {loss:.3f}, still at chance (ln {classes} = "
        f"{chance:.3f}). Wait longer, or start a new run with another --out: with --preset "
        "source-2012, whose conv3-5 begin with larger weights (0.03), or with another --seed"
    )


def is_at_chance(counts: TopK, classes: int) -> bool:
    """Whether guessing would often (once in a hundred tries) do as well on these images."""
    from scipy.stats import binomtest

    right = counts.count - round(counts.top1_error * counts.count)
    guessed = binomtest(right, counts.count, 1 / classes, alternative="greater")
    return bool(guessed.pvalue > 0.01)
