"""The arithmetic of a run: which number types its operations use, and whether they repeat."""

from __future__ import annotations

import os

import torch

from train.config import Precision
from train.errors import ConfigError

AUTOCAST_TYPES: dict[str, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}
CUBLAS_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


def resolve_precision(precision: Precision, *, on_gpu: bool) -> Precision:
    """Choose the arithmetic on a device for ``auto``: tf32 on a GPU, float32 on a CPU.

    Raises:
        ConfigError: the CPU can only emulate it (bfloat16 would be 25 times slower).
    """
    if precision == "auto":
        return "tf32" if on_gpu else "float32"
    if on_gpu or precision == "float32":
        return precision
    if precision == "tf32":
        raise ConfigError("--precision tf32 needs a GPU: use --precision float32 on a CPU")
    supported = {
        "bf16": torch.ops.mkldnn._is_mkldnn_bf16_supported,
        "fp16": torch.ops.mkldnn._is_mkldnn_fp16_supported,
    }
    if not supported[precision]():
        raise ConfigError(
            f"--precision {precision}: this CPU has no instructions for it and would be 25 times "
            "slower than with float32; use --precision float32"
        )
    return precision


def use_precision(precision: Precision, *, deterministic: bool = False) -> None:
    """Set torch's switches in this process, before the first operation on a GPU.

    ``float32`` turns TF32 off everywhere; all others turn it on for convolutions and matrix
    products of float32. ``auto``, which only old checkpoints have, keeps torch's defaults.
    ``deterministic`` takes only operations that give the same bits in every run; otherwise cuDNN
    tries its algorithms once for each shape and takes the fastest.
    """
    if precision != "auto":
        torch.backends.cuda.matmul.allow_tf32 = precision != "float32"
        torch.backends.cudnn.allow_tf32 = precision != "float32"
    torch.backends.cudnn.benchmark = not deterministic
    if deterministic:
        os.environ.setdefault(CUBLAS_WORKSPACE, ":4096:8")  # cuBLAS reads it when it starts
        torch.use_deterministic_algorithms(True)
        filling = torch.utils.deterministic  # which finds faults in torch and costs time
        filling.fill_uninitialized_memory = False  # type: ignore[attr-defined]
