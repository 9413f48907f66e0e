"""All random choices for the images of an epoch, as arrays by position in its order.

They are a pure function of seed, epoch and settings. Batch size, processes and threads do not
matter, and any slice of an epoch can be drawn again after a crash. Each quantity has its own Philox
stream; numpy promises that raw words stay the same between releases (NEP 19).

Suffixes: ``n`` position in the epoch order, ``yx`` row and column, ``rgb`` channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from imgprep.colour.pca import RgbPca
from train.config import InputConfig
from train.feed.streams import Streams

CROP_ATTEMPTS = 10
"""How often a part of a record is drawn before the largest allowed one is taken."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EpochDraws:
    """The random choices for the images of an epoch, or for some of them."""

    position_n: NDArray[np.int64]
    """Position of each image in the order of the epoch (n,)."""
    crop_yx: NDArray[np.int32]
    """Top left corner of each crop in its record (n, 2), pixels. Of rectangles, the sizes must be
    known first: see ``placed``."""
    crop_hw: NDArray[np.int32]
    """Height and width of each crop in its record (n, 2), pixels; 0 unless crops are resized."""
    flip: NDArray[np.bool_]
    """Mirrored left to right (n,)."""
    flip_vertical: NDArray[np.bool_]
    """Mirrored top to bottom (n,)."""
    scale: NDArray[np.float64]
    """Factor by which each image is enlarged about the middle of its crop (n,)."""
    lighting_rgb: NDArray[np.float32]
    """Lighting noise (n, 3), levels."""
    pixel_seed: NDArray[np.int64]
    """Seed of the noise of single pixels (n,)."""

    def __len__(self) -> int:
        return len(self.flip)

    def rows(self, first: int, end: int) -> EpochDraws:
        """Select positions ``first`` to ``end`` (excluded), as views."""
        return EpochDraws(**{f.name: getattr(self, f.name)[first:end] for f in fields(self)})

    def take(self, rows: NDArray[np.int64]) -> EpochDraws:
        """Select the positions listed in ``rows``, in that order."""
        return EpochDraws(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    @classmethod
    def concatenate(cls, parts: Sequence[EpochDraws]) -> EpochDraws:
        """Put parts one after the other."""
        return cls(
            **{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)}
        )

    @classmethod
    def fixed(cls, n: int, crop_yx: tuple[int, int]) -> EpochDraws:
        """Choose the same crop for ``n`` images, and nothing random."""
        return cls(
            position_n=np.arange(n),
            crop_yx=np.tile(np.array(crop_yx, np.int32), (n, 1)),
            crop_hw=np.zeros((n, 2), np.int32),
            flip=np.zeros(n, np.bool_),
            flip_vertical=np.zeros(n, np.bool_),
            scale=np.ones(n),
            lighting_rgb=np.zeros((n, 3), np.float32),
            pixel_seed=np.zeros(n, np.int64),
        )


def lighting_on(config: InputConfig, epoch: int) -> bool:
    """Whether ``epoch`` has lighting noise, and with it the source's division by 1 + sd."""
    stop = config.lighting_stop_epoch
    on = config.lighting != "off" and config.lighting_sd > 0
    return on and (stop is None or epoch < stop)


def lighting_columns(config: InputConfig, pca: RgbPca) -> NDArray[np.float64]:
    """Columns that the alphas multiply (3, 3), levels 0-255; rows R, G, B.

    ``sqrt-eigenvalue`` and ``eigenvalue`` are the readings ``source`` and ``paper`` of
    ``RgbPca.noise_multiplier``.
    """
    return pca.eigenvectors * _multiplier(config, pca)


