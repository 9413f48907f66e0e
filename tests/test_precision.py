"""The arithmetic of a run: chosen by device, recorded, and not changed without a word."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.checkpoints import make_checkpoint
from tests.training import SMALL, fit, train
from train.config import OptimConfig, RunConfig
from train.errors import ConfigError
from train.run.arithmetic import resolve_precision
from train.saved.compatible import changed_settings
from train.settings import from_assignments, from_json, resolve, to_toml

SWITCHES = """
import json, sys, torch
from train.run.arithmetic import use_precision
use_precision(sys.argv[1], deterministic=sys.argv[2] == "deterministic")
cuda, cudnn = torch.backends.cuda, torch.backends.cudnn
print(json.dumps([
    cuda.matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark,
    torch.are_deterministic_algorithms_enabled(),
]))
"""


def switches(precision: str, repeats: str) -> list[bool]:
    """Matrix products by TF32, convolutions by TF32, cudnn.benchmark, deterministic algorithms."""
    command = [sys.executable, "-c", SWITCHES, precision, repeats]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    found: list[bool] = json.loads(ran.stdout)
    return found


def test_the_default_is_tf32_on_a_gpu_and_float32_on_a_cpu() -> None:
    assert RunConfig().precision == "auto"
    assert resolve_precision("auto", on_gpu=True) == "tf32"
    assert resolve_precision("auto", on_gpu=False) == "float32"
    for precision in ("float32", "tf32", "bf16", "fp16"):
        assert resolve_precision(precision, on_gpu=True) == precision


def test_arithmetic_that_a_cpu_lacks_is_refused() -> None:
    with pytest.raises(ConfigError, match="tf32 needs a GPU: use --precision float32 on a CPU"):
        resolve_precision("tf32", on_gpu=False)
    if not torch.ops.mkldnn._is_mkldnn_fp16_supported():
        with pytest.raises(ConfigError, match="--precision fp16: this CPU has no instructions"):
            resolve_precision("fp16", on_gpu=False)


@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16", "fp16"])
def test_only_float32_turns_tf32_off_and_deterministic_turns_the_search_off(precision: str) -> None:
    tf32 = precision != "float32"
    assert switches(precision, "fast") == [tf32, tf32, True, False]
    assert switches(precision, "deterministic") == [tf32, tf32, False, True]


@pytest.mark.parametrize(
    ("amp", "precision"), [("float32", "auto"), ("float16", "fp16"), ("bfloat16", "bf16")]
)
def test_the_older_name_is_still_read_everywhere(amp: str, precision: str) -> None:
    assert resolve(None, {"amp": amp}, {}).precision == precision
    assert resolve(None, {}, from_assignments((f"amp={amp}",))).precision == precision
    assert resolve(None, {"precision": "tf32"}, {"amp": amp}).precision == precision
    assert resolve(None, {"amp": "bfloat16"}, {"precision": "fp16"}).precision == "fp16"
    old = {**asdict(RunConfig()), "amp": amp}
    del old["precision"]
    assert from_json(old).precision == precision


def test_a_wrong_older_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="amp must be one of float32, float16, bfloat16; got 7"):
        resolve(None, {}, {"amp": 7})
    with pytest.raises(ConfigError, match="amp is the older name of precision"):
        resolve(None, {}, {"amp": "float16", "precision": "fp16"})


def test_a_checkpoint_of_an_older_run_says_when_its_arithmetic_changes() -> None:
    settings = asdict(RunConfig(optim=OptimConfig(step_epochs=())))
    settings["optim"]["step_epochs"] = []
    for name in ("precision", "deterministic", "cuda_graph"):
        del settings[name]

    def changes(amp: str, precision: Any) -> list[str]:
        saved = replace(make_checkpoint(), config={**settings, "amp": amp})
        return changed_settings(saved, RunConfig(precision=precision))

    assert changes("float32", "float32") == []
    assert changes("bfloat16", "bf16") == []
    assert changes("float32", "tf32") == ["precision: the checkpoint has auto, this run has tf32"]
    assert changes("float16", "float32") == [
        "precision: the checkpoint has fp16, this run has float32"
    ]


def test_a_run_records_its_precision_and_keeps_it(built: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    fit(built, out, "--steps", 1)
    stored = tomllib.loads((out / "config.toml").read_text())
    assert stored["precision"] == "float32"
    config = resolve(None, {**stored, "precision": "tf32"}, {})
    (out / "config.toml").write_text(to_toml(config))  # as if it had begun on a GPU
    ran = train("fit", built, "--out", out, "--device", "cpu", "--steps", 2)
    assert ran.code == 2
    assert "--precision tf32 needs a GPU: use --precision float32 on a CPU" in ran.err
    assert fit(built, out, "--precision", "float32", "--steps", 2).err.count("changed:") == 1


def test_another_precision_on_a_resumed_run_is_logged(built: Path, tmp_path: Path) -> None:
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this CPU has no instructions for bfloat16")
    out = tmp_path / "run"
    fit(built, out, "--steps", 1)
    ran = fit(built, out, "--steps", 2, "--amp", "bfloat16")
    assert "changed: precision: the checkpoint has float32, this run has bf16" in ran.err
    assert "precision" not in fit(built, out, "--steps", 3).err


def test_a_deterministic_run_has_the_bits_of_any_run_on_a_cpu(built: Path, tmp_path: Path) -> None:
    from tests.training import weights

    for name, options in (("plain", ()), ("repeatable", ("--deterministic",))):
        fit(built, tmp_path / name, "--steps", 3, *options)
    ours, theirs = (weights(tmp_path / name / "last.pt") for name in ("plain", "repeatable"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    stored = tomllib.loads((tmp_path / "repeatable" / "config.toml").read_text())
    assert stored["deterministic"] is True
    command = ("fit", built, "--out", tmp_path / "repeatable", *SMALL, "--steps", 4)
    ran = train(*command, "--no-deterministic")
    assert "changed: deterministic: the checkpoint has True, this run has False" in ran.err
