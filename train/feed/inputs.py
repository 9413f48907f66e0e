"""What a graph is made of and fed with: its specification and its input arrays. No DALI here.

Suffixes: ``hwc`` row, column, channel; ``yx`` row and column; ``n`` image in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from imgprep.dataset.encodings import encoding_of
from imgprep.processors import processors
from train.config import InputConfig, MeanKind
from train.errors import ConfigError, DataError
from train.feed.augment import EpochDraws
from train.feed.dataset import TrainingSet


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class GraphSpec:
    """All that fixes a graph."""

    encoding: str
    size_px: int
    crop_px: int
    batch_images: int
    threads: int
    mean: MeanKind
    mean_image_hwc: NDArray[np.float32]
    """(size, size, 3)."""
    mean_rgb: NDArray[np.float32]
    """(3,): what ``channel`` subtracts."""
    flip: bool = False
    flip_vertical: bool = False
    noise: bool = False
    divide: float = 1.0
    warp: bool = False
    """Crops may be scaled or reach out of the record."""
    smooth: bool = False
    """Interpolate linearly where pixels do not fall on pixels."""
    half: bool = False
    """Give float16."""
    views: Literal[1, 10] = 1
    """10: the ten test views (paper 4.1), one output each, from one decode."""

    @property
    def needs_decoder(self) -> bool:
        """Whether records are files that DALI decodes; else they are pixels."""
        return encoding_of(self.encoding).needs_decoder


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FeedBatch:
    """What goes into a graph for one batch: records as stored, and the draws for each."""

    records: Sequence[bytes]
    draws: EpochDraws


def graph_spec(
    data: TrainingSet, config: InputConfig, *, batch_images: int, noise: bool
) -> GraphSpec:
    """The graph that trains by ``config``; ``noise``: the colour noise (and division) is on.

    Raises:
        ConfigError: the crop is larger than the records.
    """
    if config.crop_px > data.size_px:
        raise ConfigError(f"crop_px {config.crop_px}: the records have only {data.size_px} pixels")
    return GraphSpec(
        encoding=data.encoding,
        size_px=data.size_px,
        crop_px=config.crop_px,
        batch_images=batch_images,
        threads=config.threads or processors(),
        mean=config.mean,
        mean_image_hwc=data.mean_image_hwc,
        mean_rgb=data.pca.mean_rgb.astype(np.float32),
        flip=config.flip,
        flip_vertical=config.vertical_flip,
        noise=noise,
        divide=1 + config.lighting_sd if noise and config.lighting_divide else 1.0,
        warp=config.scale_jitter > 0 or config.translate_px > 0,
        smooth=config.scale_jitter > 0,
        half=config.dtype == "float16",
    )


def eval_spec(
    data: TrainingSet, config: InputConfig, *, batch_images: int, views: Literal[1, 10]
) -> GraphSpec:
    """The graph that evaluates: centre crop or ten views, nothing random.

    Raises:
        ConfigError: the crop is larger than the records.
    """
    plain = replace(config, flip=False, vertical_flip=False, scale_jitter=0.0, translate_px=0)
    spec = graph_spec(data, plain, batch_images=batch_images, noise=False)
    return replace(spec, views=views)


def view_corners(size_px: int, crop_px: int) -> list[tuple[int, int]]:
    """Rows and columns of the five test crops: corners, and the centre as third."""
    far = size_px - crop_px
    return [(0, 0), (0, far), (far // 2, far // 2), (far, 0), (far, far)]


def graph_inputs(spec: GraphSpec, batch: FeedBatch) -> dict[str, Any]:
    """Arrays for the inputs that the graph of ``spec`` has, by name.

    Raises:
        DataError: a record is not of the dataset's format and size.
    """
    draws = batch.draws
    feeds: dict[str, Any] = {"record": [record_array(spec, each) for each in batch.records]}
    if spec.views == 10:
        return feeds
    if spec.warp:
        feeds["matrix"] = warp_matrices(draws, spec.crop_px)
    else:
        if spec.mean == "aligned":
            far = max(1, spec.size_px - spec.crop_px)
            feeds["part_y"] = (draws.crop_yx[:, 0] / far).astype(np.float32)
            feeds["part_x"] = (draws.crop_yx[:, 1] / far).astype(np.float32)
        else:
            feeds["corner_yx"] = draws.crop_yx
        if spec.flip:
            feeds["flip"] = draws.flip.astype(np.int32)
        if spec.flip_vertical:
            feeds["flip_vertical"] = draws.flip_vertical.astype(np.int32)
    if spec.noise:
        less_rgb = -draws.noise_rgb
        if spec.mean == "channel" and not spec.warp:
            less_rgb = less_rgb + spec.mean_rgb
        # Rows of the image, for a long inner loop; the other two forms take three values as well.
        width = 1 if spec.mean == "aligned" and not spec.warp else row_pixels(spec)
        feeds["less"] = np.tile(less_rgb, (1, width))
    return feeds


def row_pixels(spec: GraphSpec) -> int:
    """Pixels of the rows in which the noise is added: up to 8 rows of a crop.

    Adding three values over and over costs DALI 10 % of the whole graph more than adding rows.
    """
    return spec.crop_px * max(rows for rows in range(1, 9) if spec.crop_px % rows == 0)


def warp_matrices(draws: EpochDraws, crop_px: int) -> NDArray[np.float32]:
    """Maps from pixels of the result to pixels of the record, (n, 2, 3), columns x, y, 1.

    Scaling and mirroring keep the middle of the crop in place. Pixel centres lie at halves.
    """
    matrices = np.zeros((len(draws), 2, 3))
    for axis, (corner, mirrored) in enumerate(
        ((draws.crop_yx[:, 1], draws.flip), (draws.crop_yx[:, 0], draws.flip_vertical))
    ):
        step = np.where(mirrored, -1.0, 1.0) / draws.scale
        matrices[:, axis, axis] = step
        matrices[:, axis, 2] = corner + crop_px / 2 - step * crop_px / 2
    return matrices.astype(np.float32)


def record_array(spec: GraphSpec, content: bytes) -> NDArray[np.uint8]:
    """What DALI gets of a record: its file (n,), or its pixels where they need no decoder.

    Raises:
        DataError: the file is not a record of the dataset's encoding and size.
    """
    encoding = encoding_of(spec.encoding)
    fault = encoding.fault(content, spec.size_px)
    if fault:
        raise DataError(fault)
    if encoding.needs_decoder:
        return np.frombuffer(content, np.uint8)
    return encoding.view(content, spec.size_px)
