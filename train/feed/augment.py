"""All random choices for the images of an epoch, as arrays by position in its order.

They are a pure function of seed, epoch and settings. Batch size, processes and threads do not
matter, and any slice of an epoch can be drawn again after a crash. Each quantity has its own Philox
stream; numpy promises that raw words stay the same between releases (NEP 19).

Suffixes: ``n`` position in the epoch order, ``yx`` row and column, ``rgb`` channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from imgprep.colour.pca import RgbPca
from imgprep.order import stream_key
from train.config import InputConfig

CROP_ATTEMPTS = 10
"""How often a part of a record is drawn before the largest allowed one is taken."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EpochDraws:
    """The random choices for the images of an epoch, or for some of them."""

    crop_yx: NDArray[np.int32]
    """Top left corner of each crop in its record (n, 2), pixels."""
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
    """Draw the random choices for an epoch of ``n`` images.

    ``crop_chunk`` consecutive positions share crop position, flips and scale; lighting noise and
    pixel noise are drawn for each image (2012 source, convdata_jpeg.py 64-66,238-246).
    """
    chunks = -(-n // config.crop_chunk)
    streams = _Streams(seed, epoch)

    def share(chunk_values: NDArray[np.generic]) -> NDArray[np.generic]:
        return np.repeat(chunk_values, config.crop_chunk, axis=0)[:n]

    crop_yx, crop_hw = _crops(config, size_px, chunks, streams)
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
        crop_yx=share(crop_yx).astype(np.int32),
        crop_hw=share(crop_hw).astype(np.int32),
        flip=share(flip).astype(np.bool_),
        flip_vertical=share(flip_vertical).astype(np.bool_),
        scale=share(scale).astype(np.float64),
        lighting_rgb=lighting_rgb.astype(np.float32),
        pixel_seed=pixel_seed,
    )


def _crops(
    config: InputConfig, size_px: int, n: int, streams: _Streams
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw the corners of ``n`` crops and, if they are resized, their heights and widths."""
    if config.crop == "resized":
        crop_hw = _parts(config, size_px, n, streams)
        places = size_px + 1 - crop_hw.reshape(-1)
        return streams.integers("crop", 2 * n, places).reshape(n, 2), crop_hw
    crop_hw = np.zeros((n, 2), np.int64)
    if config.crop == "centre":
        return np.full((n, 2), (size_px - config.crop_px) // 2), crop_hw
    outside_px = config.translate_px
    every_place = size_px - config.crop_px + 1 + 2 * outside_px
    return streams.integers("crop", 2 * n, every_place).reshape(n, 2) - outside_px, crop_hw


def _parts(config: InputConfig, size_px: int, n: int, streams: _Streams) -> NDArray[np.int64]:
    """Draw heights and widths (n, 2) of parts of square records, as torchvision does.

    The area is uniform in ``crop_area``, and the logarithm of the ratio in ``crop_ratio``. A part
    that is too high or too wide is drawn again, ten times at most; then it is the largest part of
    an allowed ratio (torchvision, ``RandomResizedCrop.get_params``).
    """
    low, high = np.log(config.crop_ratio)
    least, most = config.crop_area
    nearest = min(max(1.0, config.crop_ratio[0]), config.crop_ratio[1])  # to a square
    largest = round(size_px / max(1.0, nearest)), round(size_px * min(1.0, nearest))
    crop_hw = np.tile(np.maximum(1, np.array(largest, np.int64)), (n, 1))
    missing = np.arange(n)
    for attempt in range(CROP_ATTEMPTS):
        if not len(missing):
            break
        u_area = streams.uniform(f"crop-area-{attempt}", n)[missing]
        u_ratio = streams.uniform(f"crop-ratio-{attempt}", n)[missing]
        area_px = size_px**2 * (least + (most - least) * u_area)
        ratio = np.exp(low + (high - low) * u_ratio)
        hw = np.rint(np.sqrt(np.stack([area_px / ratio, area_px * ratio], axis=1))).astype(np.int64)
        fits = ((hw >= 1) & (hw <= size_px)).all(axis=1)
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


@dataclass(frozen=True, slots=True)
class _Streams:
    """The random streams of an epoch, by name."""

    seed: int
    epoch: int

    def words(self, name: str, count: int) -> NDArray[np.uint64]:
        key = stream_key(self.seed, f"epoch-{name}:{self.epoch}")
        return np.asarray(np.random.Philox(key=key).random_raw(count), dtype=np.uint64)

    def integers(self, name: str, count: int, below: int | NDArray[np.int64]) -> NDArray[np.int64]:
        """Draw uniform integers from 0 to ``below`` - 1; the bias is under ``below`` / 2^32."""
        high = self.words(name, count) >> np.uint64(32)
        return ((high * np.uint64(below)) >> np.uint64(32)).astype(np.int64)

    def uniform(self, name: str, count: int) -> NDArray[np.float64]:
        """Draw uniform numbers on (0, 1), ends excluded: the middles of 2^53 equal steps."""
        steps = (self.words(name, count) >> np.uint64(11)).astype(np.float64)
        return (steps + 0.5) * 2.0**-53

    def normal(self, name: str, count: int) -> NDArray[np.float64]:
        """Draw standard normal numbers by the method of Box and Muller."""
        u = self.uniform(name, 2 * count).reshape(2, count)
        return np.asarray(np.sqrt(-2 * np.log(u[0])) * np.cos(2 * np.pi * u[1]))
