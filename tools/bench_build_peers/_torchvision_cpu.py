# mypy: ignore-errors
"""Lets torchvision from PyPI be imported beside a CPU build of torch.

Its C++ operators are built for CUDA and do not load there, and the import then fails where it
registers them. The transforms of Pillow images need none of them: the registration is left out.
Import this first.
"""

from __future__ import annotations

import sys
from types import ModuleType

import torch

if torch.version.cuda is None:
    sys.modules["torchvision._meta_registrations"] = ModuleType("_meta_registrations")
