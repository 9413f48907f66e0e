"""Named settings of a whole run: the paper, the author's own 2012 configuration, later practice.

The table in the README compares them. A preset needs the length of the run, because the author's
events (lower rates, lighting noise off, conv1 frozen) happen at fixed fractions of it. They become
absolute epochs here, so a run that is resumed with more epochs does not move them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from train.config import InputConfig, NetConfig, OptimConfig, RunConfig
from train.errors import ConfigError

AUTHOR_EPOCHS = 93
"""Length of the author's ILSVRC-2010 run (lab notes of layer-params-145-2010)."""


def paper(epochs: int = 90) -> RunConfig:
    """The text of the 2012 paper, literally; where it says nothing, what its source does.

    Weights N(0, 0.01) in every layer make a slow start: little of the signal that depends on the
    image reaches the logits (see the README).
    """
    return RunConfig(
        preset="paper", input=InputConfig(), net=NetConfig(), optim=OptimConfig(epochs=epochs)
    )


def source_2012(epochs: int = AUTHOR_EPOCHS) -> RunConfig:
    """What the author ran (layers-145 and its lab notes): 40.66 % top-1, 18.21 % top-5 error."""
    return RunConfig(
        preset="source-2012",
        input=InputConfig(
            crop_chunk=32,
            lighting="sqrt-eigenvalue",
            lighting_divide=True,
            lighting_stop_epoch=_part(68, epochs),
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
            step_epochs=tuple(sorted({_part(e, epochs) for e in (23, 51, 78)} - {0})),
            bias_drops=1,
            conv1_slow_epoch=_part(68, epochs),
            conv1_freeze_epoch=_part(72, epochs),
            epochs=epochs,
        ),
    )


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
    "modern": modern,
}


def preset(name: str, epochs: int | None = None) -> RunConfig:
    """Return the settings called ``name``, for ``epochs`` epochs (None: the preset's own length).

    Raises:
        ConfigError: the preset does not exist.
    """
    if name not in PRESETS:
        raise ConfigError(f"preset must be one of {', '.join(PRESETS)}; got {name!r}")
    return PRESETS[name]() if epochs is None else PRESETS[name](epochs)


def _part(author_epoch: int, epochs: int) -> int:
    """Return the epoch at the same fraction of the run as ``author_epoch`` of the author's run."""
    return round(author_epoch * epochs / AUTHOR_EPOCHS)
