"""All settings of a run, as frozen values; presets fill them, TOML and flags override them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from train.errors import ConfigError

MeanKind = Literal["centre", "aligned", "channel", "none"]
Lighting = Literal["sqrt-eigenvalue", "eigenvalue", "off"]
FloatType = Literal["float32", "float16", "bfloat16"]
Layout = Literal["channels-last", "nchw"]
Architecture = Literal["two-column", "one-gpu", "conv6"]
Activation = Literal["relu", "tanh", "sigmoid", "leaky-relu"]
FirstLayer = Literal["conv-relu-lrn-pool", "conv-lrn-pool-relu"]
DropoutKind = Literal["vanilla", "inverted"]
ScheduleKind = Literal["plateau", "steps", "dexp", "constant"]
Parallel = Literal["auto", "none", "data", "columns"]
Device = Literal["auto", "cpu", "cuda"]
CACHE_GIB = 100.0
"""Default size of the cache of shards, at most."""


def _require(ok: bool, message: str) -> None:
    if not ok:
        raise ConfigError(message)


def _one_of(name: str, value: object, kind: Any) -> None:
    choices = get_args(kind)
    _require(value in choices, f"{name} {value!r} is none of {', '.join(map(str, choices))}")


@dataclass(frozen=True, kw_only=True, slots=True)
class InputConfig:
    """How a record becomes what the network sees."""

    crop_px: int = 224
    mean: MeanKind = "centre"
    """What is subtracted: the central window of the mean image for every crop and flip (as the
    2012 source does), the window under the crop (``aligned``), one colour, or nothing."""
    flip: bool = True
    crop_chunk: int = 1
    """Consecutive images that share a crop position and a flip: 1, or 32 in the 2012 source."""
    lighting: Lighting = "eigenvalue"
    """Multiplier of the colour noise: square root of the eigenvalue on 0-255 (source), or the
    eigenvalue on 0-1, scaled back by 255 (the paper's words)."""
    lighting_sd: float = 0.1
    lighting_divide: bool = False
    """Divide the image by ``1 + lighting_sd`` while the noise is on (source)."""
    lighting_stop_epoch: int | None = None
    """First epoch without colour noise, counted from 0; None never stops it."""
    vertical_flip: bool = False
    scale_jitter: float = 0.0
    """Each image is scaled by a factor drawn from 1 - this to 1 + this."""
    translate_px: int = 0
    """Crop positions may lie up to this many pixels outside the record; there the mean shows."""
    gaussian_sd: float = 0.0
    """Levels of independent noise added to every pixel."""
    shuffle: bool = True
    """A new order each epoch; off, the order of the shards every epoch (source)."""
    window_shards: int = 16
    """Shards whose records are mixed with one another in an epoch."""
    dtype: FloatType = "float32"
    layout: Layout = "channels-last"
    threads: int | None = None
    """Decoding threads; None: the processors that this process may use."""
    cache_folder: str | None = None
    """Where shards of a dataset at a URL are kept; None: ``$IMGPREP_CACHE``, or ``imgprep`` in the
    user's folder of caches."""
    cache_gib: float = CACHE_GIB
    """Size of that folder, at most; never more than the disk has."""

    def __post_init__(self) -> None:
        for name, kind in (
            ("mean", MeanKind),
            ("lighting", Lighting),
            ("dtype", FloatType),
            ("layout", Layout),
        ):
            _one_of(name, getattr(self, name), kind)
        _require(self.crop_px >= 8, f"crop_px must be at least 8, not {self.crop_px}")
        _require(self.crop_chunk >= 1, f"crop_chunk must be at least 1, not {self.crop_chunk}")
        _require(0 <= self.lighting_sd < 10, f"lighting_sd must be 0 to 10: {self.lighting_sd}")
        _require(0 <= self.scale_jitter < 1, f"scale_jitter must be below 1: {self.scale_jitter}")
        _require(self.translate_px >= 0, f"translate_px must not be negative: {self.translate_px}")
        _require(self.gaussian_sd >= 0, f"gaussian_sd must not be negative: {self.gaussian_sd}")
        _require(self.window_shards >= 1, f"window_shards must be 1 or more: {self.window_shards}")
        _require(self.threads is None or self.threads >= 1, f"threads must be 1+: {self.threads}")
        _require(self.cache_gib > 0, f"cache_gib must be above 0, not {self.cache_gib}")

    def with_cache(self, folder: str | None, gib: float | None) -> InputConfig:
        """The same with another cache, or the default: a run's own may be of another machine."""
        return replace(self, cache_folder=folder, cache_gib=CACHE_GIB if gib is None else gib)


@dataclass(frozen=True, kw_only=True, slots=True)
class NetConfig:
    """The network. Defaults are the paper's words; see the table of presets in the README."""

    architecture: Architecture = "two-column"
    """``one-gpu`` is the author's one-GPU net (half the filters in conv1-4, paper 3.2);
    ``conv6`` has a sixth convolution over the last pooling layer (paper 6.1, for pre-training)."""
    activation: Activation = "relu"
    first_layer: FirstLayer = "conv-relu-lrn-pool"
    lrn: bool = True
    lrn_size: int = 5
    lrn_k: float = 2.0
    lrn_alpha: float = 1e-4
    lrn_beta: float = 0.75
    lrn_alpha_divided: bool = False
    """Divide alpha by ``lrn_size`` (source, torch and Caffe), or not (the paper's formula)."""
    spatial_norm: bool = False
    """The 5x5 in-plane response norm after the second LRN: in the source, not in the paper."""
    init_sd: float = 0.01
    init_sd_conv345: float = 0.01
    """0.03 in the source, where the paper says 0.01 in every layer."""
    init_bias: float = 1.0
    """Bias of conv2, conv4, conv5, fc6, fc7; the others start at 0."""
    init: Literal["normal", "he"] = "normal"
    dropout: DropoutKind = "vanilla"
    """``vanilla`` masks in training and multiplies by ``dropout_keep`` at test (paper 4.2);
    ``inverted`` divides by it in training (torch)."""
    dropout_keep: float = 0.5
    classes: int | None = None
    """None: as many as the dataset has."""
    width_divisor: int = 1
    """Every width but the classes is divided by this: small nets for trials on slow machines."""

    def __post_init__(self) -> None:
        for name, kind in (
            ("architecture", Architecture),
            ("activation", Activation),
            ("first_layer", FirstLayer),
            ("dropout", DropoutKind),
        ):
            _one_of(name, getattr(self, name), kind)
        _require(self.init in ("normal", "he"), f"init is normal or he, not {self.init!r}")
        _require(0 < self.dropout_keep <= 1, f"dropout_keep must be in (0, 1]: {self.dropout_keep}")
        _require(
            self.lrn_size % 2 == 1 and 1 <= self.lrn_size <= 65,
            f"lrn_size must be odd, 1 to 65, not {self.lrn_size}",
        )
        _require(
            self.width_divisor in (1, 2, 4, 8, 16),
            f"width_divisor must be 1, 2, 4, 8 or 16, not {self.width_divisor}",
        )
        _require(
            self.classes is None or self.classes >= 2, f"classes must be 2 or more: {self.classes}"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """The update rule and its schedule."""

    lr: float = 0.01
    lr_bias_multiplier: float = 1.0
    """2 in the source."""
    momentum: float = 0.9
    weight_decay: float = 0.0005
    decay_biases: bool = True
    """Off in the source."""
    lars: float = 0.0
    """Trust coefficient of layer-wise adaptive rates, for very large batches; 0 is off."""
    schedule: ScheduleKind = "plateau"
    lr_factor: float = 0.1
    lr_drops: int = 3
    """Drops after which a plateau schedule stops."""
    plateau_epochs: int = 5
    """Epochs without a better validation error before a drop."""
    plateau_min_gain: float = 0.001
    """A smaller gain in top-1 error (a fraction) counts as none."""
    step_epochs: tuple[int, ...] = ()
    """``steps``: epochs, counted from 0, that begin with a drop."""
    bias_drops: int | None = None
    """Drops (``plateau``, ``steps``) that the biases' rate follows; None: all, 1 in the source."""
    dexp_target_factor: float = 250.0
    dexp_steps: int = 4
    """``dexp``: the author's later schedule: equal steps down to ``lr / target_factor``."""
    conv1_slow_epoch: int | None = None
    """First epoch in which conv1 learns at a tenth of the rate (source: 68 of 93); None never."""
    conv1_freeze_epoch: int | None = None
    """First epoch in which conv1 no longer learns (source: 72 of 93); None never."""
    batch_images: int = 128
    """Images of one update, over all processes."""
    accumulate: int = 1
    """Parts in which each process computes its share of a batch."""
    scale_lr_from_batch: int | None = None
    """Multiply ``lr`` by ``batch_images`` / this (linear scaling)."""
    epochs: int = 90

    def __post_init__(self) -> None:
        _one_of("schedule", self.schedule, ScheduleKind)
        _require(self.lr >= 0, f"lr must not be negative: {self.lr}")
        _require(0 <= self.momentum < 1, f"momentum must be in [0, 1): {self.momentum}")
        _require(self.weight_decay >= 0, f"weight_decay must not be negative: {self.weight_decay}")
        _require(self.batch_images >= 1, f"batch_images must be 1 or more: {self.batch_images}")
        _require(self.accumulate >= 1, f"accumulate must be 1 or more: {self.accumulate}")
        _require(self.epochs >= 1, f"epochs must be 1 or more: {self.epochs}")
        _require(self.lr_drops >= 0, f"lr_drops must not be negative: {self.lr_drops}")
        _require(self.plateau_epochs >= 1, f"plateau_epochs must be 1+: {self.plateau_epochs}")
        _require(
            self.bias_drops is None or self.bias_drops >= 0,
            f"bias_drops must not be negative: {self.bias_drops}",
        )
        _require(self.lars >= 0, f"lars must not be negative: {self.lars}")
        _require(
            self.dexp_target_factor >= 1,
            f"dexp_target_factor must be 1 or more: {self.dexp_target_factor}",
        )
        _require(
            self.scale_lr_from_batch is None or self.scale_lr_from_batch >= 1,
            f"scale_lr_from_batch must be 1 or more: {self.scale_lr_from_batch}",
        )
        _require(0 < self.lr_factor < 1, f"lr_factor must be between 0 and 1: {self.lr_factor}")
        _require(self.dexp_steps >= 1, f"dexp_steps must be 1 or more: {self.dexp_steps}")
        _require(
            list(self.step_epochs) == sorted(set(self.step_epochs)),
            f"step_epochs must rise: {self.step_epochs}",
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
    author's nets pre-trained on more classes did)."""
    seed: int = 0
    parallel: Parallel = "auto"
    device: Device = "auto"
    amp: FloatType = "float32"
    """Type of the arithmetic under autocast; float32 turns autocast off."""
    compile: bool = False
    steps: int | None = None
    """Stop after so many updates; None leaves it to ``optim.epochs``."""
    log_every_steps: int = 20
    checkpoint_every_steps: int | None = None
    """None: at the end of each epoch only."""
    keep_checkpoints: int = 3
    eval_every_epochs: int = 1
    eval_batch_images: int = 64
    chance_warning_steps: int = 200
    """Warn if the loss is still near ln(classes) after so many updates."""

    def __post_init__(self) -> None:
        _one_of("parallel", self.parallel, Parallel)
        _one_of("device", self.device, Device)
        _one_of("amp", self.amp, FloatType)
        _require(0 <= self.seed < 2**63, f"seed must be 0 to 2^63-1, not {self.seed}")
        for name in ("steps", "checkpoint_every_steps"):
            value = getattr(self, name)
            _require(value is None or value >= 1, f"{name} must be 1 or more: {value}")
        for name in ("log_every_steps", "keep_checkpoints", "eval_every_epochs"):
            _require(getattr(self, name) >= 1, f"{name} must be 1 or more")
        _require(
            not (self.parallel == "columns" and self.net.architecture == "one-gpu"),
            "the one-gpu architecture has one column: use --parallel none or data",
        )
