"""What a step on two GPUs should cost, worked out from steps measured on one.

``tools/bench_gpu.py`` prints it beside what it measures where there are two. Nothing here was
measured on two GPUs.
"""

from __future__ import annotations

from dataclasses import dataclass

COLUMN_BYTES_PER_IMAGE = 468_992
"""Activations and their gradients that the columns exchange, float32 (``NetLayout``)."""
GRADIENT_BYTES = 243_860_896
"""Gradients of 60,965,224 parameters, float32."""
JOINTS = 4
COPIES = 2 * (2 * (JOINTS - 1) + 1)
"""Copies of a step, forward and back: two at each joint, one at fc8. torch makes the streams of
both devices wait for each, so they follow one another."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OneGpu:
    """Steps measured on one GPU, and the link between two; times in milliseconds."""

    images: int
    """Images of a whole batch."""
    step_ms: float
    """Of a whole batch, replayed as a CUDA graph."""
    half_batch_ms: float
    """Of half the images, replayed."""
    both_columns_ms: float
    """Of a whole batch in two columns on this GPU."""
    queue_columns_ms: float
    """Python's time to queue such a step without a CUDA graph."""
    link_bytes_per_s: float
    """In one direction: 450e9 for NVLink 4, about 50e9 for PCIe 5."""
    copy_latency_ms: float = 0.02


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """A step on two GPUs: its parts in milliseconds, and what follows."""

    arithmetic_ms: float
    link_ms: float
    queue_ms: float
    """Python's time; the step takes at least as long."""
    step_ms: float
    images_per_s: float
    link_bytes: int


def predict_columns(one: OneGpu) -> Prediction:
    """Predict a step with a column on each of two GPUs, queued from Python.

    Each GPU does half the arithmetic; the copies follow one another and hide behind nothing.
    """
    sent = COLUMN_BYTES_PER_IMAGE * one.images
    link_ms = 1e3 * sent / one.link_bytes_per_s + COPIES * one.copy_latency_ms
    return _prediction(one, one.both_columns_ms / 2, link_ms, one.queue_columns_ms, sent)


def predict_data(one: OneGpu, *, queue_ms: float, hidden: float = 0.5) -> Prediction:
    """Predict a step of data parallelism: half the images on each of two GPUs.

    ``hidden`` is the share of the exchange that runs beside the backward pass. fc6 and fc7 hold
    89 % of the gradients, and their backward pass comes first, so a fast link can hide most of it.
    """
    link_ms = (1 - hidden) * 1e3 * GRADIENT_BYTES / one.link_bytes_per_s
    return _prediction(one, one.half_batch_ms, link_ms, queue_ms, GRADIENT_BYTES)


def _prediction(
    one: OneGpu, arithmetic_ms: float, link_ms: float, queue_ms: float, sent: int
) -> Prediction:
    step_ms = max(arithmetic_ms + link_ms, queue_ms)
    return Prediction(
        arithmetic_ms=arithmetic_ms,
        link_ms=link_ms,
        queue_ms=queue_ms,
        step_ms=step_ms,
        images_per_s=1e3 * one.images / step_ms,
        link_bytes=sent,
    )
