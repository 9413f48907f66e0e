"""Small training runs for tests: a narrow AlexNet on small crops of the mini ImageNet."""

from __future__ import annotations

import csv
import os
import sys
from pathlib import Path

import torch
from torch import Tensor

from tests.conftest import REPOSITORY, Ran
from tests.forked import ForkServer

SMALL = ("--device", "cpu", "--config", REPOSITORY / "tools" / "small.toml", "--log-every", 1)
"""Batches of 16, so the 96 training records of the mini set are 6 updates per epoch."""
STEPS_PER_EPOCH = 6
_server = ForkServer(
    "torch", "train.cli", "train.run.fit", "train.show.measure", "train.show.report"
)


def train_command(*arguments: object) -> list[str]:
    """The ``train`` command line for this Python."""
    return [sys.executable, "-m", "train", *map(str, arguments)]


def train(*arguments: object) -> Ran:
    """Run ``train`` in a process of its own."""
    result = _server.run("train", [str(each) for each in arguments], dict(os.environ))
    return Ran(result.returncode, result.stdout, result.stderr)


def fit(dataset: Path, out: Path, *arguments: object) -> Ran:
    """Run a small training that must succeed."""
    ran = train("fit", dataset, "--out", out, *SMALL, *arguments)
    assert ran.code == 0, ran.err
    return ran


def weights(checkpoint: Path) -> dict[str, Tensor]:
    """Weights and velocities of a checkpoint, by name."""
    value = torch.load(checkpoint, weights_only=True)
    return {
        f"{part}.{name}": tensor
        for part in ("model", "velocities")
        for name, tensor in value[part].items()
    }


def rows(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV without its timings."""
    with path.open(newline="") as file:
        return [
            {key: value for key, value in row.items() if not key.endswith(("_s", "_ms", "per_s"))}
            for row in csv.DictReader(file)
        ]
