"""The settings of the public loader, checked, and the input settings that they stand for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

import numpy as np
import torch

from train.config import CACHE_GIB, CropKind, FloatType, InputConfig, Lighting, MemoryFormat
from train.errors import ConfigError
from train.feed.dataset import TrainingSet

Augmentation = Literal["modern", "paper", "none"]
Levels = tuple[float, float, float]
"""A value for each of red, green and blue, in levels (0-255)."""

FREE = (
    *("rank", "processes", "device", "dtype", "memory_format", "threads"),
    *("cache_folder", "cache_gib"),
)
"""Settings that may change between a state and the loader that continues from it."""
_CROPS: Mapping[str, CropKind] = {"modern": "resized", "paper": "random", "none": "centre"}
_WHOLE = {
    "batch_images": 1,
    "crop_px": 8,
    "seed": 0,
    "rank": 0,
    "processes": 1,
    "threads": 1,
}
"""Settings that are whole numbers, with the least value."""
SEED_END = 2**63


@dataclass(frozen=True, kw_only=True, slots=True)
class LoaderSettings:
    """What an ``ImageLoader`` delivers.

    Raises:
        ConfigError: a value has the wrong type, is out of range or contradicts another.
    """

    split: str = "train"
    """``train``, ``val`` or ``test``, if the dataset has it."""
    batch_images: int = 256
    """Images of a global batch, over all processes. Each process gets its share of the rows; the
    shares differ by at most one row."""
    crop_px: int = 224
    """Side of the images; at most that of the records."""
    augmentation: Augmentation | None = None
    """``modern``: random-resized-crop and flip, as torchvision draws them; bilinear, antialiased.
    ``paper``: random crop, flip and the lighting noise along the colour axes (2012 paper, 4.1).
    ``none``: the central crop. None: ``modern`` for the training split, ``none`` for others."""
    crop_area: tuple[float, float] = (0.08, 1.0)
    """``modern``: least and greatest area of the crop, as a fraction of the record."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """``modern``: least and greatest width of the crop, as a fraction of its height."""
    mean: Levels | Literal["channels", "image"] | None = "channels"
    """What is subtracted: the channel means of the training set, its mean image (the central
    window), given values in levels (0-255), or nothing."""
    sd: Levels | Literal["channels"] | None = "channels"
    """What each channel is then divided by: the standard deviations of the training set, given
    values in levels (0-255), or nothing."""
    shuffle: bool | None = None
    """A new order in each epoch, or the stored one. None: only the training split is shuffled."""
    drop_last: bool = False
    """Leave out the last batch of an epoch if it is short. Otherwise every image comes once an
    epoch, and the shares of the last batch may be small or, with many processes, empty."""
    seed: int = 0
    """Decides order and augmentation; the same seed gives the same batches everywhere."""
    dtype: FloatType | torch.dtype = "float32"
    """``float32``, ``float16`` or ``bfloat16``."""
    memory_format: MemoryFormat = "channels-first"
    """The order in memory (``channels-first`` or ``channels-last``); the shape is the same."""
    device: str | torch.device | None = None
    """Where batches are made and delivered. None: this process's current GPU, or the CPU."""
    rank: int | None = None
    """Number of this process among those that share each batch, from 0. None: that of
    torch.distributed if it is initialised, or of the launcher (torchrun, SLURM), or 0."""
    processes: int | None = None
    """How many processes share each batch; goes with ``rank``."""
    threads: int | None = None
    """Decoding threads. None: as many as the processors that this process may use."""
    cache_folder: str | None = None
    """Where shards of a dataset at a URL are kept; None: ``$IMGPREP_CACHE`` or the user's cache."""
    cache_gib: float = CACHE_GIB
    """Limit of that folder in GiB."""

    def __post_init__(self) -> None:
        if isinstance(self.dtype, torch.dtype):
            object.__setattr__(self, "dtype", str(self.dtype).removeprefix("torch."))
        for name, least in _WHOLE.items():
            value = getattr(self, name)
            _check_whole(name, value, least)
            if value is not None:  # an integer of numpy is not a JSON value
                object.__setattr__(self, name, int(value))
        for name in ("crop_area", "crop_ratio"):
            object.__setattr__(self, name, _numbers(name, getattr(self, name), 2))
        for name, words in (("mean", ("channels", "image")), ("sd", ("channels",))):
            object.__setattr__(self, name, _levels(name, getattr(self, name), words))
        if not isinstance(self.split, str):
            raise ConfigError(f"split must be a name; got {self.split!r:.80}")
        if self.augmentation not in (None, *get_args(Augmentation)):
            choices = ", ".join(get_args(Augmentation))
            raise ConfigError(f"augmentation must be one of {choices}; got {self.augmentation!r}")
        for name in ("shuffle", "drop_last"):
            if getattr(self, name) not in (None, True, False):
                raise ConfigError(f"{name} must be True or False; got {getattr(self, name)!r:.80}")
        _check_device(self.device)
        if (self.rank is None) != (self.processes is None):
            raise ConfigError("rank and processes go together: give both or neither")
        input_config(self, None)  # its checks

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> LoaderSettings:
        """Make settings from keywords.

        Raises:
            ConfigError: a name is unknown; and as the class.
        """
        known = [field.name for field in fields(cls)]
        for name in given:
            if name not in known:
                raise ConfigError(f"unknown setting {name!r:.80}: choose from {', '.join(known)}")
        return cls(**given)

    @property
    def is_shuffled(self) -> bool:
        """Whether each epoch has a new order."""
        return self.split == "train" if self.shuffle is None else self.shuffle

    @property
    def augments(self) -> Augmentation:
        """The augmentation, chosen by the split if the settings leave it open."""
        return self.augmentation or ("modern" if self.split == "train" else "none")

    def deciding(self) -> dict[str, Any]:
        """Return the settings that decide the batches, as JSON values."""
        values = {**asdict(self), "augmentation": self.augments, "shuffle": self.is_shuffled}
        kept = {name: value for name, value in values.items() if name not in FREE}
        return {n: list(v) if isinstance(v, tuple) else v for n, v in kept.items()}


