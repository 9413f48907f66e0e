"""The pixels of a batch as one DALI graph, the same for CPU and GPU. Only this file imports DALI.

The graph draws nothing and knows no order: what to read, where to crop, what to mirror and what to
add are inputs (``FeedBatch``). Its result is, in float32 on the 0-255 scale,

    (pixels - mean window + noise) / divide

and the three ways to get there differ only in speed:

* crop while decoding, mirror the bytes, subtract the fixed window, then the rest: all but two;
* subtract the whole mean image, then crop and mirror: for ``aligned``;
* one affine map for crop, mirrors, scale and translation: only where the last two are on.

Suffixes: ``hwc`` row, column, channel; ``yx`` row and column.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from imgprep.dataset.encodings import encoding_of
from train.feed.inputs import (
    FeedBatch,
    GraphSpec,
    graph_inputs,
    row_pixels,
    view_corners,
)

GraphDevice = Literal["cpu", "gpu"]

QUEUED_RUNS = 2
"""Batches that DALI works on at once: while one leaves, the next is under way."""

# DALI gives large buffers back to the system after each batch and faults them in again, page by
# page, unless its allocator pools them: 15 to 20 % of the throughput. It reads this when loaded.
os.environ.setdefault("DALI_MALLOC_POOL_THRESHOLD", "1")


class Graph:
    """A running graph: batches go in by ``submit`` and come out by ``collect``, in order."""

    def __init__(self, spec: GraphSpec, device: GraphDevice, device_id: int | None) -> None:
        self._spec = spec
        self._pipeline = build_pipeline(spec, device, device_id)
        self._pipeline.build()
        self._pending: deque[Any] = deque()

    @property
    def pending(self) -> int:
        """Batches submitted and not collected."""
        return len(self._pending)

    def submit(self, batch: FeedBatch) -> None:
        """Start on a batch of 1 to ``batch_images`` records."""
        feeds = graph_inputs(self._spec, batch)
        for name, value in feeds.items():
            self._pipeline.feed_input(name, value)
        self._pipeline.schedule_run()
        # DALI reads the arrays in place: they must live until it is done.
        self._pending.append(feeds)

    def collect(self) -> list[Any]:
        """The views of the oldest batch as DALI tensors, ready to use; they outlive the graph.

        Raises:
            RuntimeError: DALI failed; the graph cannot be used any more.
        """
        outputs = self._pipeline.share_outputs()
        views = [output.as_tensor() for output in outputs]
        self._pipeline.release_outputs()
        self._pending.popleft()
        return views

    def drain(self) -> None:
        """Wait for all that was submitted and drop it."""
        while self._pending:
            self.collect()


def decode_error(content: bytes, encoding: str, size_px: int) -> str | None:
    """Why a record cannot be used, or None if it can."""
    from nvidia.dali import Pipeline, fn

    stored = encoding_of(encoding)
    fault = stored.fault(content, size_px)
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
    shape = tuple(image.shape()[0])
    return None if shape == (size_px, size_px, 3) else f"shape {shape}, not {size_px} pixels square"


def build_pipeline(spec: GraphSpec, device: GraphDevice, device_id: int | None) -> Any:
    """The DALI pipeline of ``spec``, not yet built.

    With ``device="gpu"`` and ``device_id=None`` it can be serialised on a machine with no GPU.
    """
    from nvidia.dali import Pipeline

    pipeline = Pipeline(
        batch_size=spec.batch_images,
        num_threads=spec.threads,
        device_id=device_id,
        prefetch_queue_depth=1,  # the first run would otherwise ask for that many batches
    )
    with pipeline:
        pipeline.set_outputs(*_Nodes(spec, device).outputs())
    return pipeline


class _Nodes:
    """The nodes of a graph while it is being put together."""

    def __init__(self, spec: GraphSpec, device: GraphDevice) -> None:
        from nvidia.dali import fn, types

        self._fn, self._types = fn, types
        self._spec, self._device = spec, device
        self._dtype = types.FLOAT16 if spec.half else types.FLOAT
        layout = None if spec.needs_decoder else "HWC"
        self._record = fn.external_source(
            name="record", no_copy=True, dtype=types.UINT8, layout=layout
        )

    def outputs(self) -> list[Any]:
        """The views."""
        if self._spec.views == 10:
            return self._ten_views()
        if self._spec.warp:
            return [self._finish(self._warped())]
        if self._spec.mean == "aligned":
            return [self._aligned()]
        return [self._finish(self._less_mean(self._mirrored(self._cropped())))]

    def _input(self, name: str, ndim: int, dtype: Any) -> Any:
        return self._fn.external_source(name=name, no_copy=True, ndim=ndim, dtype=dtype)

    def _constant(self, value: NDArray[np.float32]) -> Any:
        return self._types.Constant(np.ascontiguousarray(value), device=self._device)

    def _mean_window(self) -> NDArray[np.float32]:
        """The central window of the mean image, which the author subtracts from every crop."""
        crop = self._spec.crop_px
        low = (self._spec.size_px - crop) // 2
        return self._spec.mean_image_hwc[low : low + crop, low : low + crop]

    def _whole(self) -> Any:
        """The record, decoded."""
        if not self._spec.needs_decoder:
            return self._record.gpu() if self._device == "gpu" else self._record
        return self._fn.decoders.image(self._record, **self._decoding())

    def _decoding(self) -> Mapping[str, Any]:
        device = "mixed" if self._device == "gpu" else "cpu"
        return {
            "device": device,
            "output_type": self._types.RGB,
            "jpeg_fancy_upsampling": True,  # as the CPU does anyway
        }

    def _cropped(self) -> Any:
        """The crop (crop, crop, 3) uint8, by decoding no more than its blocks."""
        corner = self._input("corner_yx", 1, self._types.INT32)
        part = {"shape": [self._spec.crop_px] * 2, "axes": [0, 1]}
        if not self._spec.needs_decoder:
            return self._fn.slice(self._whole(), start=corner, **part)
        return self._fn.decoders.image_slice(self._record, start=corner, **part, **self._decoding())

    def _mirrored(self, image: Any) -> Any:
        mirrors: dict[str, Any] = {"horizontal": 0}  # DALI's own default is 1
        if self._spec.flip:
            mirrors["horizontal"] = self._input("flip", 0, self._types.INT32)
        if self._spec.flip_vertical:
            mirrors["vertical"] = self._input("flip_vertical", 0, self._types.INT32)
        used = self._spec.flip or self._spec.flip_vertical
        return self._fn.flip(image, **mirrors) if used else image

    def _less_mean(self, image: Any) -> Any:
        if self._spec.mean == "centre":
            return image - self._constant(self._mean_window())
        return image

    def _finish(self, image: Any) -> Any:
        """Noise, division and type; the channel mean goes with the noise."""
        spec, fn = self._spec, self._fn
        if spec.noise:
            image = self._with_noise(image)
        elif spec.mean == "channel" and not spec.warp:
            image = image - self._constant(spec.mean_rgb.reshape(1, 1, 3))
        still_bytes = spec.mean == "none" and not spec.noise and not spec.warp
        # A cast from float32 to float32 would be one more pass over the memory.
        return fn.cast(image, dtype=self._dtype) if spec.half or still_bytes else image

    def _with_noise(self, image: Any) -> Any:
        spec, fn = self._spec, self._fn
        less = self._input("less", 1, self._types.FLOAT)
        rows = fn.reshape(image, shape=[-1, 3 * row_pixels(spec)])
        rows = fn.normalize(rows, mean=fn.reshape(less, shape=[1, -1]), stddev=spec.divide)
        return fn.reshape(rows, shape=[spec.crop_px, spec.crop_px, 3], layout="HWC")

    def _aligned(self) -> Any:
        """Subtract the whole mean image first: the window under the crop is then the right one."""
        spec, fn, types = self._spec, self._fn, self._types
        less: Any = [0.0, 0.0, 0.0]
        if spec.noise:
            less = self._input("less", 1, types.FLOAT)
        image = fn.crop_mirror_normalize(
            self._whole() - self._constant(spec.mean_image_hwc),
            crop=(spec.crop_px, spec.crop_px),
            crop_pos_y=self._input("part_y", 0, types.FLOAT),
            crop_pos_x=self._input("part_x", 0, types.FLOAT),
            mirror=self._input("flip", 0, types.INT32) if spec.flip else 0,
            mean=less,
            std=[spec.divide] * 3,
            dtype=types.FLOAT if spec.flip_vertical else self._dtype,
            output_layout="HWC",
        )
        if spec.flip_vertical:
            mirrored = self._input("flip_vertical", 0, types.INT32)
            image = fn.flip(image, horizontal=0, vertical=mirrored)
            image = fn.cast(image, dtype=self._dtype)  # flip takes no float16
        return image

    def _warped(self) -> Any:
        """One affine map; outside the record the mean shows, that is 0 remains."""
        spec, fn, types = self._spec, self._fn, self._types
        image = self._whole()
        if spec.mean == "aligned":
            image = image - self._constant(spec.mean_image_hwc)
        matrix = self._input("matrix", 2, types.FLOAT)
        size = [spec.crop_px, spec.crop_px]
        nearest = types.INTERP_NN
        image = fn.warp_affine(
            image,
            matrix=matrix,
            size=size,
            dtype=types.FLOAT,
            interp_type=types.INTERP_LINEAR if spec.smooth else nearest,
        )
        if spec.mean == "channel":
            image = image - self._constant(spec.mean_rgb.reshape(1, 1, 3))
        inside = fn.warp_affine(
            self._constant(np.ones((spec.size_px, spec.size_px, 1), np.float32)),
            matrix=matrix,
            size=size,
            fill_value=0,
            interp_type=nearest,
        )
        return fn.reinterpret(self._less_mean(image) * inside, layout="HWC")

    def _ten_views(self) -> list[Any]:
        """Five crops, then the same mirrored (2012 source, convdata_jpeg.py 226-233)."""
        spec, fn = self._spec, self._fn
        whole = self._whole()
        if spec.mean == "aligned":
            whole = whole - self._constant(spec.mean_image_hwc)
        crops = [
            fn.slice(whole, start=list(corner), shape=[spec.crop_px] * 2, axes=[0, 1])
            for corner in view_corners(spec.size_px, spec.crop_px)
        ]
        mirrored = [fn.flip(crop, horizontal=1) for crop in crops]
        return [self._finish(self._less_mean(view)) for view in crops + mirrored]
