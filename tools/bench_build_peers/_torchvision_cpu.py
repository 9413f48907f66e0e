# mypy: ignore-errors
"""Allows importing torchvision from PyPI with a CPU build of torch.

Its C++ operators are built for CUDA and do not load there, so that their registration fails at
import. Transforms of Pillow images do not need the operators, so this module skips the
registration. Import it first.
"""

from __future__ import annotations

import sys
from types import ModuleType

import torch

if torch.version.cuda is None:
    sys.modules["torchvision._meta_registrations"] = ModuleType("_meta_registrations")
