"""The warning that a network has not learned anything yet."""

from __future__ import annotations

import math

CHANCE_MARGIN = 0.02
"""A loss within this fraction of ln(classes) counts as chance."""


def chance_warning(loss: float, classes: int, steps: int) -> str | None:
    """What to try if the loss (nats) after ``steps`` updates is still that of guessing."""
    chance = math.log(classes)
    if abs(loss - chance) > CHANCE_MARGIN * chance:
        return None
    return (
        f"after {steps:,} steps the loss is {loss:.3f}, still at chance (ln {classes} = "
        f"{chance:.3f}). Try --preset source-2012 (weights of 0.03 in conv3-5) with "
        "net.dropout=vanilla, another --seed, or wait longer"
    )
