"""Runs on GPUs: close to the numbers of the CPU."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from tests.training import fit, rows, train

GPUS = torch.cuda.device_count() if torch.cuda.is_available() else 0
STEPS = 4

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(GPUS < 1, reason="no GPU is visible to torch on this machine"),
]


@pytest.fixture(scope="module")
def on_cpu(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cpu") / "run"
    fit(built, out, "--steps", STEPS, "--set", "net.dropout_keep=1.0")
    return out


@pytest.mark.parametrize(
    "how",
    [
        ("--parallel", "none"),
        pytest.param(
            ("--parallel", "columns"),
            marks=pytest.mark.skipif(GPUS < 2, reason="needs two GPUs"),
        ),
        pytest.param(
            ("--parallel", "data", "--processes", "2"),
            marks=pytest.mark.skipif(GPUS < 2, reason="needs two GPUs"),
        ),
    ],
    ids=lambda how: " ".join(how),
)
def test_gpu_losses_match_the_cpu(
    built: Path, on_cpu: Path, tmp_path: Path, how: tuple[str, ...]
) -> None:
    """Without dropout, whose masks differ by device type. JPEG decoders differ slightly too."""
    out = tmp_path / "run"
    fit(built, out, "--steps", STEPS, "--set", "net.dropout_keep=1.0", "--device", "cuda", *how)
    for one, other in zip(rows(out / "steps.csv"), rows(on_cpu / "steps.csv"), strict=True):
        assert math.isclose(float(one["loss"]), float(other["loss"]), rel_tol=0.02)


@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16", "fp16"])
def test_every_precision_trains(built: Path, tmp_path: Path, precision: str) -> None:
    out = tmp_path / "run"
    how = ("--device", "cuda", "--parallel", "none", "--precision", precision)
    fit(built, out, "--steps", STEPS, *how)
    assert all(math.isfinite(float(row["loss"])) for row in rows(out / "steps.csv"))


def test_a_gpu_checkpoint_is_evaluated_on_the_cpu(built: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    fit(built, out, "--steps", STEPS, "--device", "cuda", "--parallel", "none")
    for device in ("cpu", "cuda"):
        ran = train("evaluate", out / "last.pt", built, "--device", device, "--json")
        assert ran.json["count"] == 24
