"""Named settings of a whole run: the paper, the author's own two runs, later practice.

The table in train/README.md compares them. A preset needs the length of the run, as the author's
events (lower rates, lighting noise off, conv1 frozen) happen at fixed fractions of it. They become
absolute epochs here, so a run that is resumed with more epochs does not move them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from train.config import InputConfig, NetConfig, OptimConfig, RunConfig
from train.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class AuthorRun:
    """A run in the author's lab notes. His epochs count from 1: what he did at epoch 25 happened
    after 24 whole epochs (convdata.py 12)."""

    epochs: int
    drops: tuple[int, ...]
    """Epochs at which he divided the weights' rate by 10."""
    conv1_slow: int
    """Epoch at which conv1 got a tenth of the rate, and the lighting noise ended."""
    conv1_freeze: int
    bias_drops: int
    """How many of the drops the biases' rate followed."""

    def whole_epochs_before(self, epoch: int, epochs: int) -> int:
        """Return the whole epochs before his ``epoch``, scaled to a run of ``epochs``."""
        return round((epoch - 1) * epochs / self.epochs)


RUN_2012 = AuthorRun(epochs=91, drops=(25, 51, 79), conv1_slow=67, conv1_freeze=72, bias_drops=0)
"""ILSVRC-2012 (layer-params-145.cfg 169-182): 40.66 % top-1, 18.21 % top-5 validation error."""
RUN_2010 = AuthorRun(epochs=93, drops=(23, 51, 78), conv1_slow=68, conv1_freeze=72, bias_drops=1)
"""ILSVRC-2010 (layer-params-145-2010.cfg 166-178): 37.47 % top-1, 17.00 % top-5 test error. The
biases ended at a tenth of their rate; the notes do not say since when, we take the first drop."""


def paper(epochs: int = 90) -> RunConfig:
    """The text of the 2012 paper, literally; where it says nothing, what its source does.

    Weights N(0, 0.01) in every layer make a slow start: little of the signal that depends on the
    image reaches the logits (see train/README.md).
    """
    return RunConfig(
        preset="paper", input=InputConfig(), net=NetConfig(), optim=OptimConfig(epochs=epochs)
    )


def source_2012(epochs: int = RUN_2012.epochs) -> RunConfig:
    """The author's ILSVRC-2012 run (layers-145): 40.66 % top-1, 18.21 % top-5 validation error,
    ten views."""
    return _source("source-2012", RUN_2012, epochs)


def source_2010(epochs: int = RUN_2010.epochs) -> RunConfig:
    """The author's ILSVRC-2010 run (layers-145): 37.47 % top-1, 17.00 % top-5 test error, ten
    views."""
    return _source("source-2010", RUN_2010, epochs)


def modern(epochs: int = 90) -> RunConfig:
    """The same net by later practice: biases of 0.1, with which inverted dropout learns (as Caffe
    found), the mean under the crop, a crop for each image, and the author's own automatic schedule
    (``dexp``)."""
    return RunConfig(
        preset="modern",
        input=InputConfig(mean="aligned", lighting="sqrt-eigenvalue"),
        net=NetConfig(init_bias=0.1, dropout="inverted", lrn_alpha_divided=True),
        optim=OptimConfig(schedule="dexp", decay_biases=False, epochs=epochs),
    )


PRESETS: Mapping[str, Callable[..., RunConfig]] = {
    "paper": paper,
    "source-2012": source_2012,
    "source-2010": source_2010,
    "modern": modern,
}


DEFAULT_PRESET = "source-2012"
"""It starts to learn an order of magnitude sooner than ``paper`` (see train/README.md)."""


def preset(name: str, epochs: int | None = None) -> RunConfig:
    """Return the settings called ``name``, for ``epochs`` epochs (None: the preset's own length).

    Raises:
        ConfigError: the preset does not exist.
    """
    if name not in PRESETS:
        raise ConfigError(f"preset must be one of {', '.join(PRESETS)}; got {name!r}")
    return PRESETS[name]() if epochs is None else PRESETS[name](epochs)


def _source(name: str, run: AuthorRun, epochs: int) -> RunConfig:
    drops = {run.whole_epochs_before(epoch, epochs) for epoch in run.drops}
    conv1_slow_epoch = run.whole_epochs_before(run.conv1_slow, epochs)
    return RunConfig(
        preset=name,
        input=InputConfig(
            crop_chunk=32,
            lighting="sqrt-eigenvalue",
            lighting_divide=True,
            lighting_stop_epoch=conv1_slow_epoch,
            shuffle=False,
        ),
        net=NetConfig(
            first_layer="conv-lrn-pool-relu",
            lrn_alpha_divided=True,
            spatial_norm=True,
            init_sd_conv345=0.03,
        ),
        optim=OptimConfig(
            lr_bias_multiplier=2.0,
            decay_biases=False,
            schedule="steps",
            step_epochs=tuple(sorted(drops - {0})),
            bias_drops=run.bias_drops,
            conv1_slow_epoch=conv1_slow_epoch,
            conv1_freeze_epoch=run.whole_epochs_before(run.conv1_freeze, epochs),
            epochs=epochs,
        ),
    )
