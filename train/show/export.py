"""Export the network of a checkpoint alone, as a plain state dict or as ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from imgprep.errors import DestinationError
from imgprep.storage.atomic import write_bytes
from train.errors import ConfigError

if TYPE_CHECKING:
    from train.saved.checkpoint import Checkpoint

FORMATS = ("pt", "onnx", "safetensors")


def with_format(out: Path, kind: str | None) -> tuple[Path, str]:
    """Return the file to write and its format: ``kind``, or what the suffix of ``out`` says.

    Raises:
        ConfigError: the suffix names no format, or another one than ``kind``.
    """
    suffix = out.suffix[1:]
    if kind is not None and not suffix:
        return out.with_suffix(f".{kind}"), kind
    if suffix not in FORMATS:
        raise ConfigError(
            f"{out}: the name must end in .{', .'.join(FORMATS[:-1])} or .{FORMATS[-1]}"
        )
    if kind not in (None, suffix):
        raise ConfigError(f"{out}: --format {kind} needs a name that ends in .{kind}")
    return out, suffix


def export_checkpoint(checkpoint: Path, out: Path) -> Path:
    """Write the network of ``checkpoint`` to ``out``, which ends in ``.pt`` or ``.onnx``.

    ``.pt``: weights and biases by canonical name (``conv1.weight`` (96, 3, 11, 11) to
    ``fc8.bias``), for ``torch.load(out, weights_only=True)``. ``.onnx``: images, float32
    (n, 3, px, px), RGB 0-255 minus the mean, to logits (n, classes), as at test time. For
    ``.safetensors`` see ``train.show.weights``.

    Raises:
        CheckpointError: the checkpoint is missing or damaged.
        ConfigError: the package onnx is not installed.
        DestinationError: ``out`` cannot be written.
    """
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
