"""The nodes of the DALI graph: the pixels of a batch from its records and draws.

The result is, in float32 on the 0-255 scale,

    (pixels - mean window + lighting noise) / divisor

where the divisor may differ by channel. There are four ways to compute it, which differ only in
speed and rounding:

* crop while decoding, resize (if the crops are parts of any size), mirror the bytes, subtract the
  fixed window, then the rest: on a CPU (where C code does all but the decoding of parts: see
  ``resize``);
* decode the whole record, then crop, mirror, subtract the noise, divide and convert in one pass,
  and subtract the window: on a GPU, whose decoder is fastest with whole images;
* subtract the whole mean image, then crop and mirror: for the mean ``aligned``;
* one affine map for crop, mirrors, scale and translation: only if one of the last two is on.

Suffixes: ``hwc`` row, column, channel; ``yx`` row and column.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from train.feed.augment import EpochDraws, warp_matrices
from train.feed.graph_spec import GraphSpec, view_corners
from train.feed.resize import resizes_in_c

GraphDevice = Literal["cpu", "gpu"]
ROWS, SIZES = "rows", "sizes"
"""Names of the inputs for the records: see ``graph.record_inputs``."""
InputArrays = Callable[[EpochDraws], NDArray[Any]]
"""Computes the values of a graph input, one per image, from the draws of a batch."""


class Nodes:
    """Builds the nodes of a graph."""

    def __init__(self, spec: GraphSpec, device: GraphDevice, *, fn: Any, types: Any) -> None:
        """``fn`` and ``types`` are DALI's modules."""
        self.inputs: dict[str, InputArrays] = {}
        self._fn, self._types = fn, types
        self._spec, self._config, self._device = spec, spec.config, device
        self._float16 = spec.config.dtype == "float16"
        self._dtype = types.FLOAT16 if self._float16 else types.FLOAT
        on_gpu = device == "gpu"
        self._decodes_whole = on_gpu if spec.decode_whole is None else spec.decode_whole
        self._record = self._records()

    def outputs(self) -> list[Any]:
        """Build all nodes; returns the views."""
        spec = self._spec
        if spec.views == 10:
            return self._ten_views()
        if spec.warps:
            return [self._finished(self._warped())]
        if self._config.mean == "aligned":
            return [self._aligned()]
        if resizes_in_c(spec, self._device):
            return [self._random_part()]
        if self._decodes_whole and not spec.resizes:
            return [self._in_one_pass()]
        return [self._finished(self._minus_mean(self._mirrored(self._cropped())))]

    def _records(self) -> Any:
        """The records: files (bytes,) or pixels (size, size, 3), both uint8.

        Files come as rows of equal length in one buffer, because a Python object for each would
        cost more time than this copy, which DALI makes in its own threads.
        """
        fn, types = self._fn, self._types
        if not self._spec.needs_decoder:
            return fn.external_source(
                name=ROWS, no_copy=True, ndim=3, dtype=types.UINT8, layout="HWC"
            )
        rows = fn.external_source(name=ROWS, no_copy=True, ndim=1, dtype=types.UINT8)
        size = fn.external_source(name=SIZES, no_copy=True, ndim=1, dtype=types.INT32)
        return fn.slice(rows, start=[0], shape=size, axes=[0])

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
        load = self._config.hw_decoder_load if self._device == "gpu" else None
        return {
            "device": "mixed" if self._device == "gpu" else "cpu",
            **({} if load is None else {"hw_decoder_load": load}),
            "output_type": self._types.RGB,
            "jpeg_fancy_upsampling": True,  # the CPU decoder always does this
        }

    def _cropped(self) -> Any:
        """The crop (crop, crop, 3) uint8, for which only its blocks are decoded."""
        size = [self._spec.crop_px] * 2
        if not self._spec.resizes:
            return self._part(self._corner(), size)
        part = self._random_part()
        # Bilinear, over all pixels that a pixel of the result covers: as Pillow and torchvision do.
        linear = self._types.INTERP_LINEAR
        return self._fn.resize(part, size=size, interp_type=linear, antialias=True)

    def _corner(self) -> Any:
        return self._input("corner_yx", lambda draws: draws.crop_yx)

    def _random_part(self) -> Any:
        """A part of any size (height, width, 3) uint8."""
        return self._part(self._corner(), self._input("crop_hw", lambda draws: draws.crop_hw))

    def _part(self, corner: Any, shape: Any) -> Any:
        where = {"start": corner, "shape": shape, "axes": [0, 1]}
        if self._decodes_whole or not self._spec.needs_decoder:
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

    def _mean_rgb(self) -> NDArray[np.float32]:
        """The mean per channel, if it is subtracted with the noise; else zeros."""
        if self._config.mean == "channel" and not self._spec.warps:
            return self._spec.mean_rgb
        return np.zeros(3, np.float32)

    def _subtracted(self, pixels: int) -> Any:
        """What is subtracted last: the channel mean less the noise, ``pixels`` times."""
        mean_rgb = self._mean_rgb()
        return self._input(
            "subtracted", lambda draws: np.tile(mean_rgb - draws.lighting_rgb, (1, pixels))
        )

    def _standardised(self, image: Any) -> Any:
        """The same with a divisor for each channel, in one pass."""
        return self._fn.crop_mirror_normalize(
            image, mirror=0, **self._normalisation(), dtype=self._dtype, output_layout="HWC"
        )

    def _normalisation(self) -> Mapping[str, Any]:
        """What ``crop_mirror_normalize`` subtracts, and divides by."""
        spec = self._spec
        mean = self._subtracted(1) if spec.lighting else self._mean_rgb().tolist()
        return {"mean": mean, "std": list(spec.divisor_rgb)}

    def _with_lighting(self, image: Any) -> Any:
        spec, fn = self._spec, self._fn
        # A row at a time, for a long inner loop: single pixels would cost 10 % of the whole graph.
        rows = fn.reshape(image, shape=[-1, 3 * spec.crop_px])
        mean = fn.reshape(self._subtracted(spec.crop_px), shape=[1, -1])
        rows = fn.normalize(rows, mean=mean, stddev=spec.divisor)
        return fn.reshape(rows, shape=[spec.crop_px, spec.crop_px, 3], layout="HWC")

    def _aligned(self) -> Any:
        """Subtract the whole mean image first, so that each crop loses the window under it."""
        direct = not self._config.vertical_flip  # flip does not take float16
        whole = self._decoded() - self._constant(self._spec.mean_image_hwc)
        image = self._normalised(whole, self._dtype if direct else self._types.FLOAT)
        return image if direct else self._fn.cast(image, dtype=self._dtype)

    def _in_one_pass(self) -> Any:
        """Crop, mirror and normalise the decoded record, then subtract the fixed window."""
        spec, types = self._spec, self._types
        direct = self._config.mean != "centre" and not self._config.vertical_flip
        # Where a crop is in a rectangle cannot be said as a fraction of the same number of places.
        source = self._cropped() if spec.are_rectangles else self._decoded()
        image = self._normalised(source, self._dtype if direct else types.FLOAT)
        if self._config.mean == "centre":
            window = self._mean_window() / np.array(spec.divisor_rgb)
            image = image - self._constant(window.astype(np.float32))
        return self._fn.cast(image, dtype=self._dtype) if self._float16 and not direct else image

    def _places(self) -> Mapping[str, Any]:
        """Where the crops are in square records, as ``crop_mirror_normalize`` wants it."""
        far = max(1, self._spec.size_px - self._spec.crop_px)
        return {
            "crop": (self._spec.crop_px, self._spec.crop_px),
            "crop_pos_y": self._input("y", lambda draws: (draws.crop_yx[:, 0] / far).astype("f4")),
            "crop_pos_x": self._input("x", lambda draws: (draws.crop_yx[:, 1] / far).astype("f4")),
        }

    def _normalised(self, image: Any, dtype: Any) -> Any:
        """Crop (a whole square record) and mirror; subtract channel mean less noise, and divide, in
        one pass."""
        fn = self._fn
        image = fn.crop_mirror_normalize(
            image,
            **({} if self._spec.are_rectangles else self._places()),
            mirror=self._flip() if self._config.flip else 0,
            **self._normalisation(),
            dtype=dtype,
            output_layout="HWC",
        )
        if self._config.vertical_flip:
            image = fn.flip(image, horizontal=0, vertical=self._flip_vertical())
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

    def _square_of(self, rectangle: Any) -> Any:
        """The central square, which has the test views; the draws have the crop in its middle."""
        spec = self._spec
        low = np.int32((spec.size_px - spec.crop_px) // 2)
        corner = self._input("square_yx", lambda draws: draws.crop_yx - low)
        return self._fn.slice(rectangle, start=corner, shape=[spec.size_px] * 2, axes=[0, 1])

    def _ten_views(self) -> list[Any]:
        """Five crops, then the same mirrored (2012 source, convdata_jpeg.py 226-233)."""
        spec, fn = self._spec, self._fn
        whole = self._decoded()
        if spec.are_rectangles:
            whole = self._square_of(whole)
        if self._config.mean == "aligned":
            whole = whole - self._constant(spec.mean_image_hwc)
        crops = [
            fn.slice(whole, start=list(corner), shape=[spec.crop_px] * 2, axes=[0, 1])
            for corner in view_corners(spec.size_px, spec.crop_px)
        ]
        mirrored = [fn.flip(crop, horizontal=1) for crop in crops]
        return [self._finished(self._minus_mean(view)) for view in crops + mirrored]
