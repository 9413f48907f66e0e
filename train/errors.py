"""Every error that the training raises on purpose; codes are those of ``imgprep.errors``.

::

    ImgprepError
    ├── UsageError                   2  (imgprep's)
    │   └── ConfigError              2  a setting is wrong, or two contradict each other
    └── TrainError                   1  something the user can act on
        ├── DataError                1  the dataset cannot be trained on
        ├── CheckpointError          1  a checkpoint is malformed or belongs to another run
        ├── DivergedError            1  the loss is no longer a number
        ├── PeerLostError            1  another process of the run has ended
        └── RunStoppedError          1  SIGTERM or Ctrl-C; saved, the same command resumes

A message says what is wrong, where, and what to do about it.
"""

from __future__ import annotations

from imgprep.errors import ImgprepError, UsageError


class ConfigError(UsageError):
    """A setting is wrong, or two settings contradict each other."""


class TrainError(ImgprepError):
    """The training cannot continue."""


class DataError(TrainError):
    """The dataset cannot be trained on."""


class CheckpointError(TrainError):
    """A checkpoint is malformed, of another version, or belongs to another run."""


class DivergedError(TrainError):
    """The loss is no longer a number."""


class PeerLostError(TrainError):
    """Another process of the run has ended."""


class RunStoppedError(TrainError):
    """SIGTERM or Ctrl-C: the state is saved, and the same command resumes."""
