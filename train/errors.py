"""Every error that the training raises on purpose; codes are those of ``imgprep.errors``.

::

    ImgprepError
    ├── UsageError                   2  (imgprep's)
    │   └── ConfigError              2  a setting is wrong, or two do not fit together
    └── TrainError                   1  something the user can act on
        ├── DataError                1  the dataset cannot be trained on
        ├── CheckpointError          1  a checkpoint is malformed or belongs to something else
        ├── DivergedError            1  the loss is no longer a number
        └── StoppedError             1  SIGTERM or Ctrl-C; saved, run again to go on

A message says what is wrong, where, and what to do about it.
"""

from __future__ import annotations

from imgprep.errors import ImgprepError, UsageError


class ConfigError(UsageError):
    """A setting is wrong, or two settings do not fit together."""


class TrainError(ImgprepError):
    """The training cannot go on."""


class DataError(TrainError):
    """The dataset cannot be trained on."""


class CheckpointError(TrainError):
    """A checkpoint is malformed, of another version, or belongs to another run."""


class DivergedError(TrainError):
    """The loss is no longer a number."""


class StoppedError(TrainError):
    """SIGTERM or Ctrl-C: the state is saved, and the same command goes on."""
