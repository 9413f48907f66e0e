"""What a DALI graph is made for, without DALI: dataset, settings, batch size and views.

Suffixes: ``hwc`` row, column, channel; ``yx`` row and column; ``n`` image in the batch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from imgprep.dataset.encodings import encoding_of
from imgprep.processors import processors
from imgprep.spec import Shape
from train.config import InputConfig
from train.errors import ConfigError
from train.feed.augment import EpochDraws
from train.feed.dataset import TrainingSet
from train.feed.spans import RecordBatch

GPU_THREADS_MAX = 8
"""Most decoding threads beside a GPU, unless the settings say otherwise. On an H200 with 16 cores
the input alone gave 5,439, 18,676, 27,571 and 22,378 images per second with 1, 4, 8 and 16 threads
(source-2012, batch 512, 2026-11-26). On a CPU it gave 1,408, 2,677, 2,579 and 2,351 with 1 to 4 on
two cores: there a thread for each processor is best."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class GraphSpec:
    """Everything that determines a graph."""

    encoding: str
    size_px: int
    shape: Shape
    batch_images: int
    threads: int
    config: InputConfig
    """Crop, mean, type and augmentation."""
    mean_image_hwc: NDArray[np.float32]
    """(size, size, 3)."""
    mean_rgb: NDArray[np.float32]
    """(3,): what the mean ``channel`` subtracts."""
    lighting: bool = False
    """Add the lighting noise (and divide, if the settings say so)."""
    views: Literal[1, 10] = 1
    """10: the ten test views (paper 4.1), one output each, from one decode."""
    decode_whole: bool | None = None
    """Decode the whole record before it is cropped, and then do everything in one pass; None: on a
    GPU, where this is faster."""

    @property
    def needs_decoder(self) -> bool:
        """Whether records are files that DALI decodes; otherwise they are pixels."""
        return encoding_of(self.encoding).needs_decoder

    @property
    def crop_px(self) -> int:
        """Side of the crops."""
        return self.config.crop_px

    @property
    def are_rectangles(self) -> bool:
        """Whether records have different heights and widths."""
        return self.shape == "rectangle"

    @property
    def warps(self) -> bool:
        """Whether crops may be scaled or reach outside the record."""
        return self.config.scale_jitter > 0 or self.config.translate_px > 0

    @property
    def resizes(self) -> bool:
        """Whether crops are parts of any size, resized to ``crop_px``."""
        return self.config.crop == "resized"

    @property
    def divides_channels(self) -> bool:
        """Whether each channel is divided by its own standard deviation."""
        return self.config.sd_rgb is not None

    @property
    def divisor_rgb(self) -> tuple[float, float, float]:
        """What each channel of the result is divided by."""
        red, green, blue = self.config.sd_rgb or (1.0, 1.0, 1.0)
        return red * self.divisor, green * self.divisor, blue * self.divisor

    @property
    def divisor(self) -> float:
        """What all channels of the result are divided by."""
        divides = self.lighting and self.config.lighting_divide
        return 1 + self.config.lighting_sd if divides else 1.0


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FeedBatch:
    """The input of a graph for one batch: records as stored, and the draws for each."""

    records: RecordBatch
    draws: EpochDraws
    stream: tuple[int, int] = (0, 0)
    """Seed and epoch of the draws, for rectangles; without random crops they do not matter."""


def with_threads(
    config: InputConfig, device_type: str, available: int | None = None
) -> InputConfig:
    """Return the settings with a number of decoding threads for a device (``cuda`` or ``cpu``).

    ``available`` is the number of processors for this process, by default all that it may use.
    """
    threads = processors() if available is None else available
    if device_type == "cuda":
        threads = min(threads, GPU_THREADS_MAX)
    return replace(config, threads=config.threads or threads)


def graph_spec(
    data: TrainingSet, config: InputConfig, *, batch_images: int, lighting: bool
) -> GraphSpec:
    """Specify the graph that trains by ``config``, with or without the lighting noise.

    Raises:
        ConfigError: the crop is larger than the records, or the settings need square records.
    """
    if config.crop_px > data.size_px:
        raise ConfigError(
            f"crop_px must be at most {data.size_px}, the size of the records; got {config.crop_px}"
        )
    if data.are_rectangles:
        _check_rectangles(config)
    return GraphSpec(
        encoding=data.encoding,
        size_px=data.size_px,
        shape=data.shape,
        batch_images=batch_images,
        threads=config.threads or processors(),
        config=config,
        mean_image_hwc=data.mean_image_hwc,
        mean_rgb=mean_rgb(data, config),
        lighting=lighting,
    )


def _check_rectangles(config: InputConfig) -> None:
    if config.mean == "aligned":
        raise ConfigError(
            "input.mean is aligned, but the records are rectangles, and the mean image is that of "
            "their central squares: set input.mean to centre, channel or none"
        )
    if config.scale_jitter or config.translate_px:
        raise ConfigError(
            "input.scale_jitter and input.translate_px need square records, and these are "
            "rectangles: set both to 0"
        )


def mean_rgb(data: TrainingSet, config: InputConfig) -> NDArray[np.float32]:
    """Return what the mean ``channel`` subtracts: (3,), levels."""
    return np.array(config.mean_rgb or data.pca.mean_rgb, dtype=np.float32)


def eval_spec(
    data: TrainingSet, config: InputConfig, *, batch_images: int, views: Literal[1, 10]
) -> GraphSpec:
    """Specify the graph that evaluates: centre crop or ten views, nothing random.

    Raises:
        ConfigError: the crop is larger than the records.
    """
    plain = config.without_augmentation()
    spec = graph_spec(data, plain, batch_images=batch_images, lighting=False)
    return replace(spec, views=views)


def view_corners(size_px: int, crop_px: int) -> list[tuple[int, int]]:
    """Rows and columns of the five test crops: corners, and the centre as third."""
    far = size_px - crop_px
    return [(0, 0), (0, far), (far // 2, far // 2), (far, 0), (far, far)]
