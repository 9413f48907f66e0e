"""Runs on GPUs: close to the numbers of the CPU."""

from __future__ import annotations

import math
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training import SMALL, fit, rows, train, train_command, weights
from train.config import NetConfig, OptimConfig, Precision, RunConfig
from train.feed.loader import Batch
from train.net import build_net
from train.optim.schedule import Rates
from train.optim.sgd import Sgd
from train.run.arithmetic import use_precision
from train.run.step import Stepper
from train.world import World

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


ON_ONE_GPU = ("--device", "cuda", "--parallel", "none", "--deterministic")


def test_a_cuda_graph_changes_no_bit(built: Path, tmp_path: Path) -> None:
    """Over two epochs; the rate falls in between."""
    falling = ("--epochs", 2, "--schedule", "steps", "--set", "optim.step_epochs=[1]")
    for name in ("true", "false"):
        fit(built, tmp_path / name, *ON_ONE_GPU, *falling, "--set", f"cuda_graph={name}")
    ours, theirs = (weights(tmp_path / name / "last.pt") for name in ("true", "false"))
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []
    assert rows(tmp_path / "true" / "steps.csv") == rows(tmp_path / "false" / "steps.csv")


def test_a_deterministic_run_that_is_killed_and_resumed_ends_in_the_same_bits(
    built: Path, tmp_path: Path
) -> None:
    fit(built, tmp_path / "whole", *ON_ONE_GPU, "--steps", 15)
    out = tmp_path / "run"
    options = (*ON_ONE_GPU, "--steps", 15, "--checkpoint-every", 2)
    for updates in (3, 5):
        command = train_command("fit", built, "--out", out, *SMALL, *options)
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        lines = (line for line in process.stderr if "img/s" in line)
        for _ in range(updates):
            next(lines, None)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    fit(built, out, *options)
    ours, theirs = weights(out / "last.pt"), weights(tmp_path / "whole" / "last.pt")
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []
    assert rows(out / "steps.csv") == rows(tmp_path / "whole" / "steps.csv")


@pytest.mark.parametrize("columns", [False, True], ids=["grouped", "columns"])
@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
def test_a_graph_of_any_net_and_precision_gives_the_sums_of_the_queued_update(
    columns: bool, precision: Precision
) -> None:
    """Both columns are on one GPU. The first replays come after a change of rate, too."""
    device = torch.device("cuda", 0)
    use_precision(precision, deterministic=True)
    config = RunConfig(
        net=NetConfig(width_divisor=8, init_sd=0.03, init_sd_conv345=0.1),
        optim=OptimConfig(batch_images=16),
        precision=precision,
    )
    found = []
    for graph in (True, False):
        chosen = replace(config, cuda_graph=graph)
        devices = [device] * (2 if columns else 1)
        net = build_net(chosen.net, classes=9, devices=devices, columns=columns, seed=0)
        stepper = Stepper(net, Sgd(net, chosen.optim), chosen, World())
        sums = []
        for number in range(12):
            rates = Rates(0.01, 0.02) if number < 7 else Rates(0.001, 0.02)
            images, labels = random_images(number, device)
            given = Batch(images, labels, np.arange(16), 0, 16)
            sums.append(stepper(given, rates, global_step=number).sums.clone())
        found.append((torch.stack(sums), net.canonical_state()))
    assert torch.equal(found[0][0], found[1][0])
    assert all(torch.equal(found[0][1][name], found[1][1][name]) for name in found[0][1])


def test_a_replayed_update_makes_no_synchronising_call() -> None:
    device = torch.device("cuda", 0)
    config = RunConfig(net=NetConfig(width_divisor=8), optim=OptimConfig(batch_images=16))
    net = build_net(config.net, classes=9, devices=[device], columns=False, seed=0)
    stepper = Stepper(net, Sgd(net, config.optim), config, World())
    images, labels = random_images(0, device)
    given = Batch(images, labels, np.arange(16), 0, 16)
    for number in range(4):
        stepper(given, Rates(0.01, 0.02), global_step=number)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for number in range(4, 12):
            stepper(given, Rates(0.01, 0.02), global_step=number)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def random_images(seed: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    images = 50 * torch.randn((16, 3, 224, 224), generator=draw)
    labels = torch.randint(9, (16,), generator=draw)
    return images.to(device).contiguous(memory_format=torch.channels_last), labels.to(device)
