"""All settings of a run, as frozen values; presets fill them, TOML and flags override them.

Each ``Literal`` below is the only list of a setting's choices: the command line reads it too.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from train.errors import ConfigError

MeanKind = Literal["centre", "aligned", "channel", "none"]
Lighting = Literal["sqrt-eigenvalue", "eigenvalue", "off"]
FloatType = Literal["float32", "float16", "bfloat16"]
Precision = Literal["auto", "float32", "tf32", "bf16", "fp16"]
Architecture = Literal["two-column", "one-gpu", "conv6", "cifar4"]
LeaveOut = Literal["conv3", "conv4", "conv5", "fc6", "fc7"]
Activation = Literal["relu", "tanh", "sigmoid", "leaky-relu"]
FirstLayer = Literal["conv-relu-lrn-pool", "conv-lrn-pool-relu"]
DropoutKind = Literal["vanilla", "inverted"]
ScheduleKind = Literal["plateau", "steps", "dexp", "constant"]
Parallel = Literal["auto", "none", "data", "columns"]
Device = Literal["auto", "cpu", "cuda"]
CropKind = Literal["random", "resized", "centre"]
MemoryFormat = Literal["channels-last", "channels-first"]
CACHE_GIB = 100.0
"""Default limit of the shard cache, in GiB."""


def _require(ok: bool, message: str) -> None:
    if not ok:
        raise ConfigError(message)


def _one_of(name: str, value: object, kind: Any) -> None:
    choices = get_args(kind)
    _require(value in choices, f"{name} must be one of {', '.join(choices)}; got {value!r}")


def _at_least(settings: object, least: float, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        _require(value is None or value >= least, f"{name} must be at least {least}; got {value}")


def _require_range(name: str, values: tuple[float, ...], most: float) -> None:
    fits = len(values) == 2 and 0 < values[0] <= values[1] <= most
    _require(
        fits,
        f"{name} must be two numbers in increasing order, above 0 and at most {most:g}; "
        f"got {values}",
    )


def _require_levels(name: str, values: tuple[float, ...] | None, least: float) -> None:
    fits = values is None or (len(values) == 3 and all(least <= v <= 255 for v in values))
    _require(fits, f"{name} must be three numbers from {least:g} to 255 (levels); got {values}")


@dataclass(frozen=True, kw_only=True, slots=True)
class InputConfig:
    """How a record becomes what the network sees."""

    crop_px: int = 224
    crop: CropKind = "random"
    """``random``: a square of ``crop_px`` at a random place (the paper); ``resized``: a random part
    of the record, resized to ``crop_px`` (the random-resized-crop of later practice, with the
    draws of torchvision's ``RandomResizedCrop``); ``centre``: the middle, as in evaluation."""
    crop_area: tuple[float, ...] = (0.08, 1.0)
    """``resized``: the least and greatest area of the part, as a fraction of the record."""
    crop_ratio: tuple[float, ...] = (3 / 4, 4 / 3)
    """``resized``: its least and greatest width, as a fraction of its height."""
    mean: MeanKind = "centre"
    """What is subtracted: the central window of the mean image for every crop and flip (as in the
    2012 source), the window under the crop (``aligned``), one value per channel, or nothing."""
    mean_rgb: tuple[float, ...] | None = None
    """The values of ``channel``, in levels (0-255); None: the means of the training set."""
    sd_rgb: tuple[float, ...] | None = None
    """Each channel is divided by its value, in levels; None: it is not."""
    flip: bool = True
    crop_chunk: int = 1
    """Consecutive images that share a crop position and a flip: 1, or 32 in the 2012 source."""
    lighting: Lighting = "eigenvalue"
    """Multiplier of the lighting noise: square root of the eigenvalue on 0-255 (source), or the
    eigenvalue on 0-1, scaled back by 255 (the paper's words)."""
    lighting_sd: float = 0.1
    lighting_divide: bool = False
    """Divide the image by ``1 + lighting_sd`` while the noise is on (source)."""
    lighting_stop_epoch: int | None = None
    """First epoch without lighting noise, counted from 0; None: the noise never stops."""
    vertical_flip: bool = False
    scale_jitter: float = 0.0
    """Each image is scaled by a factor drawn from 1 - this to 1 + this."""
    translate_px: int = 0
    """Crops may reach up to this many pixels outside the record, where they show the mean."""
    gaussian_sd: float = 0.0
    """Standard deviation of the independent noise added to every pixel, in levels."""
    shuffle: bool = True
    """A new order each epoch; off: the order of the shards in every epoch (source)."""
    window_shards: int = 16
    """Shards whose records are mixed with one another in an epoch."""
    dtype: FloatType = "float32"
    memory_format: MemoryFormat = "channels-last"
    """The order of the images in memory; their shape is (n, 3, crop, crop) in both."""
    threads: int | None = None
    """Decoding threads; None: as many as the processors that this process may use, and at most 8
    beside a GPU."""
    hw_decoder_load: float | None = None
    """Share of the JPEG images, 0 to 1, that a GPU's hardware decoder takes, if it has one; None:
    DALI's own choice. Without a GPU it has no effect."""
    cache_folder: str | None = None
    """Where shards of a dataset at a URL are kept; None: ``$IMGPREP_CACHE``, or ``imgprep`` in the
    user's cache folder."""
    cache_gib: float = CACHE_GIB
    """Limit of that folder in GiB; the free space of the disk limits it too."""

    def __post_init__(self) -> None:
        _one_of("mean", self.mean, MeanKind)
        _one_of("lighting", self.lighting, Lighting)
        _one_of("dtype", self.dtype, FloatType)
        _one_of("crop", self.crop, CropKind)
        _one_of("memory_format", self.memory_format, MemoryFormat)
        _require_range("crop_area", self.crop_area, 1)
        _require_range("crop_ratio", self.crop_ratio, 100)
        _require_levels("mean_rgb", self.mean_rgb, 0)
        _require_levels("sd_rgb", self.sd_rgb, 1)
        _at_least(self, 8, "crop_px")
        _at_least(self, 1, "crop_chunk", "window_shards", "threads")
        _at_least(self, 0, "translate_px", "gaussian_sd")
        load = self.hw_decoder_load
        _require(load is None or 0 <= load <= 1, f"hw_decoder_load must be from 0 to 1; got {load}")
        _require(
            0 <= self.lighting_sd < 10,
            f"lighting_sd must be at least 0 and below 10; got {self.lighting_sd}",
        )
        _require(
            0 <= self.scale_jitter < 1,
            f"scale_jitter must be at least 0 and below 1; got {self.scale_jitter}",
        )
        _require(self.cache_gib > 0, f"cache_gib must be above 0; got {self.cache_gib}")
        _require(
            self.crop == "random" or not (self.scale_jitter or self.translate_px),
            f"input.scale_jitter and input.translate_px need input.crop=random; got {self.crop}",
        )
        _require(
            not (self.crop == "resized" and self.mean == "aligned"),
            "input.mean=aligned cannot be used with input.crop=resized: set input.mean to centre, "
            "channel or none",
        )
        _require(
            self.mean_rgb is None or self.mean == "channel",
            f"mean_rgb needs mean = channel; got {self.mean}",
        )

    def with_cache(self, folder: str | None, gib: float | None) -> InputConfig:
        """Return these settings with another cache; None means the default, because the cache
        that a run used may be on another machine."""
        return replace(self, cache_folder=folder, cache_gib=CACHE_GIB if gib is None else gib)

    def without_augmentation(self) -> InputConfig:
        """Return these settings with everything random off, as evaluation needs them."""
        return replace(
            self,
            crop="centre",
            flip=False,
            vertical_flip=False,
            scale_jitter=0.0,
            translate_px=0,
            gaussian_sd=0.0,
            lighting="off",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class NetConfig:
    """The network. Defaults follow the paper's text; train/README.md has a table of presets."""

    architecture: Architecture = "two-column"
    """``one-gpu`` is the author's one-GPU net (half the filters in conv1-4, paper 3.2);
    ``conv6`` has a sixth convolution after the last pooling layer (paper 6.1, for pre-training).
    ``cifar4`` is the four-layer net for 32-pixel images (paper, figure 1): it has no dropout, no
    spatial norm and no initial biases, and the order of its first layer is fixed."""
    activation: Activation = "relu"
    leave_out: LeaveOut | None = None
    """Middle layer that is left out (paper 7); the next layer reads its input. Without conv3 the
    columns meet at conv4."""
    first_layer: FirstLayer = "conv-relu-lrn-pool"
    pool_size: int = 3
    """Side of the windows of max pooling, pixels."""
    pool_stride: int = 2
    """Distance between the windows; as long as ``pool_size``, they do not overlap (paper 3.4)."""
    lrn: bool = True
    lrn_size: int = 5
    lrn_k: float = 2.0
    lrn_alpha: float = 1e-4
    lrn_beta: float = 0.75
    lrn_alpha_divided: bool = False
    """Divide alpha by ``lrn_size`` (source, torch and Caffe), or not (the paper's formula)."""
    spatial_norm: bool = False
    """The 5x5 response norm within each map after the second LRN: in the source, not the paper."""
    init_sd: float = 0.01
    init_sd_conv345: float = 0.01
    """0.03 in the source, where the paper says 0.01 in every layer."""
    init_bias: float = 1.0
    """Initial bias of conv2, conv4, conv5, fc6, fc7; the biases of the other layers start at 0."""
    dropout: DropoutKind = "vanilla"
    """``vanilla`` masks in training and multiplies by ``dropout_keep`` at test (paper 4.2);
    ``inverted`` divides by it in training (torch)."""
    dropout_keep: float = 0.5
    """Probability that a unit of fc6 or fc7 is kept; 1 turns dropout off."""
    classes: int | None = None
    """None: as many as the dataset has."""
    width_divisor: int = 1
    """Every width except the classes is divided by this: small nets for trials on slow machines."""

    @property
    def columns(self) -> int:
        """Columns of the net, which two devices can share: 2 or 1."""
        return 2 if self.architecture in ("two-column", "conv6") else 1

    def __post_init__(self) -> None:
        _one_of("architecture", self.architecture, Architecture)
        _one_of("activation", self.activation, Activation)
        _one_of("first_layer", self.first_layer, FirstLayer)
        if self.leave_out is not None:
            _one_of("leave_out", self.leave_out, LeaveOut)
        _require(
            self.leave_out is None or self.architecture != "cifar4",
            f"leave_out must be none for cifar4, which has no middle layers; got {self.leave_out}",
        )
        _require(2 <= self.pool_size <= 8, f"pool_size must be from 2 to 8; got {self.pool_size}")
        _require(
            1 <= self.pool_stride <= self.pool_size,
            f"pool_stride must be from 1 to pool_size, which is {self.pool_size}; got "
            f"{self.pool_stride}",
        )
        _one_of("dropout", self.dropout, DropoutKind)
        _at_least(self, 2, "classes")
        _require(
            0 < self.dropout_keep <= 1,
            f"dropout_keep must be above 0 and at most 1; got {self.dropout_keep}",
        )
        _require(
            self.lrn_size % 2 == 1 and 1 <= self.lrn_size <= 65,
            f"lrn_size must be odd and from 1 to 65; got {self.lrn_size}",
        )
        _require(
            self.width_divisor in (1, 2, 4, 8, 16),
            f"width_divisor must be one of 1, 2, 4, 8, 16; got {self.width_divisor}",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """The update rule and its schedule. Epochs are counted from 0."""

    lr: float = 0.01
    lr_bias_multiplier: float = 1.0
    """The 2012 source uses 2."""
    momentum: float = 0.9
    weight_decay: float = 0.0005
    decay_biases: bool = True
    """The 2012 source turns this off."""
    lars: float = 0.0
    """Trust coefficient of layer-wise adaptive rates (LARS), for very large batches; 0 is off."""
    schedule: ScheduleKind = "plateau"
    lr_factor: float = 0.1
    """Factor of a drop."""
    lr_drops: int = 3
    """Drops after which a plateau schedule stops."""
    plateau_epochs: int = 5
    """Epochs without a better validation error before a drop."""
    plateau_min_gain: float = 0.001
    """A smaller gain in top-1 error (a fraction) does not count."""
    step_epochs: tuple[int, ...] = ()
    """``steps``: epochs that begin with a drop."""
    bias_drops: int | None = None
    """How many drops (``plateau``, ``steps``) the biases' rate follows; None: all of them."""
    dexp_target_factor: float = 250.0
    dexp_steps: int = 4
    """``dexp``: the author's later schedule: equal steps down to ``lr / target_factor``."""
    conv1_slow_epoch: int | None = None
    """First epoch in which conv1 learns at a tenth of the rate (source); None: never."""
    conv1_freeze_epoch: int | None = None
    """First epoch in which conv1 no longer learns (source); None: never."""
    batch_images: int = 128
    """Images of one update, over all processes."""
    accumulate: int = 1
    """Parts in which each process computes its share of a batch."""
    epochs: int = 90
    schedule_epochs: int | None = None
    """Epochs that ``dexp`` is spread over; None: ``epochs``. A run that is resumed with more epochs
    keeps the length that its schedule was made for."""

    def __post_init__(self) -> None:
        if self.schedule_epochs is None:
            object.__setattr__(self, "schedule_epochs", self.epochs)
        _one_of("schedule", self.schedule, ScheduleKind)
        _at_least(self, 0, "lr", "weight_decay", "lars", "lr_drops", "bias_drops")
        _at_least(self, 1, "batch_images", "accumulate", "epochs", "schedule_epochs")
        _at_least(self, 1, "plateau_epochs", "dexp_target_factor", "dexp_steps")
        _require(
            0 <= self.momentum < 1, f"momentum must be at least 0 and below 1; got {self.momentum}"
        )
        _require(0 < self.lr_factor < 1, f"lr_factor must be between 0 and 1; got {self.lr_factor}")
        _require(
            list(self.step_epochs) == sorted(set(self.step_epochs)),
            f"step_epochs must be in increasing order; got {list(self.step_epochs)}",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """A whole run. ``preset`` only records where the other values came from."""

    preset: str = "paper"
    input: InputConfig = field(default_factory=InputConfig)
    net: NetConfig = field(default_factory=NetConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    warm_start: str | None = None
    """Checkpoint whose weights a new run begins with, layer by layer where the shapes fit (as the
    author did with nets pre-trained on more classes)."""
    seed: int = 0
    parallel: Parallel = "auto"
    device: Device = "auto"
    precision: Precision = "auto"
    """``float32`` never uses TF32; ``tf32`` uses it for convolutions and matrix products; ``bf16``
    and ``fp16`` compute them in 16 bits, by autocast. ``auto``: tf32 on a GPU, float32 on a CPU."""
    deterministic: bool = False
    """Take only operations that give the same bits in every run; on a CPU all do anyway."""
    cuda_graph: bool = True
    """Record the update once as a CUDA graph and replay it, where that is possible."""
    compile: bool = False
    steps: int | None = None
    """Stop after this many updates; None: after ``optim.epochs``."""
    log_every_steps: int = 20
    checkpoint_every_steps: int | None = None
    """None: save at the end of each epoch only."""
    keep_checkpoints: int = 3
    eval_every_epochs: int = 1
    eval_batch_images: int = 64
    chance_warning_steps: int = 200
    """Warn if the loss is still near ln(classes) after this many updates."""

    def __post_init__(self) -> None:
        _one_of("parallel", self.parallel, Parallel)
        _one_of("device", self.device, Device)
        _one_of("precision", self.precision, Precision)
        _require(0 <= self.seed < 2**63, f"seed must be from 0 to 2^63-1; got {self.seed}")
        _at_least(self, 1, "steps", "checkpoint_every_steps", "log_every_steps")
        _at_least(self, 1, "keep_checkpoints", "eval_every_epochs", "eval_batch_images")
        _require(
            not (self.parallel == "columns" and self.net.columns == 1),
            f"the {self.net.architecture} architecture has only one column: use --parallel none or "
            "data",
        )
