"""Random numbers of the training step, which depend only on seed, step and stream name.

The number of processes and devices does not matter: masks are drawn for the *global* batch, and
each process keeps its rows, each column its units. Equal devices draw equal numbers (a CPU and a
GPU, or two models of GPU, draw different ones).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from imgprep.order import stream_key


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskKey:
    """Selects masks: update ``step`` (from 0) of ``seed``, and rows of its global batch."""

    seed: int
    step: int
    first_row: int
    rows: int
    global_rows: int

    def __post_init__(self) -> None:
        if not 0 <= self.first_row <= self.first_row + self.rows <= self.global_rows:
            raise ValueError(
                f"rows {self.first_row} to {self.first_row + self.rows} are not within a batch of "
                f"{self.global_rows}"
            )

    @classmethod
    def whole(cls, *, seed: int, step: int, rows: int) -> MaskKey:
        """Select all rows of a batch that one process computes."""
        return cls(seed=seed, step=step, first_row=0, rows=rows, global_rows=rows)


def torch_generator(seed: int, step: int, stream: str, device: torch.device) -> torch.Generator:
    """Make a generator on ``device`` for the named random stream of a step of ``seed``.

    On a CPU torch keeps 32 bits of the seed, so among very many streams some will coincide; for
    masks of different steps that does no harm.
    """
    return _seeded(torch.Generator(device=device), seed, step, stream)


def _seeded(generator: torch.Generator, seed: int, step: int, stream: str) -> torch.Generator:
    return generator.manual_seed(stream_key(seed, f"torch:{stream}:{step}") & (2**63 - 1))


@cache
def _mask_generator(device: torch.device) -> torch.Generator:
    """The generator that ``keep_mask`` seeds anew for each mask: making one takes longer."""
    return torch.Generator(device=device)


def keep_mask(
    key: MaskKey, stream: str, units: int, *, keep: float, device: torch.device
) -> Tensor:
    """Draw a dropout mask: bool (rows, units) on ``device``, True with probability ``keep``.

    The mask of the global batch is drawn and its rows are cut out, so the mask of a process does
    not depend on how the batch is divided. Only one thread at a time may draw masks.
    """
    generator = _seeded(_mask_generator(device), key.seed, key.step, stream)
    uniform = torch.rand(key.global_rows, units, generator=generator, device=device)
    return uniform[key.first_row : key.first_row + key.rows] < keep
