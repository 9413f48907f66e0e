"""How the user started the training, so that help and messages suggest commands that work."""

from __future__ import annotations

import os
import sys
from pathlib import Path

COMMAND_VARIABLE = "IMGPREP_TRAIN_COMMAND"
"""Environment variable with the command as typed, set by tools/train and the launcher."""


def command() -> str:
    """Return the command that starts the training, such as ``tools/train`` or ``imgprep-train``."""
    name = Path(sys.argv[0]).name
    started = "python -m train" if name == "__main__.py" else name
    return os.environ.get(COMMAND_VARIABLE) or started


def program_name() -> str:
    """Return the name of this program in its usage and its messages."""
    installed = "imgprep-train"
    return installed if Path(command()).name == installed else "train"
