"""What is exported is the network: the same weights, and for ONNX the same logits."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from imgprep.errors import DestinationError
from tests.checkpoints import make_checkpoint
from train.config import InputConfig, NetConfig, RunConfig
from train.errors import CheckpointError, ConfigError
from train.net import Net, build_net
from train.saved import checkpoint
from train.show.export import export_checkpoint, with_format

CROP_PX = 96


def saved_net(folder: Path, **settings: Any) -> tuple[Net, Path]:
    """A narrow net with weights large enough for every term to show, and its checkpoint."""
    config = RunConfig(
        net=replace(NetConfig(width_divisor=16, init_sd=0.04, init_sd_conv345=0.12), **settings),
        input=InputConfig(crop_px=CROP_PX),
    )
    devices = (torch.device("cpu"),)
    net = build_net(config.net, classes=5, devices=devices, columns=False, seed=2, image_px=CROP_PX)
    state = net.canonical_state()
    path = checkpoint.save(
        folder, make_checkpoint(config, model=state, velocities=state, classes=5), keep=1
    )
    return net, path


def test_pt_is_a_plain_state_dict_that_a_net_loads(tmp_path: Path) -> None:
    net, path = saved_net(tmp_path)
    out = export_checkpoint(path, tmp_path / "net.pt")
    state = torch.load(out, weights_only=True)
    expected = net.canonical_state()
    assert list(state) == list(expected)
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    net.load_canonical_state(state)


VARIANTS: list[dict[str, Any]] = [
    {},
    {"lrn_alpha_divided": True, "first_layer": "conv-lrn-pool-relu", "spatial_norm": True},
    {"architecture": "one-gpu", "activation": "tanh", "dropout": "inverted"},
    {"architecture": "conv6", "activation": "leaky-relu", "lrn": False},
    {"pool_size": 2, "leave_out": "conv3"},
    {"leave_out": "fc6", "dropout_keep": 1.0},
    {"architecture": "cifar4"},
    {"architecture": "cifar4", "lrn": False, "pool_size": 2, "activation": "sigmoid"},
    {"activation": "sigmoid", "lrn_size": 3, "lrn_k": 1.0, "dropout_keep": 0.25},
]


def run_onnx(path: Path, images: torch.Tensor) -> tuple[torch.Tensor, dict[str, str]]:
    """Logits by ONNX's own reference, and the metadata.

    Its LRN (onnx 1.23) sums over as many channels as there are images: ours follows the standard.
    """
    import onnx
    from onnx.reference import ReferenceEvaluator
    from onnx.reference.op_run import OpRun

    class LRN(OpRun):
        op_domain = ""

        def _run(self, x: Any, alpha: float, beta: float, bias: float, size: int) -> tuple[Any]:
            pad = np.pad(x**2, ((0, 0), (size // 2, size // 2), (0, 0), (0, 0)))
            sums = sum(pad[:, k : k + x.shape[1]] for k in range(size))
            return ((x / (bias + alpha / size * sums) ** beta).astype(x.dtype),)

    model = onnx.load(path)
    with np.errstate(over="ignore", invalid="ignore"):  # its sigmoid of large values
        (found,) = ReferenceEvaluator(model, new_ops=[LRN]).run(None, {"images": images.numpy()})
    return torch.from_numpy(found), {each.key: each.value for each in model.metadata_props}


def run_runtime(path: Path, images: torch.Tensor) -> torch.Tensor:
    """Logits by ONNX Runtime, which people deploy with."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"images": images.numpy()})
    return torch.from_numpy(found)


@pytest.mark.parametrize("settings", VARIANTS, ids=lambda each: "-".join(map(str, each)) or "paper")
def test_onnx_gives_the_logits_of_the_net(settings: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="the package onnx is not installed")
    net, path = saved_net(tmp_path, **settings)
    out = export_checkpoint(path, tmp_path / "net.onnx")
    images = torch.randn(2, 3, CROP_PX, CROP_PX, generator=torch.Generator().manual_seed(1)) * 60
    with torch.no_grad():
        expected = net(images, None)
    found, about = run_onnx(out, images)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(run_runtime(out, images), expected, rtol=1e-4, atol=1e-4)
    assert about["label_order_sha256"] == "a" * 64


def test_a_missing_package_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, path = saved_net(tmp_path)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ConfigError, match=r"imgprep\[onnx\]"):
        export_checkpoint(path, tmp_path / "net.onnx")
    assert not (tmp_path / "net.onnx").exists()


def test_other_suffixes_missing_files_and_folders_are_sentences(tmp_path: Path) -> None:
    _, path = saved_net(tmp_path)
    with pytest.raises(ConfigError, match=r"\.pt, \.onnx or \.safetensors"):
        with_format(tmp_path / "net.h5", None)
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        export_checkpoint(tmp_path / "none.pt", tmp_path / "net.pt")
    for name in ("net.pt", "net.onnx"):
        with pytest.raises(DestinationError, match="cannot write"):
            export_checkpoint(path, tmp_path / "none" / name)
