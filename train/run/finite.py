"""Checks that a network is finite, before it is saved and after it is loaded."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from train.feed.loader import Batch
from train.join import any_process
from train.run.components import RunComponents
from train.world import World

PROBE_ROWS = 16
"""Images of the last batch that the network must still turn into finite logits."""


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether no tensor holds an infinity or a NaN; reads each once, and allocates nothing."""
    return all(
        bool(torch.stack(torch.aminmax(tensor)).isfinite().all())  # a NaN is both extremes
        for tensor in tensors
        if tensor.numel()
    )


@torch.no_grad()
def network_is_finite(components: RunComponents, batch: Batch | None, world: World) -> bool:
    """Whether weights, velocities and the logits of ``batch`` are finite in all of ``world``.

    All its processes must call it. The logits matter because a too large update leaves weights that
    are finite and a network that is not.
    """
    net, velocities = components.net, components.sgd.negative_velocities()
    finite = all_finite([*net.parameters(), *velocities.values()])
    if finite and batch is not None and len(batch.labels_n):
        finite = all_finite([net(batch.images[:PROBE_ROWS].float(), None)])
    return not any_process(world, not finite)
