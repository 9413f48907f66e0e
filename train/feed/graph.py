"""A running DALI graph, the same for CPU and GPU: batches in, pixels out. Only this file imports
DALI.

The graph draws nothing at random and does not choose records: positions, mirrors and noise come in
as inputs, computed from the draws of the batch (``FeedBatch``). Its nodes are in ``nodes``.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np

from imgprep.dataset.encodings import encoding_of
from imgprep.spec import is_record_size
from train.feed.augment import EpochDraws, placed
from train.feed.damage import HeaderScreen
from train.feed.graph_spec import FeedBatch, GraphSpec
from train.feed.nodes import ROWS, SIZES, GraphDevice, InputArrays, Nodes
from train.feed.resize import PartResizer, resizes_in_c
from train.feed.spans import RecordBatch

QUEUED_RUNS = 2
"""Batches in DALI at once: while one is collected, the next is already being computed."""

# DALI returns large buffers to the system after each batch and faults them in again, page by page,
# unless its allocator pools them: 15 to 20 % of the throughput. It reads this when loaded.
os.environ.setdefault("DALI_MALLOC_POOL_THRESHOLD", "1")


class Graph:
    """A running graph: batches go in by ``submit`` and come out by ``collect``, in order."""

    def __init__(self, spec: GraphSpec, device: GraphDevice, device_id: int | None) -> None:
        self.spec = spec
        self._screen = HeaderScreen(spec)
        self._pinned = device == "gpu" and not spec.needs_decoder
        self._pipeline, self._inputs = build_pipeline(spec, device, device_id)
        self._pipeline.build()
        self._resizer = PartResizer(spec) if resizes_in_c(spec, device) else None
        self._pending: deque[tuple[dict[str, Any], EpochDraws]] = deque()

    @property
    def pending(self) -> int:
        """Batches submitted and not yet collected."""
        return len(self._pending)

    def submit(self, batch: FeedBatch) -> EpochDraws:
        """Start to compute a batch of 1 to ``batch_images`` records. On a GPU the memory of raw
        records must be page-locked. All memory must stay unchanged until the batch is collected.
        Returns the draws, with the crops of rectangles in their places.

        Raises:
            DataError: a record is not of the dataset's encoding and size; nothing was started.
        """
        spec, draws = self.spec, batch.draws
        size_hw = self._screen.check(batch.records)
        if spec.are_rectangles:
            draws = placed(draws, spec.config, size_hw, size_px=spec.size_px, stream=batch.stream)
        arrays: dict[str, Any] = {
            **record_inputs(self.spec, batch.records, pinned=self._pinned),
            **{name: compute(draws) for name, compute in self._inputs.items()},
        }
        for name, value in arrays.items():
            self._pipeline.feed_input(name, value)
        self._pipeline.schedule_run()
        # DALI reads the arrays in place, so they must live until it is done.
        self._pending.append((arrays, draws))
        return draws

    def collect(self) -> list[Any]:
        """Return the views of the oldest batch, (n, crop, crop, 3) each: DALI tensors or numpy
        arrays, which stay valid without the graph.

        Raises:
            RuntimeError: DALI failed; the graph is unusable from now on.
        """
        outputs = self._pipeline.share_outputs()
        _, draws = self._pending[0]
        if self._resizer is None:
            views = [output.as_tensor() for output in outputs]
        else:
            parts = [outputs[0].at(row) for row in range(len(draws))]
            views = [self._resizer.images(parts, draws)]
        self._pipeline.release_outputs()
        self._pending.popleft()
        return views

    def drain(self) -> None:
        """Wait for everything that was submitted and discard it."""
        while self._pending:
            self.collect()


def decode_error(spec: GraphSpec, content: bytes) -> str | None:
    """Say why a record cannot be used; None if it can."""
    from nvidia.dali import Pipeline, fn

    stored = encoding_of(spec.encoding)
    fault = stored.fault(content, spec.size_px, spec.shape)
    if fault or not stored.needs_decoder:
        return fault
    pipeline = Pipeline(batch_size=1, num_threads=1, device_id=None)
    with pipeline:
        pipeline.set_outputs(fn.decoders.image(fn.external_source(name="record"), device="cpu"))
    pipeline.build()
    try:
        pipeline.feed_input("record", [np.frombuffer(content, np.uint8)])
        (image,) = pipeline.run()
    except RuntimeError as exc:
        lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
        return next((line for line in lines if "ecode" in line), "it cannot be decoded")
    height, width, channels = image.shape()[0]
    if channels == 3 and is_record_size(height, width, spec.size_px, spec.shape):
        return None
    return f"it decodes to shape {(height, width, channels)}, not to a record of {spec.size_px} px"


def record_inputs(spec: GraphSpec, records: RecordBatch, *, pinned: bool) -> dict[str, Any]:
    """Return what the graph gets of the records, by the name of the input, without a copy.

    ``pinned`` says that the memory of the rows is page-locked.
    """
    from nvidia.dali.tensors import TensorListCPU

    if not spec.needs_decoder:
        pixels = records.rows.reshape(-1, spec.size_px, spec.size_px, 3)
        return {ROWS: TensorListCPU(pixels, "HWC", pinned)}
    return {
        ROWS: TensorListCPU(records.rows, "", pinned),
        SIZES: records.size_n.astype(np.int32)[:, None],
    }


def build_pipeline(
    spec: GraphSpec, device: GraphDevice, device_id: int | None
) -> tuple[Any, Mapping[str, InputArrays]]:
    """Make the DALI pipeline of ``spec``, not yet built, and what computes its inputs by name.

    With ``device="gpu"`` and ``device_id=None`` it can be serialised on a machine without a GPU.
    """
    from nvidia.dali import Pipeline, fn, types

    pipeline = Pipeline(
        batch_size=spec.batch_images,
        num_threads=spec.threads,
        device_id=device_id,
        prefetch_queue_depth=1,  # the first run would otherwise ask for that many batches
    )
    with pipeline:
        nodes = Nodes(spec, device, fn=fn, types=types)
        pipeline.set_outputs(*nodes.outputs())
    return pipeline, nodes.inputs