def lighting_alphas(
    config: InputConfig, pca: RgbPca, lighting_rgb: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Recover the paper's alphas (n, 3) from lighting noise (n, 3); they are 0 for a component
    along which the training set does not vary."""
    multiplier = _multiplier(config, pca)
    along = lighting_rgb.astype(np.float64) @ pca.eigenvectors
    return np.divide(along, multiplier, out=np.zeros_like(along), where=multiplier > 0)


def _multiplier(config: InputConfig, pca: RgbPca) -> NDArray[np.float64]:
    return pca.noise_multiplier("source" if config.lighting == "sqrt-eigenvalue" else "paper")


def epoch_draws(
    config: InputConfig, pca: RgbPca, size_px: int, n: int, *, seed: int, epoch: int
) -> EpochDraws:
    """Draw the random choices for an epoch of ``n`` images; their crops are those of squares.

    ``crop_chunk`` consecutive positions share crop position, flips and scale; lighting noise and
    pixel noise are drawn for each image (2012 source, convdata_jpeg.py 64-66,238-246).
    """
    chunks = -(-n // config.crop_chunk)
    streams = Streams(seed, epoch)

    def share(chunk_values: NDArray[np.generic]) -> NDArray[np.generic]:
        return np.repeat(chunk_values, config.crop_chunk, axis=0)[:n]

    crop_yx, crop_hw = _crops(config, np.array(size_px), np.arange(chunks), streams)
    flip, flip_vertical = np.zeros(chunks, np.bool_), np.zeros(chunks, np.bool_)
    if config.flip:
        flip = streams.integers("flip", chunks, 2) == 1
    if config.vertical_flip:
        flip_vertical = streams.integers("flip-vertical", chunks, 2) == 1
    scale = np.ones(chunks)
    if config.scale_jitter:
        scale += config.scale_jitter * (2 * streams.uniform("scale", chunks) - 1)
    lighting_rgb = np.zeros((n, 3))
    if lighting_on(config, epoch):
        alpha_n3 = config.lighting_sd * streams.normal("lighting", 3 * n).reshape(n, 3)
        lighting_rgb = alpha_n3 @ lighting_columns(config, pca).T
    pixel_seed = np.zeros(n, np.int64)
    if config.gaussian_sd:
        pixel_seed = (streams.words("pixels", n) >> np.uint64(1)).astype(np.int64)
    return EpochDraws(
        position_n=np.arange(n),
        crop_yx=share(crop_yx).astype(np.int32),
        crop_hw=share(crop_hw).astype(np.int32),
        flip=share(flip).astype(np.bool_),
        flip_vertical=share(flip_vertical).astype(np.bool_),
        scale=share(scale).astype(np.float64),
        lighting_rgb=lighting_rgb.astype(np.float32),
        pixel_seed=pixel_seed,
    )


def placed(
    draws: EpochDraws,
    config: InputConfig,
    size_hw: NDArray[np.int64],
    *,
    size_px: int,
    stream: tuple[int, int],
) -> EpochDraws:
    """Return the draws with the crops of rectangles, whose places depend on their sizes.

    A random crop is drawn from the whole rectangle by the random words of its position, so that it
    is still a function of seed, epoch and position. A centre crop is that of the central square.

    Args:
        draws: as drawn for records of ``size_px`` square.
        config: the settings that they were drawn by.
        size_hw: height and width of each record (n, 2), pixels.
        size_px: the short side of all records.
        stream: seed and epoch.
    """
    if config.crop == "centre":
        corner = (size_hw - size_px) // 2
        return replace(draws, crop_yx=(draws.crop_yx + corner).astype(np.int32))
    chunk_n = draws.position_n // config.crop_chunk
    crop_yx, crop_hw = _crops(config, size_hw, chunk_n, Streams(*stream))
    return replace(draws, crop_yx=crop_yx.astype(np.int32), crop_hw=crop_hw.astype(np.int32))


def _crops(
    config: InputConfig, size_hw: NDArray[np.int64], chunk_n: NDArray[np.int64], streams: Streams
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw corners (n, 2) of the crops of chunks and, if they are resized, heights and widths.

    ``size_hw`` are the sizes of the records (n, 2), or the side of all as one number.
    """
    n = len(chunk_n)
    if config.crop == "resized":
        crop_hw = _parts(config, np.broadcast_to(size_hw, (n, 2)), chunk_n, streams)
        return streams.integers_at("crop", chunk_n, size_hw + 1 - crop_hw), crop_hw
    crop_hw = np.zeros((n, 2), np.int64)
    if config.crop == "centre":
        return np.broadcast_to((size_hw - config.crop_px) // 2, (n, 2)), crop_hw
    outside_px = config.translate_px
    every_place = size_hw - config.crop_px + 1 + 2 * outside_px
    return streams.integers_at("crop", chunk_n, every_place) - outside_px, crop_hw


def _parts(
    config: InputConfig, size_hw: NDArray[np.int64], chunk_n: NDArray[np.int64], streams: Streams
) -> NDArray[np.int64]:
    """Draw heights and widths (n, 2) of parts of records, as torchvision does.

    The area is uniform in ``crop_area``, and the logarithm of the ratio in ``crop_ratio``. A part
    that is too high or too wide is drawn again, ten times at most; then it is the largest part of
    an allowed ratio (torchvision, ``RandomResizedCrop.get_params``).
    """
    low, high = np.log(config.crop_ratio)
    least, most = config.crop_area
    height_n, width_n = size_hw.T
    narrowest, widest = config.crop_ratio
    nearest = np.clip(width_n / height_n, narrowest, widest)
    largest = np.stack([width_n / nearest, height_n * nearest], axis=1)
    crop_hw: NDArray[np.int64] = np.clip(np.rint(largest).astype(np.int64), 1, size_hw)
    missing = np.arange(len(chunk_n))
    for attempt in range(CROP_ATTEMPTS):
        if not len(missing):
            break
        u_area = streams.uniform_at(f"crop-area-{attempt}", chunk_n[missing])
        u_ratio = streams.uniform_at(f"crop-ratio-{attempt}", chunk_n[missing])
        area_px = (height_n * width_n)[missing] * (least + (most - least) * u_area)
        ratio = np.exp(low + (high - low) * u_ratio)
        hw = np.rint(np.sqrt(np.stack([area_px / ratio, area_px * ratio], axis=1))).astype(np.int64)
        fits = ((hw >= 1) & (hw <= size_hw[missing])).all(axis=1)
        crop_hw[missing[fits]] = hw[fits]
        missing = missing[~fits]
    return crop_hw


def warp_matrices(draws: EpochDraws, crop_px: int) -> NDArray[np.float32]:
    """Map pixels of the result to pixels of the record: (n, 2, 3), columns x, y, 1.

    Scaling and mirroring keep the middle of the crop in place. Pixel centres are at halves.
    """
    matrices = np.zeros((len(draws), 2, 3))
    for axis, (corner, mirrored) in enumerate(
        ((draws.crop_yx[:, 1], draws.flip), (draws.crop_yx[:, 0], draws.flip_vertical))
    ):
        step = np.where(mirrored, -1.0, 1.0) / draws.scale
        matrices[:, axis, axis] = step
        matrices[:, axis, 2] = corner + crop_px / 2 - step * crop_px / 2
    return matrices.astype(np.float32)
