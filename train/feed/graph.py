"""The pixels of a batch as one DALI graph, the same for CPU and GPU. Only this file imports DALI.

The graph draws nothing at random and does not choose records: positions, mirrors and noise come in
as inputs, computed from the draws of the batch (``FeedBatch``). Its result is, in float32 on the
0-255 scale,

    (pixels - mean window + lighting noise) / divisor

where the divisor may differ by channel. There are three ways to compute it, which differ only in
speed:

* crop while decoding, resize (if the crops are parts of any size), mirror the bytes, subtract the
  fixed window, then the rest: the usual one;
* subtract the whole mean image, then crop and mirror: for the mean ``aligned``;
* one affine map for crop, mirrors, scale and translation: only if one of the last two is on.

Suffixes: ``hwc`` row, column, channel; ``yx`` row and column.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from imgprep.dataset.encodings import encoding_of
from train.feed.augment import EpochDraws, warp_matrices
from train.feed.graph_spec import FeedBatch, GraphSpec, record_array, view_corners

GraphDevice = Literal["cpu", "gpu"]
InputArrays = Callable[[EpochDraws], NDArray[Any]]
"""Computes the values of a graph input, one per image, from the draws of a batch."""

QUEUED_RUNS = 2
"""Batches in DALI at once: while one is collected, the next is already being computed."""

# DALI returns large buffers to the system after each batch and faults them in again, page by page,
# unless its allocator pools them: 15 to 20 % of the throughput. It reads this when loaded.
os.environ.setdefault("DALI_MALLOC_POOL_THRESHOLD", "1")


class Graph:
    """A running graph: batches go in by ``submit`` and come out by ``collect``, in order."""

    def __init__(self, spec: GraphSpec, device: GraphDevice, device_id: int | None) -> None:
        self._spec = spec
        self._pipeline, self._inputs = build_pipeline(spec, device, device_id)
        self._pipeline.build()
        self._pending: deque[Any] = deque()

    @property
    def pending(self) -> int:
        """Batches submitted and not yet collected."""
        return len(self._pending)

    def submit(self, batch: FeedBatch) -> None:
        """Start to compute a batch of 1 to ``batch_images`` records.

        Raises:
            DataError: a record is not of the dataset's encoding and size.
        """
        arrays: dict[str, Any] = {
            "record": [record_array(self._spec, content) for content in batch.records],
            **{name: compute(batch.draws) for name, compute in self._inputs.items()},
        }
        for name, value in arrays.items():
            self._pipeline.feed_input(name, value)
        self._pipeline.schedule_run()
        # DALI reads the arrays in place, so they must live until it is done.
        self._pending.append(arrays)

    def collect(self) -> list[Any]:
        """Return the views of the oldest batch as DALI tensors, which stay valid without the graph.

        Raises:
            RuntimeError: DALI failed; the graph is unusable from now on.
        """
        outputs = self._pipeline.share_outputs()
        views = [output.as_tensor() for output in outputs]
        self._pipeline.release_outputs()
        self._pending.popleft()
        return views

    def drain(self) -> None:
        """Wait for everything that was submitted and discard it."""
        while self._pending:
            self.collect()


def decode_error(content: bytes, encoding: str, size_px: int) -> str | None:
    """Say why a record cannot be used; None if it can."""
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
    if shape == (size_px, size_px, 3):
        return None
    return f"it decodes to shape {shape}, not {(size_px, size_px, 3)}"


def build_pipeline(
    spec: GraphSpec, device: GraphDevice, device_id: int | None
) -> tuple[Any, Mapping[str, InputArrays]]:
    """Make the DALI pipeline of ``spec``, not yet built, and what computes its inputs by name.

    With ``device="gpu"`` and ``device_id=None`` it can be serialised on a machine without a GPU.
    """
    from nvidia.dali import Pipeline

    pipeline = Pipeline(
        batch_size=spec.batch_images,
        num_threads=spec.threads,
        device_id=device_id,
        prefetch_queue_depth=1,  # the first run would otherwise ask for that many batches
    )
    with pipeline:
        nodes = _Nodes(spec, device)
        pipeline.set_outputs(*nodes.outputs())
    return pipeline, nodes.inputs


class _Nodes:
    """Builds the nodes of a graph."""

    def __init__(self, spec: GraphSpec, device: GraphDevice) -> None:
        from nvidia.dali import fn, types

        self.inputs: dict[str, InputArrays] = {}
        self._fn, self._types = fn, types
        self._spec, self._config, self._device = spec, spec.config, device
        self._float16 = spec.config.dtype == "float16"
        self._dtype = types.FLOAT16 if self._float16 else types.FLOAT
        layout = None if spec.needs_decoder else "HWC"
        self._record = fn.external_source(
            name="record", no_copy=True, dtype=types.UINT8, layout=layout
        )

    def outputs(self) -> list[Any]:
        """Build all nodes; returns the views."""
        if self._spec.views == 10:
            return self._ten_views()
        if self._spec.warps:
            return [self._finished(self._warped())]
        if self._config.mean == "aligned":
            return [self._aligned()]
        return [self._finished(self._minus_mean(self._mirrored(self._cropped())))]

    def _input(self, name: str, compute: InputArrays) -> Any:
        """Add an input whose values ``compute`` takes from the draws: int32 or float32 (n, ...)."""
        sample = compute(EpochDraws.fixed(1, (0, 0)))
        dtypes = {"int32": self._types.INT32, "float32": self._types.FLOAT}
        self.inputs[name] = compute
        return self._fn.external_source(
            name=name, no_copy=True, ndim=sample.ndim - 1, dtype=dtypes[str(sample.dtype)]
        )

    def _constant(self, value: NDArray[np.float32]) -> Any:
        return self._types.Constant(np.ascontiguousarray(value), device=self._device)

    def _mean_window(self) -> NDArray[np.float32]:
        """The central window of the mean image, which the author subtracts from every crop."""
        crop = self._spec.crop_px
        low = (self._spec.size_px - crop) // 2
        return self._spec.mean_image_hwc[low : low + crop, low : low + crop]

    def _decoded(self) -> Any:
        """The whole record (size, size, 3) uint8."""
        if not self._spec.needs_decoder:
            return self._record.gpu() if self._device == "gpu" else self._record
        return self._fn.decoders.image(self._record, **self._decoding())

    def _decoding(self) -> Mapping[str, Any]:
        device = "mixed" if self._device == "gpu" else "cpu"
        return {
            "device": device,
            "output_type": self._types.RGB,
            "jpeg_fancy_upsampling": True,  # the CPU decoder always does this
        }

    def _cropped(self) -> Any:
        """The crop (crop, crop, 3) uint8, for which only its blocks are decoded."""
        corner = self._input("corner_yx", lambda draws: draws.crop_yx)
        size = [self._spec.crop_px] * 2
        if not self._spec.resizes:
            return self._part(corner, size)
        part = self._part(corner, self._input("crop_hw", lambda draws: draws.crop_hw))
        # Bilinear, over all pixels that a pixel of the result covers: as Pillow and torchvision do.
        linear = self._types.INTERP_LINEAR
        return self._fn.resize(part, size=size, interp_type=linear, antialias=True)

    def _part(self, corner: Any, shape: Any) -> Any:
        where = {"start": corner, "shape": shape, "axes": [0, 1]}
        if not self._spec.needs_decoder:
            return self._fn.slice(self._decoded(), **where)
        return self._fn.decoders.image_slice(self._record, **where, **self._decoding())

    def _flip(self) -> Any:
        return self._input("flip", lambda draws: draws.flip.astype(np.int32))

    def _flip_vertical(self) -> Any:
        return self._input("flip_vertical", lambda draws: draws.flip_vertical.astype(np.int32))

    def _mirrored(self, image: Any) -> Any:
        mirrors: dict[str, Any] = {"horizontal": 0}  # DALI's own default is 1
        if self._config.flip:
            mirrors["horizontal"] = self._flip()
        if self._config.vertical_flip:
            mirrors["vertical"] = self._flip_vertical()
        used = self._config.flip or self._config.vertical_flip
        return self._fn.flip(image, **mirrors) if used else image

    def _minus_mean(self, image: Any) -> Any:
        if self._config.mean == "centre":
            return image - self._constant(self._mean_window())
        return image

    def _finished(self, image: Any) -> Any:
        """Lighting noise, division and type; the channel mean is subtracted with the noise."""
        spec, fn, mean = self._spec, self._fn, self._config.mean
        if spec.resizes or spec.divides_channels:
            return self._standardised(image)
        if spec.lighting:
            image = self._with_lighting(image)
        elif mean == "channel" and not spec.warps:
            image = image - self._constant(spec.mean_rgb.reshape(1, 1, 3))
        is_uint8 = mean == "none" and not spec.lighting and not spec.warps
        # A cast from float32 to float32 would be one more pass over the memory.
        return fn.cast(image, dtype=self._dtype) if self._float16 or is_uint8 else image

    def _subtracted(self, pixels: int) -> Any:
        """What ``normalize`` subtracts: the channel mean less the noise, ``pixels`` times."""
        mean_rgb = np.zeros(3, np.float32)
        if self._config.mean == "channel" and not self._spec.warps:
            mean_rgb = self._spec.mean_rgb
        return self._input(
            "subtracted", lambda draws: np.tile(mean_rgb - draws.lighting_rgb, (1, pixels))
        )

    def _standardised(self, image: Any) -> Any:
        """The same with a divisor for each channel, in one pass."""
        mean = self._config.mean == "channel" and not self._spec.warps
        return self._fn.crop_mirror_normalize(
            image,
            mirror=0,
            mean=self._subtracted(1) if self._spec.lighting or mean else [0.0, 0.0, 0.0],
            std=list(self._spec.divisor_rgb),
            dtype=self._dtype,
            output_layout="HWC",
        )

    def _with_lighting(self, image: Any) -> Any:
        spec, fn = self._spec, self._fn
        # Up to 8 rows at a time, for a long inner loop: single pixels cost 10 % of the whole graph.
        pixels = spec.crop_px * max(rows for rows in range(1, 9) if spec.crop_px % rows == 0)
        rows = fn.reshape(image, shape=[-1, 3 * pixels])
        mean = fn.reshape(self._subtracted(pixels), shape=[1, -1])
        rows = fn.normalize(rows, mean=mean, stddev=spec.divisor)
        return fn.reshape(rows, shape=[spec.crop_px, spec.crop_px, 3], layout="HWC")

    def _aligned(self) -> Any:
        """Subtract the whole mean image first, so that each crop loses the window under it."""
        spec, fn, types = self._spec, self._fn, self._types
        far = max(1, spec.size_px - spec.crop_px)
        image = fn.crop_mirror_normalize(
            self._decoded() - self._constant(spec.mean_image_hwc),
            crop=(spec.crop_px, spec.crop_px),
            crop_pos_y=self._input("y", lambda draws: (draws.crop_yx[:, 0] / far).astype("f4")),
            crop_pos_x=self._input("x", lambda draws: (draws.crop_yx[:, 1] / far).astype("f4")),
            mirror=self._flip() if self._config.flip else 0,
            mean=self._subtracted(1) if spec.lighting else [0.0, 0.0, 0.0],
            std=list(spec.divisor_rgb),
            dtype=types.FLOAT if self._config.vertical_flip else self._dtype,
            output_layout="HWC",
        )
        if self._config.vertical_flip:
            image = fn.flip(image, horizontal=0, vertical=self._flip_vertical())
            image = fn.cast(image, dtype=self._dtype)  # flip does not take float16
        return image

    def _warped(self) -> Any:
        """One affine map; outside the record the result is 0, which stands for the mean."""
        spec, fn, types = self._spec, self._fn, self._types
        image = self._decoded()
        if self._config.mean == "aligned":
            image = image - self._constant(spec.mean_image_hwc)
        matrix = self._input("matrix", lambda draws: warp_matrices(draws, spec.crop_px))
        size = [spec.crop_px, spec.crop_px]
        nearest = types.INTERP_NN
        image = fn.warp_affine(
            image,
            matrix=matrix,
            size=size,
            dtype=types.FLOAT,
            interp_type=types.INTERP_LINEAR if self._config.scale_jitter else nearest,
        )
        if self._config.mean == "channel":
            image = image - self._constant(spec.mean_rgb.reshape(1, 1, 3))
        inside = fn.warp_affine(
            self._constant(np.ones((spec.size_px, spec.size_px, 1), np.float32)),
            matrix=matrix,
            size=size,
            fill_value=0,
            interp_type=nearest,
        )
        return fn.reinterpret(self._minus_mean(image) * inside, layout="HWC")

    def _ten_views(self) -> list[Any]:
        """Five crops, then the same mirrored (2012 source, convdata_jpeg.py 226-233)."""
        spec, fn = self._spec, self._fn
        whole = self._decoded()
        if self._config.mean == "aligned":
            whole = whole - self._constant(spec.mean_image_hwc)
        crops = [
            fn.slice(whole, start=list(corner), shape=[spec.crop_px] * 2, axes=[0, 1])
            for corner in view_corners(spec.size_px, spec.crop_px)
        ]
        mirrored = [fn.flip(crop, horizontal=1) for crop in crops]
        return [self._finished(self._minus_mean(view)) for view in crops + mirrored]
