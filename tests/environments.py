"""Environments beside ``.venv``, for packages that must not be installed into it."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@cache
def readers_python() -> Path:
    """The Python that has torchvision, Lightning, accelerate, datasets and timm on top of ours.

    The first call on a machine takes half a minute: it makes the environment.
    """
    made = subprocess.run(
        [ROOT / "tools" / "setup_readers"], capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stdout + made.stderr
    return ROOT / ".readers" / "bin" / "python"
