"""Export the network of a checkpoint as a plain state dict or as ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from imgprep.errors import DestinationError
from imgprep.storage.atomic import write_bytes
from train.errors import ConfigError

if TYPE_CHECKING:
    from train.saved.checkpoint import Checkpoint

SUFFIXES = (".pt", ".onnx")


def export_checkpoint(checkpoint: Path, out: Path) -> Path:
    """Write the network of ``checkpoint`` to ``out``, in the format of its suffix.

    ``.pt``: weights and biases by canonical name (``conv1.weight`` (96, 3, 11, 11) to
    ``fc8.bias``), for ``torch.load(out, weights_only=True)``. ``.onnx``: images, float32
    (n, 3, px, px), RGB 0-255 minus the mean, to logits (n, classes), as at test time.

    Raises:
        CheckpointError: the checkpoint is missing or damaged.
        ConfigError: the suffix is unknown, or the package onnx is not installed.
        DestinationError: ``out`` cannot be written.
    """
    if out.suffix not in SUFFIXES:
        raise ConfigError(f"{out}: the name must end in {' or '.join(SUFFIXES)}")
    from train.saved.checkpoint import load
    from train.saved.checkpoint_file import write_values

    saved = load(checkpoint)
    if out.suffix == ".pt":
        write_values(out, saved.model)
        return out
    content = _onnx_bytes(saved)
    try:
        write_bytes(out, content)
    except OSError as exc:
        raise DestinationError(f"{out}: cannot write the network: {exc.strerror}") from exc
    return out


def _onnx_bytes(saved: Checkpoint) -> bytes:
    try:
        import onnx as _  # noqa: F401
    except ImportError as exc:
        raise ConfigError(
            "ONNX needs the package onnx: run tools/setup, or pip install 'imgprep[onnx]'"
        ) from exc
    from train.net import check_state, net_layout
    from train.settings import from_json
    from train.show.onnx_graph import onnx_model

    config = from_json(saved.config)
    layout = net_layout(config.net, classes=saved.classes, image_px=config.input.crop_px)
    check_state(saved.model, layout)
    about = {
        "input": "RGB, 0-255, minus the training set's mean; no division",
        "mean": config.input.mean,
        "label_order_sha256": saved.label_order_sha256,
        "dataset_fingerprint": saved.dataset_fingerprint,
        "epochs": str(saved.position.epoch),
    }
    content: bytes = onnx_model(layout, config.net, saved.model, about)
    return content
