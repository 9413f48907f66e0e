"""What a response norm computes, as values that the kernels take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NormConstants:
    """Constants of ``s = k + alpha * sum`` and of ``x / s**beta``."""

    k: float
    alpha: float
    beta: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ChannelWindow:
    """The window of an LRN, and whether it first replaces x by ``max(x, 0)``."""

    size: int
    """Channels of the window, odd."""
    groups: int
    """Groups of neighbouring channels that the window does not cross."""
    rectify: bool