def input_config(settings: LoaderSettings, data: TrainingSet | None) -> InputConfig:
    """Return the settings of ``train.feed``; without a dataset, only to check the values.

    Raises:
        ConfigError: a value is out of range.
    """
    augmentation, mean, sd = settings.augments, settings.mean, settings.sd
    lighting: Lighting = "eigenvalue" if augmentation == "paper" else "off"
    sd_rgb = sd if isinstance(sd, tuple) else None
    if sd == "channels" and data is not None:
        sd_rgb = channel_sd(data)
    return InputConfig(
        crop_px=settings.crop_px,
        crop=_CROPS[augmentation],
        crop_area=settings.crop_area,
        crop_ratio=settings.crop_ratio,
        mean="none" if mean is None else "centre" if mean == "image" else "channel",
        mean_rgb=mean if isinstance(mean, tuple) else None,
        sd_rgb=sd_rgb,
        flip=augmentation != "none",
        lighting=lighting,
        shuffle=settings.is_shuffled,
        dtype=settings.dtype,  # type: ignore[arg-type]  # checked there
        memory_format=settings.memory_format,
        threads=settings.threads,
        cache_folder=settings.cache_folder,
        cache_gib=settings.cache_gib,
    )


def channel_sd(data: TrainingSet) -> Levels:
    """Return the standard deviations of R, G and B over the training set, in levels; at least 1,
    so that images of one colour can be divided."""
    variance = (data.pca.eigenvectors**2) @ data.pca.eigenvalues
    red, green, blue = np.maximum(1.0, np.sqrt(variance)).tolist()
    return red, green, blue


def _check_whole(name: str, value: object, least: int) -> None:
    if value is None and name in ("rank", "processes", "threads"):
        return
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or not least <= int(value) < SEED_END:  # type: ignore[call-overload]
        raise ConfigError(f"{name} must be a whole number of at least {least}; got {value!r:.80}")


def _check_device(value: object) -> None:
    try:
        kind = "cpu" if value is None else torch.device(value).type  # type: ignore[call-overload]
    except (RuntimeError, TypeError):
        kind = "unknown"
    if kind not in ("cpu", "cuda"):
        raise ConfigError(f"device must be cpu or cuda (or cuda:0, ...); got {value!r:.80}")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device is {value!s:.80}, but torch sees no GPU on this machine")


def _numbers(name: str, value: object, count: int) -> tuple[float, ...]:
    """Return ``value`` as a tuple of ``count`` floats."""
    items = list(value) if isinstance(value, tuple | list | np.ndarray) else []
    if len(items) != count or not all(isinstance(item, int | float | np.number) for item in items):
        raise ConfigError(f"{name} must be {count} numbers; got {value!r:.80}")
    return tuple(float(item) for item in items)


def _levels(name: str, value: object, words: tuple[str, ...]) -> object:
    if value is None or (isinstance(value, str) and value in words):
        return value
    if isinstance(value, str):
        choices = ", ".join((*words, "three values", "None"))
        raise ConfigError(f"{name} must be one of {choices}; got {value!r:.80}")
    levels = _numbers(name, value, 3)
    if 0 < max(levels) <= 1:
        raise ConfigError(
            f"{name} is given in levels (0-255), and {levels} looks like fractions: multiply by 255"
        )
    return levels
