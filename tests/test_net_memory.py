"""The allocator's switch works: the process reuses its memory."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource
import sys
from train.net.memory import keep_pages
import torch

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def use(times):
    for _ in range(times):
        torch.ones(50_000_000)

took = keep_pages() if sys.argv[1] == "keep" else False
use(8)  # the first few may each get another place
before = faults()
use(4)
print(took, faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has the switch")
def test_memory_is_reused() -> None:
    found = {}
    for mode in ("keep", "default"):
        ran = subprocess.run(
            [sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=True
        )
        took, faults = ran.stdout.split()
        assert took == str(mode == "keep")
        found[mode] = int(faults)
    assert found["keep"] < 50 < found["default"]  # pages of 4 x 200 MB, mapped afresh by default
