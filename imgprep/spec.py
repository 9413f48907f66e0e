"""What to build: the frozen values that decide every byte of the output."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from imgprep.errors import UsageError

FilterName = Literal["area", "box", "bilinear", "hamming", "bicubic", "lanczos"]
Shape = Literal["square", "rectangle", "adm"]
Encoding = Literal["jpeg", "png", "raw"]
Subsampling = Literal["420", "422", "444"]
ExifPolicy = Literal["ignore", "apply"]
SplitChoice = Literal["all", "train", "val", "test"]
OnError = Literal["fail", "skip"]
Solver = Literal["scikit-learn", "gradient-ascent"]

# The choices, as the command line shows them.
FILTERS: tuple[FilterName, ...] = get_args(FilterName)
SHAPES: tuple[Shape, ...] = get_args(Shape)
ENCODINGS: tuple[Encoding, ...] = get_args(Encoding)
SUBSAMPLINGS: tuple[Subsampling, ...] = get_args(Subsampling)
EXIF_POLICIES: tuple[ExifPolicy, ...] = get_args(ExifPolicy)
SPLIT_CHOICES: tuple[SplitChoice, ...] = get_args(SplitChoice)
ON_ERRORS: tuple[OnError, ...] = get_args(OnError)
SOLVERS: tuple[Solver, ...] = get_args(Solver)

LONG_SIDE_MAX = 8
"""Longest long side of a rectangle, in short sides: a record must not fill the memory."""

SHARD_IMAGES_MAX_AUTO = 1000
SHARD_IMAGES_MIN_AUTO = 32
SHARDS_MIN_AUTO = 16


def _require(ok: bool, message: str) -> None:
    if not ok:
        raise UsageError(message)


def require_one_of(what: str, value: str, choices: Sequence[str]) -> None:
    """Raises ``UsageError`` unless ``value`` is one of the choices."""
    _require(value in choices, f"{what} must be one of {', '.join(choices)}; got {value!r}")


def longest_px(size_px: int, shape: Shape) -> int:
    """The longest side that a record of this size and shape may have."""
    return LONG_SIDE_MAX * size_px if shape == "rectangle" else size_px


def is_record_size(height_px: int, width_px: int, size_px: int, shape: Shape) -> bool:
    """Whether a record may have this height and width."""
    short, long = sorted((height_px, width_px))
    return short == size_px and long <= longest_px(size_px, shape)


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageSpec:
    """How one image becomes one record."""

    size_px: int = 256
    """Side of a square record; the length that the short side is resized to."""
    shape: Shape = "square"
    """``square``: the central square. ``rectangle``: nothing is cropped, as in the author's kit of
    2014 (cuda-convnet2, make-data.py 32-40). ``adm``: the central square as image generators are
    trained on it (openai/guided-diffusion, ``center_crop_arr``)."""
    filter: FilterName = "area"
    """``area`` is the author's choice: area averaging to shrink, bicubic to enlarge. ``adm`` has
    filters of its own."""
    encoding: Encoding = "jpeg"
    quality: int = 95
    """JPEG quality, 1-100; no effect on ``png`` and ``raw``."""
    subsampling: Subsampling = "420"
    """JPEG chroma subsampling; no effect on ``png`` and ``raw``."""
    exif: ExifPolicy = "ignore"
    """Whether images are rotated by their EXIF orientation; the literature ignores it."""
    max_megapixels: int = 100
    """An image that declares more is rejected before it is decoded (decompression bomb)."""

    def __post_init__(self) -> None:
        _require(8 <= self.size_px <= 4096, f"size must be 8 to 4096 pixels; got {self.size_px}")
        require_one_of("filter", self.filter, FILTERS)
        require_one_of("shape", self.shape, SHAPES)
        _require(
            self.shape != "adm" or self.filter == "area",
            "shape adm has its own filters (box, then bicubic): leave out the filter "
            f"{self.filter!r}",
        )
        require_one_of("encoding", self.encoding, ENCODINGS)
        _require(
            self.shape != "rectangle" or self.encoding != "raw",
            "encoding raw needs records of one size: with shape rectangle choose jpeg or png",
        )
        _require(1 <= self.quality <= 100, f"quality must be 1 to 100; got {self.quality}")
        require_one_of("subsampling", self.subsampling, SUBSAMPLINGS)
        require_one_of("exif", self.exif, EXIF_POLICIES)
        _require(
            1 <= self.max_megapixels <= 4000,
            f"max-megapixels must be 1 to 4000; got {self.max_megapixels}",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildSpec:
    """What decides the bytes of a dataset, besides its source and the codec versions."""

    image: ImageSpec = ImageSpec()
    split: SplitChoice = "all"
    shard_images: int | None = None
    """Most images in a shard; None chooses by the size of the split."""
    seed: int = 0
    """Seed of the one global shuffle."""
    limit: int | None = None
    """Images of each split to use (a seeded sample); None for all."""

    def __post_init__(self) -> None:
        require_one_of("split", self.split, SPLIT_CHOICES)
        _require(
            self.shard_images is None or self.shard_images >= 1,
            f"shard-images must be at least 1; got {self.shard_images}",
        )
        _require(0 <= self.seed < 2**63, f"seed must be 0 to 2^63-1; got {self.seed}")
        _require(
            self.limit is None or self.limit >= 1, f"limit must be at least 1; got {self.limit}"
        )

    def to_json(self) -> dict[str, Any]:
        """The spec as flat JSON values; image fields are prefixed with ``image.``."""
        fields = asdict(self)
        image = fields.pop("image")
        if self.image.shape == "adm":
            image["filter"] = None
        return {**{f"image.{name}": value for name, value in image.items()}, **fields}


def digest_of(value: object) -> str:
    """SHA-256 (hex) of a JSON value in canonical form."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()
